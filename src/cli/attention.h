/* Attention on the chip that a model is for: --attention-policy, --attention-backend, --attention-config, the KV page size that
 * follows when --block-size is not given, and what is told of it. */
#ifndef SYSTOLIC_CLI_ATTENTION_H
#define SYSTOLIC_CLI_ATTENTION_H

#include "base/json.h"
#include "cli/flags.h"
#include "device/device.h"

/* Sets l->attention, and l->block_size where the flags leave it to the policy. c: NULL where there is no TPU; then nothing changes, and
 * asking for kernels is an error. g: of one device. */
status attention_apply(const flags *f, const graph *g, const chip *c, device_limits *l) FALLIBLE;

/* ---- telling ---- */
typedef struct attention_view {
    attention_config decode, mixed;     /* of the layer kind that most layers have */
    attention_shape decode_shape;
    int n_layers, n_kinds;              /* layers of that kind; kinds there are */
} attention_view;
/* For limits that attention_apply has seen. ST_NOT_FOUND: no TPU, or a model without attention. */
status attention_look(const graph *g, const device_limits *l, attention_view *out) FALLIBLE;
void attention_log(const graph *g, const device_limits *l);     /* at start-up */
/* What is chosen, what it costs and what else there was. */
void attention_write_text(const attention_view *v, buf *out);
void attention_write_json(const attention_view *v, jw *w);

#endif
