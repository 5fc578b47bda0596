/* The part of the PJRT C API that Systolic calls: our declarations of its documented binary interface, so that building
 * needs no foreign header. tools/pjrt-cpu/abi_check.c compares every layout here with the real header.
 *
 * Rules of the interface: each struct carries its size, so caller and plugin may know different minor versions; within
 * major version 0 fields and functions are only appended. Out fields are marked. The plugin allocates errors; whoever
 * receives one destroys it. Private to src/device/pjrt. */
#ifndef SYSTOLIC_DEVICE_PJRT_PJRT_ABI_H
#define SYSTOLIC_DEVICE_PJRT_PJRT_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PJ_API_MAJOR = 0 };

typedef struct pj_error pj_error;
typedef struct pj_event pj_event;
typedef struct pj_client pj_client;
typedef struct pj_device pj_device;
typedef struct pj_device_description pj_device_description;
typedef struct pj_memory pj_memory;
typedef struct pj_topology pj_topology;
typedef struct pj_executable pj_executable;
typedef struct pj_loaded pj_loaded;
typedef struct pj_buffer pj_buffer;

/* Every struct starts like this. */
#define PJ_HEAD size_t struct_size; void *extension

typedef enum pj_value_type { PJ_STRING, PJ_INT64, PJ_INT64_LIST, PJ_FLOAT, PJ_BOOL } pj_value_type;
typedef struct pj_named_value {
    PJ_HEAD;
    const char *name; size_t name_len;
    pj_value_type type;
    union { const char *str; int64_t i64; const int64_t *i64s; float f32; bool b; } v;
    size_t n;                       /* bytes of a string, items of a list, else 1 */
} pj_named_value;

typedef struct pj_program { PJ_HEAD; char *code; size_t code_len; const char *format; size_t format_len; } pj_program;

/* PJRT_Buffer_Type */
typedef enum pj_type {
    PJ_INVALID, PJ_PRED, PJ_S8, PJ_S16, PJ_S32, PJ_S64, PJ_U8, PJ_U16, PJ_U32, PJ_U64, PJ_F16, PJ_F32, PJ_F64, PJ_BF16,
    PJ_C64, PJ_C128, PJ_F8E5M2, PJ_F8E4M3FN, PJ_F8E4M3B11FNUZ, PJ_F8E5M2FNUZ, PJ_F8E4M3FNUZ, PJ_S4, PJ_U4, PJ_TOKEN,
    PJ_S2, PJ_U2, PJ_F8E4M3, PJ_F8E3M4, PJ_F8E8M0FNU, PJ_F4E2M1FN
} pj_type;

/* How long the plugin may read the host's memory. */
typedef enum pj_host_semantics { PJ_ONLY_DURING_CALL, PJ_UNTIL_TRANSFER_COMPLETES, PJ_ZERO_COPY, PJ_MUTABLE_ZERO_COPY } pj_host_semantics;

/* A layout of an array in memory. Only the tiled form is declared, of which we use the order of dimensions; the real struct
 * is a union with the (smaller) strided form. */
typedef struct pj_layout {
    PJ_HEAD;
    struct { PJ_HEAD; const int64_t *minor_to_major; size_t n; const int64_t *tile_dims; const size_t *tile_dim_sizes; size_t n_tiles; } tiled;
    int type;                       /* 0: tiled */
} pj_layout;

/* ---- arguments ---- */
typedef struct pj_error_destroy_args { PJ_HEAD; pj_error *error; } pj_error_destroy_args;
typedef struct pj_error_message_args { PJ_HEAD; const pj_error *error; const char *message; size_t message_len; /* out */ } pj_error_message_args;
typedef struct pj_error_code_args { PJ_HEAD; const pj_error *error; int code; /* out */ } pj_error_code_args;

typedef struct pj_plugin_init_args { PJ_HEAD; } pj_plugin_init_args;
typedef struct pj_plugin_attributes_args { PJ_HEAD; const pj_named_value *attributes; size_t n; /* out */ } pj_plugin_attributes_args;

typedef struct pj_event_args { PJ_HEAD; pj_event *event; } pj_event_args;          /* destroy, await, error */
typedef struct pj_event_ready_args { PJ_HEAD; pj_event *event; bool ready; /* out */ } pj_event_ready_args;

