/* What the files of this folder share. */
#ifndef SYSTOLIC_DEVICE_PJRT_INTERNAL_H
#define SYSTOLIC_DEVICE_PJRT_INTERNAL_H

#include "base/json.h"
#include "device/pjrt/pjrt.h"
#include "device/pjrt/pjrt_abi.h"

struct pjrt_plugin {
    const pj_api *api;
    char *path;
};
struct pjrt_client {
    pjrt_plugin *plugin;            /* borrowed */
    const pj_api *api;
    pj_client *client;
    pj_device *const *devices;      /* the plugin's array */
    int n_devices;
    char *platform, *version;
    const struct pjrt_cache *cache; /* borrowed; NULL: none */
};
struct pjrt_topology {
    pjrt_plugin *plugin;
    const pj_api *api;
    pj_topology *topology;
    pj_device_description *const *devices;
    int n_devices;
    char *platform, *version;
};

/* Declares `var`, the arguments of one call, zeroed and sized. */
#define PJ_ARGS(type, var) type var; memset(&var, 0, sizeof var); var.struct_size = sizeof var

/* True if the plugin's (perhaps older) table reaches this function and has it. */
#define PJ_HAS(api, fn) ((api)->struct_size >= offsetof(pj_api, fn) + sizeof((api)->fn) && (api)->fn != NULL)

/* Turns the plugin's error into a status with message "context: text (PJRT error N, NAME)" and destroys it; ST_OK for NULL. */
status pj_check(const pj_api *api, pj_error *e, const char *fmt, ...) PRINTF_LIKE(3, 4) FALLIBLE;
/* The same where nothing can be done about a failure. */
void pj_drop(const pj_api *api, pj_error *e);

/* The named values as the plugin takes them; *out is the caller's (mem_free). */
status pj_named_values(const pjrt_value *v, size_t n, pj_named_value **out) FALLIBLE;
/* Fills the parts of a device's description that its attributes tell. */
status pj_describe(const pj_api *api, pj_device_description *d, pjrt_device_info *out) FALLIBLE;

/* True once a plugin has been initialised in this process: its threads and locks do not survive a fork. */
bool pj_any_loaded(void);

/* Compiles with options that are encoded already, for the topology or, if that is NULL, for the client's devices. */
status pj_compile_encoded(pjrt_topology *t, pjrt_client *c, const pjrt_source *src, const char *options, size_t options_len,
                          buf *executable, pjrt_stats *stats) FALLIBLE;

/* Statistics as a JSON object and back; what is missing is -1. */
void pj_stats_write(jw *w, const pjrt_stats *s);
void pj_stats_read(const jv *v, pjrt_stats *s);
/* A file of head and body that appears whole under its name: written aside and renamed. */
status pj_file_put(const char *dir, const char *name, const void *head, size_t head_len, const void *body, size_t body_len) FALLIBLE;

pj_type pj_type_of(dtype t);        /* PJ_INVALID if there is none */
dtype pj_dtype(pj_type t);          /* DT_COUNT if there is none */

#endif
