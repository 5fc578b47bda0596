/* manifest.json of a directory of shipped programs. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "device/pjrt/cache.h"
#include "device/pjrt/internal.h"

#define FORMAT "systolic-programs-1"
#define FILE_NAME "manifest.json"

static const struct { const char *name; size_t at; } texts[] = {
    { "model", offsetof(pjrt_manifest, model) }, { "shape", offsetof(pjrt_manifest, shape) }, { "flags", offsetof(pjrt_manifest, flags) },
    { "target", offsetof(pjrt_manifest, target) }, { "topology", offsetof(pjrt_manifest, topology) },
    { "platform", offsetof(pjrt_manifest, platform) }, { "version", offsetof(pjrt_manifest, version) }, { "compiler", offsetof(pjrt_manifest, compiler) },
};
enum { N_TEXTS = sizeof texts / sizeof *texts };

/* ---- writing: a line for each program, so that diffs and grep are of use ---- */
static void write_program(jw *w, const pjrt_manifest_program *p)
{
    jw_raw(w, "\n");
    jw_obj(w);
    jw_key(w, "key"); jw_str(w, p->key);
    jw_key(w, "name"); jw_str(w, p->name ? p->name : "");
    jw_key(w, "tokens"); jw_i64(w, p->tokens);
    jw_key(w, "seqs"); jw_i64(w, p->seqs);
    jw_key(w, "stats"); pj_stats_write(w, &p->stats);
    jw_end_obj(w);
}

status pjrt_manifest_write(const char *dir, const pjrt_manifest *m)
{
    buf b = {0};
    buf_str(&b, "{\"format\":\"" FORMAT "\"");
    for (int i = 0; i < N_TEXTS; i++) {
        const char *s = *(const char *const *)(const void *)((const char *)m + texts[i].at);
        jw value = jw_to(&b);
        buf_printf(&b, ",\n\"%s\":", texts[i].name);
        jw_str(&value, s ? s : "");
    }
    buf_str(&b, ",\n\"programs\":[");
    for (size_t i = 0; i < m->n_programs; i++) {
        jw value = jw_to(&b);
        buf_str(&b, i ? "," : "");
        write_program(&value, &m->programs[i]);
    }
    buf_str(&b, "\n]}\n");
    status st = buf_status(&b);
    if (st == ST_OK && b.len > PJRT_MANIFEST_BYTES) st = err_set(ST_LIMIT, "%s/" FILE_NAME ": %zu bytes, at most %d are read back", dir, b.len, PJRT_MANIFEST_BYTES);
    if (st == ST_OK) st = pj_file_put(dir, FILE_NAME, b.data, b.len, "", 0);
    buf_free(&b);
    return st;
}

/* ---- reading ---- */
/* A member that must be a string; `where` names its object in messages. */
static status read_text(const jv *obj, const char *where, const char *name, arena *mem, const char **out)
{
    const jv *v = jv_get(obj, name);
    if (!jv_is(v, JV_STR)) return err_set(ST_INVALID, "%s\"%s\": a string is expected, not %s", where, name, v ? jv_kind_name(jv_type(v)) : "nothing");
    const char *s = jv_str(v, "");
    if (jv_len(v) > PJRT_MANIFEST_TEXT) return err_set(ST_LIMIT, "%s\"%s\": %zu bytes, at most %d are read", where, name, jv_len(v), PJRT_MANIFEST_TEXT);
    if (strlen(s) != jv_len(v)) return err_set(ST_INVALID, "%s\"%s\": it has a NUL in it", where, name);
    *out = arena_strdup(mem, s);
    return *out ? ST_OK : err_nomem();
}

static status read_count(const jv *obj, const char *where, const char *name, int64_t *out)
{
    const jv *v = jv_get(obj, name);
    if (!jv_is(v, JV_INT) || jv_i64(v, -1) < 0 || jv_i64(v, -1) > INT32_MAX)
        return err_set(ST_INVALID, "%s\"%s\": a number from 0 to %d is expected", where, name, INT32_MAX);
    *out = jv_i64(v, 0);
    return ST_OK;
}

/* Keys become file names: nothing but digits. */
static bool is_key(const char *s)
{
    return strlen(s) == PJRT_KEY_LEN - 1 && strspn(s, "0123456789abcdef") == PJRT_KEY_LEN - 1;
}

static status read_program(const jv *v, size_t i, arena *mem, pjrt_manifest_program *out)
{
    char where[40];
    const char *key;
    snprintf(where, sizeof where, "programs[%zu] ", i);
    if (!jv_is(v, JV_OBJ)) return err_set(ST_INVALID, "%s: an object is expected, not %s", where, jv_kind_name(jv_type(v)));
    TRY(read_text(v, where, "key", mem, &key));
    if (!is_key(key)) return err_set(ST_INVALID, "%s\"key\": %d hexadecimal digits are expected, not \"%.80s\"", where, PJRT_KEY_LEN - 1, key);
    memcpy(out->key, key, PJRT_KEY_LEN);
    TRY(read_text(v, where, "name", mem, &out->name));
    TRY(read_count(v, where, "tokens", &out->tokens));
    TRY(read_count(v, where, "seqs", &out->seqs));
    pj_stats_read(jv_get(v, "stats"), &out->stats);
    return ST_OK;
}

