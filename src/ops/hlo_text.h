/* What the files of the StableHLO builder (hlo*.c) write their lines with; operations use hlo.h. */
#ifndef SYSTOLIC_OPS_HLO_TEXT_H
#define SYSTOLIC_OPS_HLO_TEXT_H

#include "ops/hlo.h"

void hlo_indent(hlo *h);
const char *hlo_type_name(dtype t);                     /* as StableHLO writes it */
bool hlo_is_float(dtype t);
bool hlo_is_unsigned(dtype t);

/* A value that no line has made yet. */
hlo_val hlo_make(dtype t, int rank, const int64_t *dim);
/* "%7 = stablehlo.add ": begins the line that makes v; hlo_put_signature or hlo_end_op ends it. */
void hlo_begin_op(hlo *h, hlo_val *v, const char *verb);
void hlo_end_op(hlo *h);
void hlo_put_signature(hlo *h, const hlo_val *in, int n, hlo_val out);      /* " : (A, B) -> R" */
void hlo_put_signatures(hlo *h, const hlo_val *in, int n, const hlo_val *out, int n_out);
void hlo_put_list(hlo *h, const char *open, const int64_t *v, int n, const char *close);
void hlo_put_ints(hlo *h, const char *open, const int *v, int n, const char *close);
/* out = verb x, where only type or shape change. */
hlo_val hlo_retyped(hlo *h, const char *verb, hlo_val x, hlo_val out);

/* False, and the program fails, if there is no such rank or no such dimension. */
bool hlo_need_rank(hlo *h, const char *verb, int rank);
bool hlo_need_dim(hlo *h, const char *verb, hlo_val x, int along);
bool hlo_same_dims(hlo_val a, hlo_val b);
/* The program fails if types or shapes differ. */
void hlo_need_same(hlo *h, const char *verb, hlo_val a, hlo_val b);

#endif
