#include "ops/vec_avx512.h"
#include "ops/vec.h"
#include "ops/segment_attention/segment_attention.h"
#include "ops/segment_attention/segment_attention_tile.h"

void segment_query_avx512(const segment_query *s) { query_body(s); }
