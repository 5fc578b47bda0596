#include "device/pjrt/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* ---- named values ---- */
static bool parse_int(const char *s, int64_t *out)
{
    char *end;
    errno = 0;
    long long x = strtoll(s, &end, 10);
    if (end == s || *end || errno || isspace((unsigned char)*s)) return false;
    *out = x;
    return true;
}

/* "2:2:1"; false if it is not two or more integers. */
static bool parse_ints(arena *a, char *s, pjrt_value *v, bool *oom)
{
    size_t n = 1;
    for (const char *p = s; *p; p++) n += *p == ':';
    if (n < 2) return false;
    int64_t *ints = arena_calloc(a, n, sizeof *ints);
    if (!ints) { *oom = true; return false; }
    char *item = s;
    for (size_t i = 0; i < n; i++) {
        char *end = strchr(item, ':');
        if (end) *end = 0;
        bool ok = parse_int(item, &ints[i]);
        if (end) *end = ':';
        if (!ok) return false;
        item = end ? end + 1 : item;
    }
    v->kind = PJRT_INTS;
    v->ints = ints;
    v->n_ints = n;
    return true;
}

static status parse_value(arena *a, char *s, pjrt_value *v)
{
    char *end;
    bool oom = false;
    v->text = s;
    if (!strcmp(s, "true") || !strcmp(s, "false")) {
        v->kind = PJRT_BOOL;
        v->b = *s == 't';
    } else if (parse_int(s, &v->i64)) {
        v->kind = PJRT_INT;
    } else if (!parse_ints(a, s, v, &oom)) {
        if (oom) return err_nomem();
        v->kind = PJRT_TEXT;
        if (isdigit((unsigned char)*s) || *s == '-' || *s == '.') {
            v->real = strtod(s, &end);
            if (!*end && end != s) v->kind = PJRT_REAL;
        }
    }
    return ST_OK;
}

status pjrt_values_parse(const char *text, pjrt_values *out)
{
    pjrt_values r = {0};
    status st = ST_OK;
    if (text && *text) {
        size_t n = 1;
        for (const char *p = text; *p; p++) n += *p == ',';
        char *s = arena_strdup(&r.mem, text);
        r.v = arena_calloc(&r.mem, n, sizeof *r.v);
        if (!s || !r.v) { st = err_nomem(); goto out; }
        for (char *item = s, *next; item; item = next) {
            next = strchr(item, ',');
            if (next) *next++ = 0;
            char *eq = strchr(item, '=');
            if (!eq || eq == item) {
                st = err_set(ST_INVALID, "option \"%.60s\" is not NAME=VALUE (in \"%.120s\")", item, text);
                goto out;
            }
            *eq = 0;
            r.v[r.n].name = item;
            TRY_OUT(parse_value(&r.mem, eq + 1, &r.v[r.n]));
            r.n++;
        }
    }
    *out = r;
out:
    if (st != ST_OK) pjrt_values_free(&r);
    return st;
}

void pjrt_values_free(pjrt_values *v)
{
    arena_free(&v->mem);
    *v = (pjrt_values){0};
}

/* ---- protobuf ---- */
static void put_varint(buf *b, uint64_t v)
{
    for (; v >= 128; v >>= 7) buf_char(b, (char)(v | 128));
    buf_char(b, (char)v);
}
static void put_int(buf *b, unsigned field, int64_t v)
{
    put_varint(b, (uint64_t)field << 3);
    put_varint(b, (uint64_t)v);
}
static void put_bytes(buf *b, unsigned field, const void *data, size_t n)
{
    put_varint(b, (uint64_t)field << 3 | 2);
    put_varint(b, n);
    buf_append(b, data, n);
}
static void put_double(buf *b, unsigned field, double v)
{
    put_varint(b, (uint64_t)field << 3 | 1);
    buf_append(b, &v, sizeof v);            /* little-endian, as are all machines with plugins */
}

