/* A tensor of a checkpoint as the pieces that a program takes (ops/hlo_weight.h). */
#ifndef SYSTOLIC_DEVICE_PJRT_PJRT_PIECES_H
#define SYSTOLIC_DEVICE_PJRT_PJRT_PIECES_H

#include "graph/graph.h"
#include "graph/weights.h"
#include "ops/hlo_weight.h"

/* An unquantised tensor under the node's scheme, if it names one (--quantization): *out is what the caller frees with mem_free(out->owned). */
status pjrt_quantise(const node *n, const weight_data *d, weight_data *out) FALLIBLE;
/* What tensor rank `rank` of tp holds of a piece (of one expert of it), row-major: dst has the piece's shape without experts. */
void pjrt_fill_piece(const node *n, weight_piece p, const weight_data *parts, int rank, int tp, void *dst);

#endif
