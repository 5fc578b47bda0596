/* What the parts of the operation share. */
#ifndef SYSTOLIC_OPS_EXPERTS_H
#define SYSTOLIC_OPS_EXPERTS_H

#include "ops/op.h"

enum { EXPERTS_X, EXPERTS_COMBINE, EXPERTS_W_IN, EXPERTS_W_OUT, EXPERTS_BIAS_IN, EXPERTS_BIAS_OUT };
/* Phases of the kernels: inner product and activation, rounding of what came out, outer product and sum. */
enum { EXPERTS_MOST_TOP = 64 };   /* experts of a token */
enum { EXPERTS_IN, EXPERTS_ROUND, EXPERTS_OUT, EXPERTS_PHASES };

/* Of rows that a program with kernels has in memory at once: more are multiplied in parts. Another number is for tests; set it before programs are made. */
extern int64_t experts_part_bytes;

void experts_cpu(const cpu_call *c, const cpu_thread *t, int phase);
bool experts_skips(const cpu_call *c, int phase);
void experts_needs(const graph *g, const node *n, const op_limits *l, op_needs *out);

#endif
