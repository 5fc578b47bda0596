/* What a program takes, from the operations' own account of themselves (device/sim/step_cost.h): compilers count the body of a loop
 * once, and all layers are one loop. */
#include "cli/compile.h"
#include "device/sim/step_cost.h"

enum { MOST_CONTEXT = 2048 };

int compile_assumed_context(const compile_plan *p)
{
    int half = p->c.limits.max_model_len / 2;
    return half < 1 ? 1 : half > MOST_CONTEXT ? MOST_CONTEXT : half;
}

/* Decode: every sequence has the assumed context. Else one sequence's tokens, the last of which ends that context (or begins at
 * 0, if there are more of them); each tile of queries reads the keys that it may see. A chunk is taken at its fullest. */
static step_reach reach_of(const lower_bucket *b, double context, const step_kind *k, double tile)
{
    double t = b->tokens, w = (double)(k->window > 0 ? k->window : k->chunk);
    step_reach r = {0};
    if (b->decode) {
        double seen = w > 0 && w < context ? w : context;
        return (step_reach){ t * seen, t * seen };
    }
    step_reach_add(&(step_kind){ .window = (int64_t)w }, t, context > t ? context : t, tile, &r);
    return r;
}

status compile_cost(const compile_plan *p, const compile_job *j, chip_work *out)
{
    const program_spec *s = &j->spec;
    int n;
    step_costs *costs;
    *out = (chip_work){0};
    if (s->sampler) {
        step_sampler_work(s->kind.rows, s->kind.vocab, s->kind.random, s->kind.cut, out);
        return ST_OK;
    }
    TRY(step_costs_new(j->c ? j->c : &p->c, &costs));
    const step_kind *kinds = step_costs_kinds(costs, &n);
    step_load l = { .tokens = s->bucket.tokens, .seqs = s->bucket.seqs, .rows = s->bucket.rows };
    for (int i = 0; i < n; i++) l.reach[i] = reach_of(&s->bucket, compile_assumed_context(p), &kinds[i], step_costs_tile(costs, i, &s->bucket));
    step_costs_work(costs, &l, out);
    step_costs_free(costs);
    return ST_OK;
}