/* DeviceAssignmentProto: replicas = 1, computations = 2, for each partition ComputationDevice = 3 { replica ids = 1 }. */
static void put_assignment(buf *ebo, int n_replicas, int n_partitions, const int *ids)
{
    buf da = {0}, device = {0}, packed = {0};
    put_int(&da, 1, n_replicas);
    put_int(&da, 2, n_partitions);
    for (int p = 0; p < n_partitions; p++) {
        buf_clear(&device);
        buf_clear(&packed);
        for (int r = 0; r < n_replicas; r++) {
            int at = r * n_partitions + p;
            put_varint(&packed, (uint64_t)(ids ? ids[at] : at));
        }
        put_bytes(&device, 1, packed.data, packed.len);
        put_bytes(&da, 3, device.data, device.len);
        if (packed.failed || device.failed) da.failed = true;
    }
    put_bytes(ebo, 9, da.data, da.len);
    if (da.failed) ebo->failed = true;
    buf_free(&da);
    buf_free(&device);
    buf_free(&packed);
}

/* Entry of map<string, OptionOverrideProto { string = 1, bool = 2, int64 = 3, double = 4 }>. */
static status put_override(buf *out, const pjrt_value *v)
{
    buf val = {0}, entry = {0};
    status st = ST_OK;
    switch (v->kind) {
    case PJRT_TEXT: put_bytes(&val, 1, v->text, strlen(v->text)); break;
    case PJRT_BOOL: put_int(&val, 2, v->b); break;
    case PJRT_INT: put_int(&val, 3, v->i64); break;
    case PJRT_REAL: put_double(&val, 4, v->real); break;
    case PJRT_INTS: st = err_set(ST_INVALID, "compiler option %s: a list, where a text, a number or a boolean is expected", v->name); break;
    }
    put_bytes(&entry, 1, v->name, strlen(v->name));
    put_bytes(&entry, 2, val.data, val.len);
    put_bytes(out, 7, entry.data, entry.len);
    if (val.failed || entry.failed) out->failed = true;
    buf_free(&val);
    buf_free(&entry);
    return st;
}

status pjrt_options_encode(const pjrt_compile_options *o, buf *out)
{
    static const int levels[] = { 0, 9, 19, 29, 39 };   /* ExecutionOptions.EffortLevel */
    int replicas = o->n_replicas ? o->n_replicas : 1, partitions = o->n_partitions ? o->n_partitions : 1;
    if (replicas < 1 || partitions < 1 || (int64_t)replicas * partitions > 65536)
        return err_set(ST_INVALID, "%d replicas of %d partitions: at least 1 each and at most 65536 devices are expected", replicas, partitions);
    for (int i = 0; o->device_ids && i < replicas * partitions; i++)
        if (o->device_ids[i] < 0) return err_set(ST_INVALID, "device id %d is negative", o->device_ids[i]);
    /* ExecutableBuildOptionsProto: replicas = 4, partitions = 5, use_spmd_partitioning = 6 (required for more than one),
     * device_assignment = 9, use_shardy_partitioner = 19, optimization_level = 24. */
    buf ebo = {0};
    status st = ST_OK;
    put_int(&ebo, 4, replicas);
    put_int(&ebo, 5, partitions);
    if (partitions > 1) put_int(&ebo, 6, 1);
    if (replicas * partitions > 1 || o->device_ids) put_assignment(&ebo, replicas, partitions, o->device_ids);
    if (o->shardy) put_int(&ebo, 19, 1);
    if (o->effort) put_int(&ebo, 24, levels[o->effort]);
    put_bytes(out, 3, ebo.data, ebo.len);               /* CompileOptionsProto.executable_build_options */
    for (size_t i = 0; i < o->n_overrides && st == ST_OK; i++) st = put_override(out, &o->overrides[i]);
    if (ebo.failed) out->failed = true;
    buf_free(&ebo);
    return st == ST_OK ? buf_status(out) : st;
}