typedef struct pj_client_create_args {
    PJ_HEAD;
    const pj_named_value *options; size_t n_options;
    void *kv_get; void *kv_get_arg; void *kv_put; void *kv_put_arg;                /* several processes: not used */
    pj_client *client;                                                              /* out */
    void *kv_try_get; void *kv_try_get_arg;
} pj_client_create_args;
typedef struct pj_client_args { PJ_HEAD; pj_client *client; } pj_client_args;       /* destroy */
typedef struct pj_client_text_args { PJ_HEAD; pj_client *client; const char *text; size_t len; /* out */ } pj_client_text_args; /* platform name, version */
typedef struct pj_client_devices_args { PJ_HEAD; pj_client *client; pj_device *const *devices; size_t n; /* out */ } pj_client_devices_args;
typedef struct pj_client_topology_args { PJ_HEAD; pj_client *client; pj_topology *topology; /* out */ } pj_client_topology_args;
typedef struct pj_client_compile_args {
    PJ_HEAD;
    pj_client *client; const pj_program *program;
    const char *options; size_t options_len;
    pj_loaded *loaded;                                                              /* out */
} pj_client_compile_args;
typedef struct pj_upload_args {
    PJ_HEAD;
    pj_client *client;
    const void *data; pj_type type;
    const int64_t *dims; size_t n_dims;
    const int64_t *byte_strides; size_t n_byte_strides;
    pj_host_semantics semantics;
    pj_device *device; pj_memory *memory; pj_layout *layout;
    pj_event *host_done; pj_buffer *buffer;                                         /* out */
} pj_upload_args;

typedef struct pj_description_id_args { PJ_HEAD; pj_device_description *description; int id; /* out */ } pj_description_id_args; /* id, process index */
typedef struct pj_description_attributes_args { PJ_HEAD; pj_device_description *description; size_t n; const pj_named_value *attributes; /* out */ } pj_description_attributes_args;
typedef struct pj_description_text_args { PJ_HEAD; pj_device_description *description; const char *text; size_t len; /* out */ } pj_description_text_args; /* kind */
typedef struct pj_device_description_args { PJ_HEAD; pj_device *device; pj_device_description *description; /* out */ } pj_device_description_args;
typedef struct pj_device_memory_args {
    PJ_HEAD;
    pj_device *device;
    int64_t in_use;                                                                 /* all out from here */
    int64_t peak; bool has_peak;
    int64_t n_allocs; bool has_n_allocs;
    int64_t largest_alloc; bool has_largest_alloc;
    int64_t limit; bool has_limit;
    int64_t reserved; bool has_reserved;
    int64_t peak_reserved; bool has_peak_reserved;
    int64_t reservable; bool has_reservable;
    int64_t largest_free; bool has_largest_free;
    int64_t pool; bool has_pool;
    int64_t peak_pool; bool has_peak_pool;
} pj_device_memory_args;

typedef struct pj_topology_create_args {
    PJ_HEAD;
    const char *name; size_t name_len;
    const pj_named_value *options; size_t n_options;
    pj_topology *topology;                                                          /* out */
} pj_topology_create_args;
typedef struct pj_topology_args { PJ_HEAD; pj_topology *topology; } pj_topology_args; /* destroy */
typedef struct pj_topology_text_args { PJ_HEAD; pj_topology *topology; const char *text; size_t len; /* out */ } pj_topology_text_args; /* platform name, version */
typedef struct pj_topology_devices_args { PJ_HEAD; pj_topology *topology; pj_device_description *const *descriptions; size_t n; /* out */ } pj_topology_devices_args;
typedef struct pj_topology_serialize_args {
    PJ_HEAD;
    pj_topology *topology;
    const char *bytes; size_t len; void *holder; void (*free_holder)(void *);       /* out */
} pj_topology_serialize_args;
typedef struct pj_topology_deserialize_args { PJ_HEAD; const char *bytes; size_t len; pj_topology *topology; /* out */ } pj_topology_deserialize_args;
typedef struct pj_compile_args {
    PJ_HEAD;
    const pj_topology *topology; const pj_program *program;
    const char *options; size_t options_len;
    pj_client *client;                                                              /* may be NULL */
    pj_executable *executable;                                                      /* out */
} pj_compile_args;

