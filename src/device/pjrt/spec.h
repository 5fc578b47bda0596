/* Names that users write: which plugin ("tpu", "cuda", "pjrt:PATH") and which target ("v6e:2x2"). */
#ifndef SYSTOLIC_DEVICE_PJRT_SPEC_H
#define SYSTOLIC_DEVICE_PJRT_SPEC_H

#include "base/buf.h"
#include "base/err.h"

/* Where a device specification leads: the plugin's file and what followed a '?', to be read by pjrt_values_parse. */
typedef struct pjrt_place { char *path; char *options; } pjrt_place;

/* "tpu": TPU_LIBRARY_PATH, else libtpu/libtpu.so in a Python site-packages. "cuda": PJRT_CUDA_LIBRARY_PATH, else
 * jax_plugins/xla_cuda13 or xla_cuda12 there. "pjrt:PATH[?NAME=VALUE,...]": that file. Python is not run: the virtual
 * environment, PYTHONPATH, the python3 on PATH, pyenv's versions, the user's and the system's packages are looked through.
 * ST_NOT_FOUND says where was looked. The strings are the caller's (pjrt_place_free). */
status pjrt_find(const char *spec, pjrt_place *out) FALLIBLE;
void pjrt_place_free(pjrt_place *p);
/* Appends what the Python package that a plugin's file is in calls itself: "libtpu 0.0.52". Nothing if it is in none. */
status pjrt_package(const char *path, buf *out) FALLIBLE;

/* A compile target, as users write it, to libtpu's topology name: "v6e:2x2", "v7x:2x2x1" (tpu7x:2x2x1), "v5litepod:2x4"
 * (v5e:2x4), "v5p:2x2x1", "v6e-8" (v6e:2x4; tpu/slice.h). A '?' and options may follow;
 * "v4:2x2x1?chip_config_name=megacore". Anything else is ST_INVALID and lists what exists. */
status pjrt_target_parse(const char *target, pjrt_place *out) FALLIBLE;

#endif