static status read_all(const jv *v, pjrt_manifest *m)
{
    if (!jv_is(v, JV_OBJ)) return err_set(ST_INVALID, "an object is expected, not %s", jv_kind_name(jv_type(v)));
    if (strcmp(jv_get_str(v, "format", ""), FORMAT) != 0) return err_set(ST_INVALID, "\"format\" is \"%.40s\", " FORMAT " is expected", jv_get_str(v, "format", ""));
    for (int i = 0; i < N_TEXTS; i++) TRY(read_text(v, "", texts[i].name, &m->mem, (const char **)(void *)((char *)m + texts[i].at)));
    const jv *programs = jv_get(v, "programs");
    size_t n = jv_len(programs);
    if (!jv_is(programs, JV_ARR)) return err_set(ST_INVALID, "\"programs\": a list is expected");
    if (n > PJRT_MANIFEST_PROGRAMS) return err_set(ST_LIMIT, "\"programs\": %zu, at most %d are read", n, PJRT_MANIFEST_PROGRAMS);
    m->programs = arena_calloc(&m->mem, n ? n : 1, sizeof *m->programs);
    if (!m->programs) return err_nomem();
    for (size_t i = 0; i < n; i++) TRY(read_program(jv_at(programs, i), i, &m->mem, &m->programs[i]));
    m->n_programs = n;
    return ST_OK;
}

static status read_value(const jv *v, pjrt_manifest *out)
{
    pjrt_manifest m = {0};
    status st = read_all(v, &m);
    if (st == ST_OK) *out = m;
    else pjrt_manifest_free(&m);
    return st;
}

status pjrt_manifest_parse(const char *text, size_t len, pjrt_manifest *out)
{
    if (len > PJRT_MANIFEST_BYTES) return err_set(ST_LIMIT, "%zu bytes, at most %d are read", len, PJRT_MANIFEST_BYTES);
    jv *v;
    TRY(jv_parse(text, len, &v));
    status st = read_value(v, out);
    jv_free(v);
    return st;
}

status pjrt_manifest_read(const char *dir, pjrt_manifest *out)
{
    buf path = {0};
    jv *v = NULL;
    buf_printf(&path, "%s/" FILE_NAME, dir);
    status st = buf_status(&path);
    if (st == ST_OK) st = jv_parse_file(path.data, PJRT_MANIFEST_BYTES, &v);
    if (st == ST_OK) {
        st = read_value(v, out);
        if (st != ST_OK && st != ST_NOMEM) err_wrap(st, "%s", path.data);
    }
    jv_free(v);
    buf_free(&path);
    return st;
}

void pjrt_manifest_free(pjrt_manifest *m)
{
    arena_free(&m->mem);
    *m = (pjrt_manifest){0};
}

/* ---- comparing ---- */
static const char *text(const char *s) { return s ? s : ""; }
static bool differs(const char *there, const char *here) { return here && strcmp(text(there), here) != 0; }

/* Version texts have several lines. */
static const char *one_line(const char *s, char *dst, size_t cap)
{
    size_t n = 0;
    for (; *s && n + 1 < cap; s++) dst[n++] = isspace((unsigned char)*s) ? ' ' : *s;
    dst[n] = 0;
    return dst;
}

/* What to call each side: by the short names if they tell the sides apart (or the sides are the same), else by the long ones. */
static void call(const char *const shorts[2], const char *const longs[2], const char *out[2])
{
    bool differ = differs(longs[0], longs[1]);
    bool brief = *text(shorts[0]) && (!differ || (*text(shorts[1]) && strcmp(shorts[0], shorts[1]) != 0));
    out[0] = text(brief ? shorts[0] : longs[0]);
    out[1] = differ ? text(brief ? shorts[1] : longs[1]) : out[0];
}

static void devices_differ(const pjrt_manifest *m, const pjrt_manifest *here, const char *dir, char *why, size_t cap)
{
    const char *devices[2], *compilers[2];
    char a[300], b[300];
    call((const char *[]){ m->target, here->target }, (const char *[]){ m->topology, here->topology }, devices);
    call((const char *[]){ m->compiler, here->compiler }, (const char *[]){ m->version, here->version }, compilers);
    snprintf(why, cap, "the programs in %s were compiled for %s by %s, this is %s with %s: compiling anew", dir, devices[0], one_line(compilers[0], a, sizeof a),
             devices[1], one_line(compilers[1], b, sizeof b));
}

bool pjrt_manifest_fits(const pjrt_manifest *m, const char *dir, const pjrt_manifest *here, char *why, size_t cap)
{
    why[0] = 0;
    if (differs(m->model, here->model))
        snprintf(why, cap, "the programs in %s were compiled for the model %s, this is %s: compiling anew", dir, text(m->model), here->model);
    else if (differs(m->shape, here->shape))
        snprintf(why, cap, "the programs in %s were compiled for a %s of another shape (%.16s, this is %.16s): compiling anew", dir, text(m->model), text(m->shape), here->shape);
    else if (differs(m->flags, here->flags))
        snprintf(why, cap, "the programs in %s were compiled with the flags \"%s\", here they are \"%s\": compiling anew", dir, text(m->flags), here->flags);
    else if (differs(m->platform, here->platform))
        snprintf(why, cap, "the programs in %s were compiled for the platform %s, this is %s: compiling anew", dir, text(m->platform), here->platform);
    else if (differs(m->topology, here->topology) || differs(m->version, here->version))
        devices_differ(m, here, dir, why, cap);
    return !why[0];
}
