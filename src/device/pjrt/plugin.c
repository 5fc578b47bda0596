/* Loading a plugin, its errors, its table of functions. */
#include "device/pjrt/pjrt.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "device/pjrt/internal.h"

/* ---- errors ---- */
static status status_of(int code)
{
    switch (code) {
    case 1: return ST_CANCELLED;
    case 2:                                         /* what XLA calls a program that it cannot parse */
    case 3: case 9: case 11: return ST_INVALID;     /* argument, precondition, range */
    case 4: case 8: return ST_LIMIT;                /* deadline, resource exhausted: the device's memory */
    case 5: return ST_NOT_FOUND;
    case 7: case 16: return ST_DENIED;
    case 12: return ST_UNSUPPORTED;
    default: return ST_INTERNAL;
    }
}

static const char *code_name(int code)
{
    static const char *const names[] = { "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
        "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
        "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED" };
    return code >= 0 && (size_t)code < sizeof names / sizeof *names ? names[code] : "?";
}

/* One line of at most cap-1 bytes: runs of white space become one space, traces of source locations are cut. */
static void one_line(const char *s, size_t n, char *dst, size_t cap)
{
    const char *cut = memmem(s, n, "=== Source Location", 19);
    if (cut) n = (size_t)(cut - s);
    size_t used = 0;
    for (size_t i = 0; i < n && used + 1 < cap; i++) {
        bool space = isspace((unsigned char)s[i]) || !s[i];
        if (space && (!used || dst[used - 1] == ' ')) continue;
        dst[used++] = space ? ' ' : s[i];
    }
    while (used && dst[used - 1] == ' ') used--;
    dst[used] = 0;
}

void pj_drop(const pj_api *api, pj_error *e)
{
    if (!e) return;
    PJ_ARGS(pj_error_destroy_args, d);
    d.error = e;
    api->error_destroy(&d);
}

status pj_check(const pj_api *api, pj_error *e, const char *fmt, ...)
{
    if (!e) return ST_OK;
    char context[200], text[700];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(context, sizeof context, fmt, ap);
    va_end(ap);
    PJ_ARGS(pj_error_message_args, m);
    m.error = e;
    api->error_message(&m);
    PJ_ARGS(pj_error_code_args, c);
    c.error = e;
    pj_drop(api, api->error_code(&c));
    one_line(m.message ? m.message : "", m.message ? m.message_len : 0, text, sizeof text);
    pj_drop(api, e);
    return err_set(status_of(c.code), "%s: %s (PJRT error %d, %s)", context, *text ? text : "the plugin gives no reason", c.code, code_name(c.code));
}

/* ---- loading ---- */
static void env_default(const char *name, const char *value) { setenv(name, value, 0); }

/* libtpu asks a metadata server at start-up, which hangs where there is none, and holds a lock that keeps a second process
 * out even if it only compiles. */
static void prepare_libtpu(const char *path, bool offline)
{
    const char *name = strrchr(path, '/');
    if (strncmp(name ? name + 1 : path, "libtpu", 6) != 0) return;
    bool here = access("/dev/accel0", F_OK) == 0 || access("/dev/vfio/0", F_OK) == 0;
    if (here && !offline) return;
    env_default("TPU_SKIP_MDS_QUERY", "1");
    env_default("TPU_ACCELERATOR_TYPE", "v6e-1");
    env_default("TPU_WORKER_HOSTNAMES", "localhost");
    env_default("ALLOW_MULTIPLE_LIBTPU_LOAD", "1");
}

static status check_api(const char *path, const pj_api *api)
{
    if (!api) return err_set(ST_INVALID, "%s: GetPjrtApi returns nothing", path);
    if (api->struct_size < offsetof(pj_api, version) + sizeof api->version)
        return err_set(ST_INVALID, "%s: GetPjrtApi returns a table of %zu bytes: not a PJRT plugin", path, api->struct_size);
    if (api->version.major != PJ_API_MAJOR)
        return err_set(ST_UNSUPPORTED, "%s: speaks PJRT API %d.%d, Systolic speaks %d.x", path, api->version.major, api->version.minor, PJ_API_MAJOR);
    if (!PJ_HAS(api, executable_memory))
        return err_set(ST_UNSUPPORTED, "%s: its PJRT API %d.%d is too old (a table of %zu bytes, at least %zu are needed): install a newer plugin", path,
                       api->version.major, api->version.minor, api->struct_size, offsetof(pj_api, executable_memory) + sizeof(void *));
    return ST_OK;
}

enum { READY_CAP = 32 };
static pthread_mutex_t ready_lock = PTHREAD_MUTEX_INITIALIZER;
static const pj_api *ready[READY_CAP];
static int n_ready;

bool pj_any_loaded(void)
{
    pthread_mutex_lock(&ready_lock);
    bool any = n_ready > 0;
    pthread_mutex_unlock(&ready_lock);
    return any;
}

/* A plugin is initialised once per process, however often it is opened. */
static status initialise(const char *path, const pj_api *api)
{
    status st = ST_OK;
    pthread_mutex_lock(&ready_lock);
    for (int i = 0; i < n_ready; i++)
        if (ready[i] == api) goto out;
    if (n_ready == READY_CAP) {
        st = err_set(ST_LIMIT, "%s: more than %d plugins in one process", path, READY_CAP);
        goto out;
    }
    PJ_ARGS(pj_plugin_init_args, a);
    st = pj_check(api, api->plugin_init(&a), "%s: initialise", path);
    if (st == ST_OK) ready[n_ready++] = api;
out:
    pthread_mutex_unlock(&ready_lock);
    return st;
}

