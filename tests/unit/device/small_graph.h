/* Small graphs for tests of prices: bfloat16 weights, linear layers, inputs of all tokens or of the sampled rows, and models of
 * attention and one linear layer each. */
#ifndef SYSTOLIC_TESTS_DEVICE_SMALL_GRAPH_H
#define SYSTOLIC_TESTS_DEVICE_SMALL_GRAPH_H

#include <stdio.h>

#include "ops/op.h"

enum { HEADS = 4, HEAD = 128, WIDE = HEADS * HEAD, VOCAB = 1000 };

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

static status make(int64_t window, int n_layers, graph **out)
{
    graph *g;
    TRY(graph_new(ops_rules(), &g));
    tensor x = graph_add(g, OP_EMBED, (tensor[]){ input(g, IN_TOKENS), weight(g, "embed", VOCAB, WIDE) }, 2, NULL);
    for (int l = 0; l < n_layers; l++) {
        char name[32];
        graph_set_layer(g, l);
        snprintf(name, sizeof name, "%d.q", l);
        tensor q = linear(g, name, x, WIDE);
        q = graph_add(g, OP_SPLIT_HEADS, &q, 1, &(op_attrs){ .split_heads = { HEAD } });
        q = graph_add(g, OP_PAGED_ATTENTION, (tensor[]){ q, q, q }, 3, &(op_attrs){ .paged_attention = { .cache = l, .scale = 0.1, .window = window } });
        x = graph_add(g, OP_MERGE_HEADS, &q, 1, NULL);
    }
    graph_set_layer(g, -1);
    x = graph_add(g, OP_GATHER_ROWS, (tensor[]){ x, input(g, IN_ROWS) }, 2, NULL);
    status st = graph_finish(g, linear(g, "head", x, VOCAB));
    if (st == ST_OK) *out = g;
    else graph_free(g);
    return st;
}

#endif
