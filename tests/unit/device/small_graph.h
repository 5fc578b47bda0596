/* What small graphs of tests are made of: a bfloat16 weight, a linear layer, an input of all tokens or of the sampled rows. */
#ifndef SYSTOLIC_TESTS_DEVICE_SMALL_GRAPH_H
#define SYSTOLIC_TESTS_DEVICE_SMALL_GRAPH_H

#include "graph/graph.h"

static tensor weight(graph *g, const char *name, int64_t rows, int64_t cols)
{
    shape s = { DT_BF16, 2, { rows, cols }, { AX_EMBED, AX_EMBED } };
    return graph_weight(g, ROLE_REPL, &s, &(weight_part){ name, 0, rows, rows, AX_EMBED, 0, 0 }, 1);
}

static tensor linear(graph *g, const char *name, tensor x, int64_t rows)
{
    const shape *s = &graph_node(g, x)->s;
    return graph_add(g, OP_LINEAR, (tensor[]){ x, weight(g, name, rows, s->dim[s->rank - 1]) }, 2, NULL);
}

static tensor input(graph *g, input_kind kind)
{
    const bool rows = kind == IN_ROWS;
    return graph_input(g, kind, &(shape){ DT_I32, 1, { rows ? DIM_R : DIM_T }, { rows ? AX_ROWS : AX_TOKENS } });
}

#endif