static status load(const char *path, const pj_api **out)
{
    struct stat sb;
    if (stat(path, &sb)) return err_errno("PJRT plugin %s", path);
    if (!S_ISREG(sb.st_mode)) return err_set(ST_INVALID, "PJRT plugin %s: not a file", path);
    /* Without a slash dlopen would search the system's directories instead. */
    char here[4096];
    if (!strchr(path, '/')) {
        snprintf(here, sizeof here, "./%s", path);
        path = here;
    }
    void *lib = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (!lib) {
        const char *why = dlerror();
        size_t n = strlen(path);
        if (why && !strncmp(why, path, n) && why[n] == ':') why += n + 1 + (why[n + 1] == ' ');
        return err_set(ST_INVALID, "PJRT plugin %s does not load: %s", path, why ? why : "no reason given");
    }
    union { void *object; const pj_api *(*function)(void); } get = { .object = dlsym(lib, "GetPjrtApi") };
    if (!get.object) {
        dlclose(lib);
        return err_set(ST_INVALID, "%s is not a PJRT plugin: it has no function GetPjrtApi", path);
    }
    const pj_api *api = get.function();
    TRY(check_api(path, api));
    TRY(initialise(path, api));
    *out = api;
    return ST_OK;
}

status pjrt_plugin_open(const char *path, bool offline, pjrt_plugin **out)
{
    pjrt_plugin *p = mem_calloc(1, sizeof *p);
    char *copy = mem_strdup(path);
    status st = p && copy ? ST_OK : err_nomem();
    if (st == ST_OK) {
        prepare_libtpu(path, offline);
        st = load(path, &p->api);
    }
    if (st != ST_OK) {
        mem_free(copy);
        mem_free(p);
        return st;
    }
    p->path = copy;
    *out = p;
    return ST_OK;
}

void pjrt_plugin_close(pjrt_plugin *p)
{
    if (!p) return;
    mem_free(p->path);
    mem_free(p);
}

void pjrt_plugin_describe(const pjrt_plugin *p, pjrt_plugin_info *out)
{
    *out = (pjrt_plugin_info){ .path = p->path, .api_major = p->api->version.major, .api_minor = p->api->version.minor };
    PJ_ARGS(pj_plugin_attributes_args, a);
    if (!p->api->plugin_attributes) return;
    pj_error *e = p->api->plugin_attributes(&a);
    if (e) {
        pj_drop(p->api, e);
        return;
    }
    for (size_t i = 0; i < a.n; i++) {
        const pj_named_value *v = &a.attributes[i];
        if (v->type == PJ_INT64_LIST && v->n == 3 && v->name_len == 25 && !memcmp(v->name, "stablehlo_current_version", 25))
            for (int k = 0; k < 3; k++) out->stablehlo[k] = (int)v->v.i64s[k];
    }
}

/* ---- small conversions ---- */
status pj_named_values(const pjrt_value *v, size_t n, pj_named_value **out)
{
    pj_named_value *r = mem_calloc(n ? n : 1, sizeof *r);
    if (!r) return err_nomem();
    for (size_t i = 0; i < n; i++) {
        r[i].struct_size = sizeof *r;
        r[i].name = v[i].name;
        r[i].name_len = strlen(v[i].name);
        r[i].n = 1;
        switch (v[i].kind) {
        case PJRT_TEXT: r[i].type = PJ_STRING; r[i].v.str = v[i].text; r[i].n = strlen(v[i].text); break;
        case PJRT_INT: r[i].type = PJ_INT64; r[i].v.i64 = v[i].i64; break;
        case PJRT_INTS: r[i].type = PJ_INT64_LIST; r[i].v.i64s = v[i].ints; r[i].n = v[i].n_ints; break;
        case PJRT_REAL: r[i].type = PJ_FLOAT; r[i].v.f32 = (float)v[i].real; break;
        case PJRT_BOOL: r[i].type = PJ_BOOL; r[i].v.b = v[i].b; break;
        }
    }
    *out = r;
    return ST_OK;
}

static const struct { dtype t; pj_type pj; const char *mlir; } types[] = {
    { DT_F32, PJ_F32, "f32" }, { DT_BF16, PJ_BF16, "bf16" }, { DT_F16, PJ_F16, "f16" }, { DT_F64, PJ_F64, "f64" },
    { DT_I64, PJ_S64, "i64" }, { DT_I32, PJ_S32, "i32" }, { DT_I16, PJ_S16, "i16" }, { DT_I8, PJ_S8, "i8" },
    { DT_U8, PJ_U8, "ui8" }, { DT_U16, PJ_U16, "ui16" }, { DT_U32, PJ_U32, "ui32" }, { DT_U64, PJ_U64, "ui64" }, { DT_BOOL, PJ_PRED, "i1" },
    { DT_F8E4M3, PJ_F8E4M3FN, "f8E4M3FN" }, { DT_F8E5M2, PJ_F8E5M2, "f8E5M2" }, { DT_F8E8M0, PJ_F8E8M0FNU, "f8E8M0FNU" },
    { DT_I4, PJ_S4, "i4" }, { DT_F4E2M1, PJ_F4E2M1FN, "f4E2M1FN" },
};
enum { N_TYPES = sizeof types / sizeof *types };

pj_type pj_type_of(dtype t)
{
    for (int i = 0; i < N_TYPES; i++)
        if (types[i].t == t) return types[i].pj;
    return PJ_INVALID;
}
dtype pj_dtype(pj_type t)
{
    for (int i = 0; i < N_TYPES; i++)
        if (types[i].pj == t) return types[i].t;
    return DT_COUNT;
}
const char *pjrt_type_name(dtype t)
{
    for (int i = 0; i < N_TYPES; i++)
        if (types[i].t == t) return types[i].mlir;
    return "?";
}
