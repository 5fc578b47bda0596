/* The interpreter: expressions (jinja_eval.c) and statements (jinja_exec.c). */
#ifndef SYSTOLIC_TEXT_JINJA_EVAL_H
#define SYSTOLIC_TEXT_JINJA_EVAL_H

#include "text/jinja_ast.h"

typedef enum jflow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE } jflow;

status jj_eval(jrt *r, const jnode *n, jframe *f, jval *out) FALLIBLE;
status jj_exec(jrt *r, const jnodes *body, jframe *f, jflow *flow) FALLIBLE;
/* Calls the callee of `call` with its arguments; caller is passed as the keyword `caller` unless JK_MISSING. */
status jj_eval_call(jrt *r, const jnode *call, jframe *f, jval caller, jval *out) FALLIBLE;
status jj_frame_new(jrt *r, const junit *u, jframe *up, jframe **out) FALLIBLE;
void jj_frame_done(jrt *r, const junit *u, jframe *f);
status jj_scope_enter(jrt *r, const jscope *s, jframe *f) FALLIBLE;
void jj_scope_leave(const jscope *s, jframe *f);
status jj_assign(jrt *r, const jnode *target, jframe *f, jval v) FALLIBLE;
static inline jval *jj_slot(jframe *f, jref ref)
{
    for (int i = ref.hops; i > 0; i--) f = f->up;
    return &f->slots[ref.slot];
}

#endif
