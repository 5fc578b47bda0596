/* `systolic plan`, split by topic: plan_target.c (chips, topologies and what of the model fits on them), plan_report.c (text,
 * JSON), cmd_plan.c (flags). No compiler and no device is asked: memory is that of the chip table. One thread. */
#ifndef SYSTOLIC_CLI_PLAN_H
#define SYSTOLIC_CLI_PLAN_H

#include "cli/compile.h"
#include "model/counts.h"
#include "model/presets.h"

enum { PLAN_MAX_TARGETS = 64 };

/* A model on a target, laid out over its devices. */
typedef struct plan_fit {
    char target[64];            /* "v6e:2x4" */
    const chip *chip;
    int n_chips, n_devices;
    mesh on;                    /* the fewest tensor ranks that it fits on; else the most that its heads allow */
    bool fits;
    int64_t memory_bytes, weight_bytes, kv_bytes;   /* of one device */
    int64_t token_bytes;        /* KV of a token on one device, layers that keep everything and others alike */
    int64_t kv_tokens;          /* on all devices */
    int64_t sequences;          /* of max_model_len, on all devices */
    int64_t shortfall_bytes;    /* of one device */
    char why[700];              /* why it does not fit, or cannot be cut */
} plan_fit;

/* p: a model, cut in any way; it is cut anew. text: "v6e:2x4". That it does not fit is no failure. */
status plan_fit_target(compile_plan *p, const char *text, plan_fit *out) FALLIBLE;
/* The smallest topology of each generation that holds it, the largest one's misfit where none does. Returns how many in *n. */
status plan_fit_all(compile_plan *p, plan_fit out[PLAN_MAX_TARGETS], int *n) FALLIBLE;

/* Bytes of the weights in one format. */
typedef struct plan_format { const char *name; bool stored; double bytes; } plan_format;
enum { PLAN_MAX_FORMATS = 8 };

typedef struct plan_report {
    const char *name;
    const compile_plan *p;
    const preset *published;    /* NULL: no preset */
    model_params params;        /* of the language model */
    int64_t encoder_params;     /* of its encoders */
    plan_format formats[PLAN_MAX_FORMATS];
    int n_formats;
    model_kv_kind kinds[MODEL_MAX_KV_KINDS];
    int n_kinds;
    plan_fit fits[PLAN_MAX_TARGETS];
    int n_fits;
} plan_report;
status plan_write_text(const plan_report *r, buf *out) FALLIBLE;
status plan_write_json(const plan_report *r, buf *out) FALLIBLE;

#endif