typedef struct pj_executable_args { PJ_HEAD; pj_executable *executable; } pj_executable_args; /* destroy */
typedef struct pj_executable_count_args { PJ_HEAD; pj_executable *executable; size_t n; /* out */ } pj_executable_count_args; /* replicas, partitions, outputs */
typedef struct pj_executable_code_args { PJ_HEAD; pj_executable *executable; int64_t bytes; /* out */ } pj_executable_code_args;
typedef struct pj_executable_cost_args { PJ_HEAD; pj_executable *executable; size_t n; const pj_named_value *properties; /* out */ } pj_executable_cost_args;
typedef struct pj_executable_memory_args {
    PJ_HEAD;
    pj_executable *executable;
    int64_t code, argument, output, alias, temp;                                    /* out, device */
    int64_t host_code, host_argument, host_output, host_alias, host_temp;           /* out, host */
    int64_t peak, total;                                                            /* out, newer plugins */
} pj_executable_memory_args;
typedef struct pj_executable_optimized_args { PJ_HEAD; pj_executable *executable; pj_program *program; /* in, out: without code it gets the size and the format */ } pj_executable_optimized_args;
typedef struct pj_executable_types_args { PJ_HEAD; pj_executable *executable; pj_type *types; size_t n; /* out */ } pj_executable_types_args;
typedef struct pj_executable_dims_args { PJ_HEAD; pj_executable *executable; size_t n; const int64_t *dims; const size_t *ranks; /* out */ } pj_executable_dims_args;
typedef struct pj_executable_serialize_args {
    PJ_HEAD;
    const pj_executable *executable;
    const char *bytes; size_t len; void *holder; void (*free_holder)(void *);       /* out */
} pj_executable_serialize_args;
typedef struct pj_deserialize_args {
    PJ_HEAD;
    pj_client *client; const char *bytes; size_t len;
    pj_loaded *loaded;                                                              /* out */
    const char *options; size_t options_len;                                        /* NULL = those it was compiled with */
} pj_deserialize_args;

typedef struct pj_loaded_args { PJ_HEAD; pj_loaded *loaded; } pj_loaded_args;        /* destroy */
typedef struct pj_loaded_executable_args { PJ_HEAD; pj_loaded *loaded; pj_executable *executable; /* out */ } pj_loaded_executable_args;
typedef struct pj_loaded_devices_args { PJ_HEAD; pj_loaded *loaded; pj_device *const *devices; size_t n; /* out */ } pj_loaded_devices_args;
typedef struct pj_execute_options {
    PJ_HEAD;
    void *send_callbacks, *recv_callbacks; size_t n_send, n_recv;
    int launch_id;
    const int64_t *keep; size_t n_keep;                                             /* inputs not to be donated */
    void *context; const char *call_location;
    size_t n_tasks; int *task_ids; int64_t *incarnation_ids;
} pj_execute_options;
typedef struct pj_execute_args {
    PJ_HEAD;
    pj_loaded *loaded; pj_execute_options *options;
    pj_buffer *const *const *args; size_t n_devices, n_args;                        /* args[device][i] */
    pj_buffer **const *outputs;                                                     /* outputs[device][i], filled in */
    pj_event **done;                                                                /* done[device], filled in; may be NULL */
    pj_device *device;
} pj_execute_args;

typedef struct pj_buffer_args { PJ_HEAD; pj_buffer *buffer; } pj_buffer_args;        /* destroy, delete */
typedef struct pj_buffer_type_args { PJ_HEAD; pj_buffer *buffer; pj_type type; /* out */ } pj_buffer_type_args;
typedef struct pj_buffer_dims_args { PJ_HEAD; pj_buffer *buffer; const int64_t *dims; size_t n; /* out */ } pj_buffer_dims_args;
typedef struct pj_buffer_size_args { PJ_HEAD; pj_buffer *buffer; size_t bytes; /* out */ } pj_buffer_size_args;
typedef struct pj_buffer_deleted_args { PJ_HEAD; pj_buffer *buffer; bool deleted; /* out */ } pj_buffer_deleted_args;
typedef struct pj_buffer_pointer_args { PJ_HEAD; pj_buffer *buffer; uintptr_t pointer; /* out */ } pj_buffer_pointer_args;
typedef struct pj_buffer_event_args { PJ_HEAD; pj_buffer *buffer; pj_event *event; /* out */ } pj_buffer_event_args;
typedef struct pj_buffer_download_args { PJ_HEAD; pj_buffer *buffer; pj_layout *layout; void *dst; size_t bytes; /* in, out */ pj_event *event; /* out */ } pj_buffer_download_args;
typedef struct pj_buffer_raw_args { PJ_HEAD; pj_buffer *buffer; void *dst; int64_t offset, bytes; pj_event *event; /* out */ } pj_buffer_raw_args;

