/* A PJRT plugin that is wrong in a chosen way; the PJRT tests build it with -DMODE=... */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/pjrt/pjrt_abi.h"

enum { TOO_OLD, OTHER_MAJOR, NO_DEVICE, ABORTS, NO_TABLE, INIT_FAILS, SLEEPS, EMPTY };

struct pj_error { int code; const char *text; };
static pj_error no_device = { 5, "no accelerator found\n  on this host\n=== Source Location Trace: ===\nsecret.cc:1" };
static pj_error no_init = { 10, "the lock file is held" };

static void destroy(pj_error_destroy_args *a) { (void)a; }
static void message(pj_error_message_args *a) { a->message = a->error->text; a->message_len = strlen(a->error->text); }
static pj_error *code(pj_error_code_args *a) { a->code = a->error->code; return NULL; }
static pj_error *init(pj_plugin_init_args *a) { (void)a; return MODE == INIT_FAILS ? &no_init : NULL; }
static pj_error *create(pj_client_create_args *a)
{
    static int client;
    if (MODE == ABORTS) abort();
    if (MODE == SLEEPS) {
        printf("fake: looking for devices\n");
        fflush(stdout);
        fprintf(stderr, "fake: waiting for a device that never comes\n");
        sleep(20);
    }
    a->client = (pj_client *)&client;
    return MODE == EMPTY ? NULL : &no_device;
}
static pj_error *destroy_client(pj_client_args *a) { (void)a; return NULL; }
static pj_error *no_devices(pj_client_devices_args *a) { a->devices = NULL; a->n = 0; return NULL; }

const pj_api *GetPjrtApi(void);
const pj_api *GetPjrtApi(void)
{
    static pj_api api;
    static pj_error *(*unused)(void);
    memset(&api, 0, sizeof api);
    api.struct_size = MODE == TOO_OLD ? offsetof(pj_api, topology_create) : sizeof api;
    api.version.major = MODE == OTHER_MAJOR ? 7 : 0;
    api.version.minor = MODE == TOO_OLD ? 12 : 90;
    api.error_destroy = destroy;
    api.error_message = message;
    api.error_code = code;
    api.plugin_init = init;
    api.client_create = create;
    api.client_destroy = destroy_client;
    api.client_addressable_devices = no_devices;
    api.executable_memory = (pj_error *(*)(pj_executable_memory_args *))&unused;
    return MODE == NO_TABLE ? NULL : &api;
}
