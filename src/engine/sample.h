/* From logits to tokens, in vLLM's order of operations: allowed ids, bad words, min_tokens, logit bias, penalties, greedy choice or
 * temperature, min_p, top_k, top_p, exponential race.
 *
 * A pure function of one row of logits, the token history and the parameters: no state lives from step to step, so preemption,
 * batching and resumption cannot change a result. Randomness is a counter: hash(seed, output index, token id).
 * One thread per sampler (scratch memory). */
#ifndef SYSTOLIC_ENGINE_SAMPLE_H
#define SYSTOLIC_ENGINE_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"

/* A growable array of logprobs that keeps its memory. */
typedef struct lp_vec { token_logprob *data; size_t len, cap; } lp_vec;
status lp_vec_reserve(lp_vec *v, size_t n) FALLIBLE; /* room for n more */
void lp_vec_free(lp_vec *v);

typedef struct sample_input {
    const sampling_params *params;
    const int32_t *tokens;      /* prompt, then outputs */
    int n_prompt, n_tokens;
    uint64_t seed;
} sample_input;

/* Temperatures below this are greedy. */
#define GREEDY_BELOW 1e-5f

typedef struct sampler sampler;
status sampler_new(int vocab_size, logprobs_mode mode, sampler **out) FALLIBLE;
void sampler_free(sampler *s);

/* Chooses the next token. `logits` [vocab] is overwritten. With params->logprobs or logprob_token_ids the position's logprobs are
 * appended to `lps`: the token itself, then the best others or the requested ids. Fails only with ST_NOMEM, and then *token is valid. */
status sampler_next(sampler *s, const sample_input *in, float *logits, int32_t *token, lp_vec *lps) FALLIBLE;

/* For devices that choose the token themselves. */
bool sampler_wants_logprobs(const sampling_params *p);
/* The key of the race for output number `index`: the same whatever happened to the request in between. */
uint64_t sampler_key(uint64_t seed, int index);
/* What sampler_next appends to `lps` when it chooses `token`. `logits` [vocab], as the device computed them, is overwritten. */
status sampler_logprobs(sampler *s, const sample_input *in, float *logits, int32_t token, lp_vec *lps) FALLIBLE;

/* Logprobs of a prompt token given the logits of the position before it; nothing is processed, whatever the mode. */
status sampler_prompt(sampler *s, const sampling_params *p, int32_t token, const float *logits, lp_vec *lps) FALLIBLE;

#endif