/* ---- the table of functions; `void *` are those we do not call ---- */
#define PJ_FN(name, args) pj_error *(*name)(args *)
typedef struct pj_api {
    PJ_HEAD;
    struct { PJ_HEAD; int major, minor; } version;
    void (*error_destroy)(pj_error_destroy_args *);
    void (*error_message)(pj_error_message_args *);
    PJ_FN(error_code, pj_error_code_args);
    PJ_FN(plugin_init, pj_plugin_init_args);
    PJ_FN(plugin_attributes, pj_plugin_attributes_args);
    PJ_FN(event_destroy, pj_event_args);
    PJ_FN(event_ready, pj_event_ready_args);
    PJ_FN(event_error, pj_event_args);
    PJ_FN(event_await, pj_event_args);
    void *event_on_ready;
    PJ_FN(client_create, pj_client_create_args);
    PJ_FN(client_destroy, pj_client_args);
    PJ_FN(client_platform_name, pj_client_text_args);
    void *client_process_index;
    PJ_FN(client_platform_version, pj_client_text_args);
    void *client_devices;
    PJ_FN(client_addressable_devices, pj_client_devices_args);
    void *client_lookup_device, *client_lookup_addressable_device, *client_addressable_memories;
    PJ_FN(client_compile, pj_client_compile_args);
    void *client_default_device_assignment;
    PJ_FN(client_upload, pj_upload_args);
    PJ_FN(description_id, pj_description_id_args);
    PJ_FN(description_process, pj_description_id_args);
    PJ_FN(description_attributes, pj_description_attributes_args);
    PJ_FN(description_kind, pj_description_text_args);
    void *description_debug_string, *description_to_string;
    PJ_FN(device_description, pj_device_description_args);
    void *device_is_addressable, *device_local_hardware_id, *device_addressable_memories, *device_default_memory;
    PJ_FN(device_memory, pj_device_memory_args);
    void *memory_id, *memory_kind, *memory_debug_string, *memory_to_string, *memory_addressable_by;
    PJ_FN(executable_destroy, pj_executable_args);
    void *executable_name;
    PJ_FN(executable_n_replicas, pj_executable_count_args);
    PJ_FN(executable_n_partitions, pj_executable_count_args);
    PJ_FN(executable_n_outputs, pj_executable_count_args);
    PJ_FN(executable_code, pj_executable_code_args);
    PJ_FN(executable_cost, pj_executable_cost_args);
    void *executable_output_memory_kinds;
    PJ_FN(executable_optimized, pj_executable_optimized_args);
    PJ_FN(executable_serialize, pj_executable_serialize_args);
    PJ_FN(loaded_destroy, pj_loaded_args);
    PJ_FN(loaded_executable, pj_loaded_executable_args);
    PJ_FN(loaded_devices, pj_loaded_devices_args);
    void *loaded_delete, *loaded_is_deleted;
    PJ_FN(execute, pj_execute_args);
    PJ_FN(deserialize, pj_deserialize_args);
    void *loaded_fingerprint;
    PJ_FN(buffer_destroy, pj_buffer_args);
    PJ_FN(buffer_type, pj_buffer_type_args);
    PJ_FN(buffer_dims, pj_buffer_dims_args);
    void *buffer_unpadded_dims, *buffer_dynamic_dims, *buffer_layout;
    PJ_FN(buffer_size, pj_buffer_size_args);
    void *buffer_device, *buffer_memory;
    PJ_FN(buffer_delete, pj_buffer_args);
    PJ_FN(buffer_deleted, pj_buffer_deleted_args);
    void *buffer_copy_to_device;
    PJ_FN(buffer_download, pj_buffer_download_args);
    void *buffer_is_on_cpu;
    PJ_FN(buffer_event, pj_buffer_event_args);
    PJ_FN(buffer_pointer, pj_buffer_pointer_args);
    void *buffer_inc_ref, *buffer_dec_ref, *buffer_opaque_pointer;
    void *copy_stream[5];
    PJ_FN(topology_create, pj_topology_create_args);
    PJ_FN(topology_destroy, pj_topology_args);
    PJ_FN(topology_platform_name, pj_topology_text_args);
    PJ_FN(topology_platform_version, pj_topology_text_args);
    PJ_FN(topology_devices, pj_topology_devices_args);
    PJ_FN(topology_serialize, pj_topology_serialize_args);
    void *topology_attributes;
    PJ_FN(compile, pj_compile_args);
    PJ_FN(executable_types, pj_executable_types_args);
    PJ_FN(executable_dims, pj_executable_dims_args);
    void *buffer_copy_to_memory, *client_view_of_device_buffer, *executable_fingerprint;
    PJ_FN(client_topology, pj_client_topology_args);
    PJ_FN(executable_memory, pj_executable_memory_args);          /* the last one a plugin must have */
    void *memory_kind_id, *execute_context_create, *execute_context_destroy;
    PJ_FN(buffer_raw, pj_buffer_raw_args);
    void *transfer_manager[9];
    void *client_dma_map, *client_dma_unmap, *client_uninitialized_buffer, *client_update_process_info;
    PJ_FN(topology_deserialize, pj_topology_deserialize_args);
} pj_api;
#undef PJ_FN

#endif
