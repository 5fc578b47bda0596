/* Kernels of glu and act: element by element, compiled per instruction set. All sets compute the same bits. */
#ifndef SYSTOLIC_OPS_GLU_H
#define SYSTOLIC_OPS_GLU_H

#include <stdint.h>

#include "graph/graph.h"
#include "ops/hlo.h"
#include "ops/isa.h"

/* alpha, limit: of ACT_SWIGLU_OAI alone. */
typedef struct glu_params { activation act; float alpha, limit; } glu_params;

/* out[i] = f(gate[i]) * up[i], or as ACT_SWIGLU_OAI says. out may be gate or up. */
typedef void glu_fn(const glu_params *p, const float *gate, const float *up, float *out, int64_t n);
/* out[i] = f(x[i]); not ACT_SWIGLU_OAI. */
typedef void act_fn(activation kind, const float *x, float *out, int64_t n);
#define GLU_DECLARE(isa) glu_fn glu_##isa; act_fn act_##isa;
ISA_VECTORS(GLU_DECLARE)
#undef GLU_DECLARE

/* glu of f32 values in a program. */
hlo_val hlo_glu(hlo *h, activation act, double alpha, double limit, hlo_val gate, hlo_val up);

/* The same in double precision, for references. */
double act_exact(activation kind, double x);
double glu_exact(const glu_params *p, double gate, double up);

#endif
