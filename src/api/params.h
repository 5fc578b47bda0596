/* From a request body to sampling parameters: defaults, ranges, and the options that concern the answer only. */
#ifndef SYSTOLIC_API_PARAMS_H
#define SYSTOLIC_API_PARAMS_H

#include "api/app.h"

/* Everything lives in the request's arena. */
typedef struct gen_params {
    sampling_params sp;              /* max_tokens still without the context limit; seed without the child's index */
    bool has_max_tokens;             /* the request or generation_config gave one */
    bool prompt_only;                /* echo with max_tokens 0: one token is made and not shown */
    int n;
    const char **stop; int n_stop;
    int stop_hold;                   /* characters withheld while streaming: longest stop string - 1 */
    bool include_stop, skip_special, spaces_between, detokenize;
    bool stream, include_usage, continuous_usage;
    bool echo, return_token_ids, tokens_as_ids;
    int stream_interval;
    int n_show;                      /* logprobs shown per token: -2 none, -1 all, else k */
    int64_t priority;
    const char *cache_salt;
    int64_t truncate; bool has_truncate, truncate_right;
    bool add_special;
} gen_params;

/* `where` is FIELD_COMPLETION or FIELD_CHAT; the body has passed fields_check. */
status params_parse(const app *a, const jv *body, int where, arena *mem, gen_params *out, api_error *e) FALLIBLE;
/* "SamplingParams(n=1, ...)" for the request log. */
void params_repr(const gen_params *p, buf *out);

#endif
