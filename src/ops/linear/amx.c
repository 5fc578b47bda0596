#include "ops/linear/amx.h"

#if defined(__x86_64__)
#include <stdatomic.h>

#include "ops/isa.h"

static _Atomic int rows_from[AMX_KINDS]; /* 0: 1 */

amx_kind amx_kind_of(quant_scheme s)
{
    quant_info q = quant_describe(s);
    if (q.type == DT_I8) return q.group ? AMX_INT8_G32 : AMX_INT8;
    return q.group == 32 ? AMX_INT4_G32 : AMX_INT4_G128;
}

void amx_set_rows(const int rows[AMX_KINDS])
{
    for (int i = 0; i < AMX_KINDS; i++) atomic_store_explicit(&rows_from[i], rows[i], memory_order_relaxed);
}

static void run(const qgemm_call *c, int64_t p0, int64_t p1)
{
    bool tiles = c->m >= atomic_load_explicit(&rows_from[amx_kind_of(c->w->scheme)], memory_order_relaxed);
    (tiles ? qgemm_tiles_amx : qgemm_avx512vnni.run)(c, p0, p1);
}

static void round_row(const float *x, int64_t k, int64_t group, int offset, int8_t *q, qgemm_scale *s)
{
    qgemm_avx512vnni.round(x, k, group, offset, q, s);
}

static bool available(void) { return isa_available(ISA_avx512_amx) && qgemm_avx512vnni.available(); }
static bool available_emulated(void) { return isa_available(ISA_avx512_amx_emulated) && qgemm_avx512vnni.available(); }

const qgemm_kernels qgemm_amx = { "amx", available, round_row, run };
const qgemm_kernels qgemm_amx_emulated = { "amx_emulated", available_emulated, round_row, qgemm_tiles_amx_emulated };
#endif
