/* A PJRT plugin that compiles anything for any topology of TPUs v6e, and always to the same program (hlo_proto.h): what libtpu's place
 * is taken by in tests of refined simulations. Told to profile, it dies. */
#include <stdlib.h>
#include <string.h>

#include "device/pjrt/pjrt_abi.h"
#include "tests/unit/device/pjrt/hlo_proto.h"

struct pj_error { int code; const char *text; };
static pj_error too_large = { 8, "the program does not fit" };
static void destroy(pj_error_destroy_args *a) { (void)a; }
static void message(pj_error_message_args *a) { a->message = a->error->text; a->message_len = strlen(a->error->text); }
static pj_error *code(pj_error_code_args *a) { a->code = a->error->code; return NULL; }
static pj_error *init(pj_plugin_init_args *a) { (void)a; return NULL; }

static int thing;
static pj_error *topology(pj_topology_create_args *a) { a->topology = (pj_topology *)&thing; return NULL; }
static pj_error *topology_gone(pj_topology_args *a) { (void)a; return NULL; }
static pj_error *name(pj_topology_text_args *a) { a->text = "tpu"; a->len = 3; return NULL; }
static pj_error *version(pj_topology_text_args *a) { a->text = "a fake"; a->len = 6; return NULL; }
static pj_error *devices(pj_topology_devices_args *a)
{
    static pj_device_description *all[1] = { (pj_device_description *)&thing };
    a->descriptions = all;
    a->n = 1;
    return NULL;
}
static pj_error *id(pj_description_id_args *a) { a->id = 0; return NULL; }
static pj_error *kind(pj_description_text_args *a) { a->text = "TPU v6 lite"; a->len = 11; return NULL; }
static pj_error *attributes(pj_description_attributes_args *a) { a->n = 0; return NULL; }

static pj_error *compile(pj_compile_args *a)
{
    const char *flags = getenv("LIBTPU_INIT_ARGS"), *refuse = getenv("FAKE_REFUSES");
    if (flags && strstr(flags, "static_llo_profile")) abort();
    if (refuse && memmem(a->program->code, a->program->code_len, refuse, strlen(refuse))) return &too_large;
    a->executable = (pj_executable *)&thing;
    return NULL;
}
static pj_error *gone(pj_executable_args *a) { (void)a; return NULL; }
static pj_error *cost(pj_executable_cost_args *a)
{
    static pj_named_value v[2] = { { .name = "flops", .name_len = 5, .type = PJ_FLOAT, .v.f32 = 196608, .n = 1 }, { .name = "bytes accessed", .name_len = 14, .type = PJ_FLOAT, .v.f32 = 4096, .n = 1 } };
    a->properties = v;
    a->n = 2;
    return NULL;
}
static pj_error *memory(pj_executable_memory_args *a) { a->temp = 1; return NULL; }
static pj_error *size(pj_executable_code_args *a) { a->bytes = 1; return NULL; }
static pj_error *serialize(pj_executable_serialize_args *a) { a->bytes = "executable"; a->len = 10; return NULL; }
static pj_error *optimized(pj_executable_optimized_args *a)
{
    static pb module;
    pb_module(&module, "window_config", "{}");
    a->program->format = "hlo_with_config";
    a->program->format_len = 15;
    if (a->program->code) memcpy(a->program->code, module.d, module.n);
    a->program->code_len = module.n;
    return NULL;
}

const pj_api *GetPjrtApi(void);
const pj_api *GetPjrtApi(void)
{
    static pj_api api;
    api = (pj_api){ .struct_size = sizeof api, .error_destroy = destroy, .error_message = message, .error_code = code, .plugin_init = init, .topology_create = topology,
                    .topology_destroy = topology_gone, .topology_platform_name = name, .topology_platform_version = version, .topology_devices = devices, .description_id = id,
                    .description_process = id, .description_kind = kind, .description_attributes = attributes, .compile = compile, .executable_destroy = gone, .executable_cost = cost,
                    .executable_memory = memory, .executable_code = size, .executable_serialize = serialize, .executable_optimized = optimized };
    api.version.minor = 90;
    return &api;
}
