/* A request on its way: its sequences in the engine, and the state of its answer.
 *
 * Threads: the http worker creates a job and submits it holding job.mu. From then on one output thread owns everything in
 * it; the engine's callback and the disconnect notice only post messages to that thread. The job goes when its creator,
 * every submitted sequence and every message in flight have let go. */
#ifndef SYSTOLIC_API_JOB_H
#define SYSTOLIC_API_JOB_H

#include "api/prompt.h"

typedef struct job job;
typedef struct seq seq;

/* Something for an output thread. Tokens and logprobs follow in the same block. */
typedef struct out_msg {
    struct out_msg *next;
    enum { MSG_OUTPUT, MSG_LOST, MSG_CANCEL, MSG_ABORT } kind;   /* LOST: an output could not be copied, out of memory */
    bool owned;                                       /* freed after use; embedded ones are not */
    seq *s; job *j;
    const int32_t *tokens; int n_tokens;
    const position_logprobs *logprobs, *prompt_logprobs;
    finish_reason finish; int32_t stop_token; const char *error;
    int n_cached; double arrival_s, scheduled_s, first_token_s, now_s;
} out_msg;

enum { LP_TOKENS, LP_LOGPROBS, LP_TOP, LP_OFFSETS, LP_PARTS };

/* One sequence: choice `index` of the answer. */
struct seq {
    job *job;
    int index, prompt;
    engine_request *er;
    detok *d;
    buf text; size_t text_sent;          /* text is final up to where stop strings allow; sent: what chunks carried */
    harmony h; buf reasoning; size_t reasoning_sent; int n_reasoning; /* chat in the harmony format only; tokens of it */
    size_t stop_from;                    /* stop strings are looked for in text after this (min_tokens) */
    i32vec tokens; size_t tokens_sent;
    buf lp[LP_PARTS]; int64_t text_offset; /* JSON of the logprobs not yet written, elements with commas between */
    buf prompt_lp; bool has_prompt_lp;   /* JSON of "prompt_logprobs" */
    bool chunked, echoed, done;          /* done: nothing the engine still says about it matters */
    finish_reason finish; int stop_index; int32_t stop_token; /* -1: none */
    int n_cached; double arrival_s, scheduled_s, first_token_s, last_token_s;
    atomic_bool lost;
    out_msg final_msg, lost_msg;         /* so that the end of a sequence needs no memory */
};

typedef struct job_ops {
    const char *name;                                            /* for the log: "completion" */
    void (*logprob)(job *j, seq *s, size_t pos, const position_logprobs *lp); /* token number pos: append to s->lp */
    status (*echo_logprobs)(job *j, seq *s, const prompt *p, const position_logprobs *lp); /* those of the prompt, for echo; may be NULL */
    void (*first)(job *j);                                       /* streaming: before the first chunk; may be NULL */
    void (*chunk)(job *j, seq *s);                               /* streaming: what is new, and the end */
    void (*finish)(job *j);                                      /* all sequences are done */
} job_ops;

struct job {
    app *app;
    call call;
    const job_ops *ops;
    atomic_int refs;
    uint64_t id; struct out_worker *worker;
    job *next, *prev;                    /* list of live jobs, under app->jobs_mu */
    pthread_mutex_t mu;                  /* held while it is submitted and while the output thread works on it */
    arena mem;
    gen_params p;
    prompt *prompts; int n_prompts;
    seq *seqs; int n_seqs, n_open;       /* n_open: not done */
    const char *request_id, *model; int64_t created;
    const harmony_marks *harmony;        /* chat: how answers are split, or NULL */
    const char *role, *last_content, *prompt_text; /* chat; prompt_text only when asked for */
    buf json, out;                       /* one chunk; what goes to the client next */
    size_t bytes; double last_write_s;
    bool include_reasoning;              /* chat: reasoning is shown */
    bool streaming, answered, cancelled, first_sent, counted_load;
    out_msg cancel_msg, abort_msg; bool cancel_posted, abort_posted; /* the flags under app->jobs_mu */
};

/* A job with one reference, the caller's, and its id made from the headers and the body ("cmpl-..."). */
status job_new(const call *c, const job_ops *ops, const char *id_prefix, job **out, api_error *e) FALLIBLE;
void job_release(job *j);
/* Makes n sequences per prompt and submits them; the answer then comes from the output thread. After a failure nothing was
 * answered and the caller reports *e. */
status job_submit(job *j, api_error *e) FALLIBLE;
/* From here on nothing is written; the request no longer counts for /load. */
void job_mark_answered(job *j);
/* Gives up with an error: as the answer, or as an event of the stream. */
void job_fail(job *j, const api_error *e);
/* Whole answer of a job without streaming. */
void job_reply(job *j, const buf *json);
/* Sends j->json as an event / everything in j->out. */
void job_event(job *j);

/* ---- output threads (workers.c) ---- */
status workers_start(app *a, int n) FALLIBLE;
void workers_stop(app *a);
void worker_assign(app *a, job *j);
void worker_post(struct out_worker *w, out_msg *m);
/* The engine's callback (request_spec.on_output). */
void worker_on_output(const engine_output *o);
/* Posts MSG_CANCEL to a live job; any thread. */
void job_cancel_by_id(app *a, uint64_t id);
/* Aborts what every live job still has in the engine; the jobs are answered with finish_reason "abort". */
void job_abort_all(app *a);

/* ---- output.c ---- */
/* Takes one message of the engine into the sequence: text, stop strings, logprobs, state. */
status output_take(seq *s, const out_msg *m) FALLIBLE;
/* Text that may be sent now: from text_sent to the return value. */
size_t output_sendable(const seq *s);
const char *output_finish_name(finish_reason r);
/* The value of "stop_reason". */
void output_stop_reason(const seq *s, jw *w);
/* The string of token ids[pos] for logprobs, given those before it. */
status output_token_text(const job *j, const int32_t *ids, size_t pos, buf *out) FALLIBLE;
/* The string of another candidate for that position. */
status output_candidate_text(const job *j, const int32_t *ids, size_t pos, int32_t candidate, buf *out) FALLIBLE;
/* {"<id>": {"logprob", "rank", "decoded_token"}, ...} for every prompt position. */
status output_prompt_logprobs(const job *j, const prompt *p, const position_logprobs *lp, buf *out) FALLIBLE;
double output_clamp(float logprob);     /* -inf is written as -9999.0 */
/* Number of entries to show of a position that has n. */
int output_top_count(const job *j, int n, int k);

/* ---- usage.c ---- */
typedef struct usage { int64_t prompt, completion, cached, reasoning; } usage;
usage usage_of_job(const job *j);
usage usage_of_seq(const seq *s);
void usage_json(const job *j, const usage *u, bool nulls, jw *w);
/* "metrics": null or the timing object (--enable-per-request-metrics, one choice). */
void usage_metrics(const job *j, jw *w);
void usage_log_received(const job *j, const seq *s);
void usage_log_generated(const seq *s, const char *text, size_t n, const char *suffix);

/* Comma-separated ids in brackets. */
void json_ids(jw *w, const int32_t *ids, size_t n);

#endif
