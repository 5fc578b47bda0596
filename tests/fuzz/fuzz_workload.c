// layer: cli
/* Traces of requests: no crash, no leak, a message with every refusal; what is taken is in order and within limits. */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "cli/workload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const workload *w)
{
    for (size_t i = 0; i < w->n; i++) {
        const work_item *x = &w->v[i];
        if (x->input < 1 || x->input > WORKLOAD_MAX_LEN || x->output < 1 || x->output > WORKLOAD_MAX_LEN) abort();
        if (!isfinite(x->at) || x->at < (i > 0 ? w->v[i - 1].at : 0)) abort();
        if ((size_t)x->ids_at + x->n_ids > w->n_ids) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int64_t live = mem_live();
    workload w;
    err_clear();
    status st = workload_parse((const char *)data, size, &w);
    if (st == ST_OK) {
        if (w.n == 0) abort();
        check(&w);
        st = workload_span(&w, workload_seconds(&w) * 2.5);
        if (st == ST_OK) check(&w);
        workload_free(&w);
    }
    if (st != ST_OK && !*err_msg()) abort();
    if (mem_live() != live) abort();
    return 0;
}
