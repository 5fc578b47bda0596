/* The fields of the request bodies, one table for all routes, and their checks: what pydantic does for vLLM, with its
 * conversions ("1" is a fine integer) and its messages. */
#ifndef SYSTOLIC_API_FIELDS_H
#define SYSTOLIC_API_FIELDS_H

#include "api/app.h"

typedef enum body_kind {
    BK_INT, BK_NUM, BK_BOOL, BK_STR, BK_OBJ, BK_ANY, BK_INT_LIST, BK_STR_LIST, BK_STR_OR_LIST, BK_OBJ_LIST, BK_BIAS, BK_PROMPT
} body_kind;

enum { FIELD_COMPLETION = 1, FIELD_CHAT = 2, FIELD_TOKENIZE = 4, FIELD_DETOKENIZE = 8, FIELD_TOKENIZE_CHAT = 16, FIELD_REQUIRED = 64, FIELD_MIN = 128 };

typedef struct body_field { const char *name; body_kind kind; int where; int64_t min; const char *help; } body_field;

const body_field *fields_table(int *n);
/* Checks every known field of `body` for `where`; unknown ones are accepted, null means absent. On failure *e lists up to ten
 * errors as "N validation error(s):" and a line for each. */
status fields_check(const jv *body, int where, api_error *e) FALLIBLE;
/* A single error of that form that a check over several fields found. */
status fields_value_error(api_error *e, const char *param, const char *message) FALLIBLE;

/* Values after fields_check, converted as pydantic converts; `def` for absent and null. */
bool field_has(const jv *body, const char *name);
int64_t field_i64(const jv *body, const char *name, int64_t def);
double field_f64(const jv *body, const char *name, double def);
bool field_bool(const jv *body, const char *name, bool def);
const char *field_str(const jv *body, const char *name, const char *def);
/* One element of a list: the same conversions. */
bool field_to_i64(const jv *v, int64_t *out);

#endif
