#include "engine/pace.h"

static double mix(double old, double fresh, double share) { return old > 0 ? old + share * (fresh - old) : fresh; }

void pace_note(pace *p, const engine_step_event *e)
{
    if (!(e->seconds > 0)) return;
    if (e->n_prefill_tokens == 0) {
        p->decode_s = mix(p->decode_s, e->seconds, 0.2);
        return;
    }
    if (e->n_prefill_tokens < PACE_LEAST) return; /* says little */
    double base = e->n_decode_tokens > 0 ? p->decode_s : 0, more = e->seconds - base;
    if (more < 0.2 * e->seconds) more = 0.2 * e->seconds;
    p->token_s = mix(p->token_s, more / e->n_prefill_tokens, 0.3);
}

int pace_prompt_tokens(const pace *p, double target_s, int most)
{
    if (p->token_s <= 0) return most;
    double end = target_s > 2 * p->decode_s ? target_s : 2 * p->decode_s, n = (end - p->decode_s) / p->token_s;
    if (n >= most) return most;
    int tokens = (int)n / PACE_LEAST * PACE_LEAST;
    if (tokens < PACE_LEAST) tokens = PACE_LEAST;
    return tokens < most ? tokens : most;
}
