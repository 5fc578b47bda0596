/* gather_rows as StableHLO. Padding's rows name token 0. */
#include "ops/op.h"

hlo_val gather_rows_hlo(hlo_call *c) { return hlo_take(c->h, c->in[0], c->in[1]); }
