/* JSON values (reading, over jansson) and a streaming JSON writer (ours).
 *
 * A `jv` is one JSON value, reference counted, objects in insertion order.
 * Getters accept NULL and wrong kinds and then return the default, so lookups
 * chain without checks: jv_i64(jv_get(jv_get(cfg, "rope"), "theta"), 10000). */
#ifndef SYSTOLIC_BASE_JSON_H
#define SYSTOLIC_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

typedef struct jv jv;
typedef enum jv_kind { JV_MISSING, JV_NULL, JV_BOOL, JV_INT, JV_REAL, JV_STR, JV_ARR, JV_OBJ } jv_kind;

/* Parses exactly one value (any kind) from UTF-8 text. Errors name line and column.
 * Nesting is limited to 256, strings may hold NUL (use the length). Integers beyond
 * int64 are JV_REAL and keep their digits (jv_big); a duplicate key keeps its last value. */
status jv_parse(const char *text, size_t len, jv **out) FALLIBLE;
/* Reads a file of at most max_bytes; errors name the file. */
status jv_parse_file(const char *path, size_t max_bytes, jv **out) FALLIBLE;
jv *jv_ref(const jv *v);        /* one more owner; returns v */
void jv_free(jv *v);            /* one owner less; NULL is fine */

jv_kind jv_type(const jv *v);   /* JV_MISSING for NULL */
static inline bool jv_is(const jv *v, jv_kind k) { return jv_type(v) == k; }
/* "null", "a boolean", "an integer", ... for messages. */
const char *jv_kind_name(jv_kind k);

const jv *jv_get(const jv *obj, const char *key);    /* borrowed; NULL if absent. A JSON null is JV_NULL. */
const jv *jv_at(const jv *arr, size_t i);            /* borrowed; NULL if out of range */
size_t jv_len(const jv *arr_or_obj);                 /* elements; bytes of a string; 0 otherwise */
int64_t jv_i64(const jv *v, int64_t def);            /* JV_INT, or a JV_REAL that is integral */
double jv_f64(const jv *v, double def);              /* JV_INT or JV_REAL */
bool jv_bool(const jv *v, bool def);
const char *jv_big(const jv *v);                     /* "-123..." of an integer beyond int64, else NULL */
const char *jv_str(const jv *v, const char *def);    /* NUL-terminated, borrowed */
static inline int64_t jv_get_i64(const jv *o, const char *k, int64_t def) { return jv_i64(jv_get(o, k), def); }
static inline double jv_get_f64(const jv *o, const char *k, double def) { return jv_f64(jv_get(o, k), def); }
static inline bool jv_get_bool(const jv *o, const char *k, bool def) { return jv_bool(jv_get(o, k), def); }
static inline const char *jv_get_str(const jv *o, const char *k, const char *def) { return jv_str(jv_get(o, k), def); }

/* Object iteration in insertion order: for (jv_iter it = jv_begin(o); jv_next(&it);) use it.key, it.key_len, it.val */
typedef struct jv_iter { const jv *obj; void *pos; bool started; const char *key; size_t key_len; const jv *val; } jv_iter;
jv_iter jv_begin(const jv *obj);
bool jv_next(jv_iter *it);

/* Builders: NULL when out of memory. jv_set and jv_push take ownership of `val`
 * (also on failure) and accept NULL for it (then they fail with ST_NOMEM), so calls nest. */
jv *jv_new_null(void);
jv *jv_new_bool(bool b);
jv *jv_new_i64(int64_t i);
jv *jv_new_f64(double d);
jv *jv_new_str(const char *s, size_t n);  /* must be UTF-8 */
jv *jv_new_arr(void);
jv *jv_new_obj(void);
status jv_set(jv *obj, const char *key, jv *val) FALLIBLE;
void jv_del(jv *obj, const char *key);
status jv_push(jv *arr, jv *val) FALLIBLE;
void jv_pop(jv *arr);                      /* drops the last element, if any */
jv *jv_copy(const jv *v);                 /* deep */

/* ---- writing ---- */
/* Commas and colons are put automatically; strings are escaped, invalid UTF-8
 * becomes U+FFFD. Compact form (no spaces). Zero-initialise with .out set. */
typedef struct jw { buf *out; uint64_t has_items; int depth; bool after_key; } jw;
static inline jw jw_to(buf *out) { return (jw){ .out = out }; }
void jw_obj(jw *w);  void jw_end_obj(jw *w);
void jw_arr(jw *w);  void jw_end_arr(jw *w);
void jw_key(jw *w, const char *key);
void jw_keyn(jw *w, const char *key, size_t n);
void jw_null(jw *w);
void jw_bool(jw *w, bool b);
void jw_i64(jw *w, int64_t i);
void jw_f64(jw *w, double d);                        /* shortest that reads back, as Python's repr; non-finite becomes null */
void jw_str(jw *w, const char *s);                   /* NULL writes null */
void jw_strn(jw *w, const char *s, size_t n);
void jw_value(jw *w, const jv *v);                   /* any jv; NULL writes null */
void jw_raw(jw *w, const char *json);                /* already JSON */
/* A key with its value. */
static inline void jw_put_i64(jw *w, const char *key, int64_t v) { jw_key(w, key); jw_i64(w, v); }
static inline void jw_put_f64(jw *w, const char *key, double v) { jw_key(w, key); jw_f64(w, v); }
static inline void jw_put_str(jw *w, const char *key, const char *v) { jw_key(w, key); jw_str(w, v); }
static inline void jw_put_bool(jw *w, const char *key, bool v) { jw_key(w, key); jw_bool(w, v); }

/* "1.5", "1e-05", "1.0", "inf", "nan": exactly Python's repr(float). Returns length; cap >= 32. */
size_t json_repr_f64(char *dst, size_t cap, double d);

#endif
