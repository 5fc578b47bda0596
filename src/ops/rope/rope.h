#ifndef SYSTOLIC_OPS_ROPE_H
#define SYSTOLIC_OPS_ROPE_H

#include "graph/graph.h"

/* Which of a position's three numbers (time, height, width) frequency i of a rope_table follows. */
int rope_stream(const node *n, int64_t i);

#endif
