// layer: engine
/* Random sequences of submit, abort, schedule and apply against the scheduler, with up to two plans in flight as in the engine. After
 * each operation the books must balance, and each token must be the one that the request's history alone determines. */
#include <stdio.h>

#include "engine/sched.h"
#include "tests/unit/engine/fake_device.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { VOCAB = 31, MAX_REQS = 64 };

typedef struct client {
    engine_request *r;
    int32_t tokens[80];
    int n_prompt, n, n_finals, n_prompt_lps;
    int rope_switch;
    const kv_layout *kv;
    bool wants_prompt_logprobs;
} client;

typedef struct input { const uint8_t *p; size_t n; } input;
static unsigned take(input *in, unsigned below)
{
    if (in->n == 0) return 0;
    in->n--;
    return *in->p++ % below;
}

#define MUST(cond) do { if (!(cond)) { fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #cond, err_msg()); abort(); } } while (0)

static int32_t argmax(const float *x)
{
    int32_t best = 0;
    for (int32_t i = 1; i < VOCAB; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static void on_output(const engine_output *o)
{
    client *c = o->user;
    float logits[VOCAB];
    MUST(c->n_finals == 0);
    for (int i = 0; i < o->n_tokens; i++) {
        fake_reference_kv(c->kv, c->tokens, c->n, c->rope_switch > 0 && c->n > c->rope_switch, VOCAB, logits);
        MUST(o->tokens[i] == argmax(logits));
        c->tokens[c->n++] = o->tokens[i];
    }
    if (o->prompt_logprobs) {
        MUST(c->n_prompt_lps++ == 0);
        for (int i = 1; i < c->n_prompt; i++) MUST(o->prompt_logprobs[i].n == 1 && o->prompt_logprobs[i].items[0].id == c->tokens[i]);
    }
    if (o->finish == FINISH_NONE) return;
    c->n_finals++;
    MUST(o->finish == FINISH_ABORT || (o->finish == FINISH_LENGTH && c->n_prompt_lps == c->wants_prompt_logprobs));
}

typedef struct world {
    fake_device dev;
    engine_options o;
    device_limits limits;
    block_hasher hasher;
    buf scratch;
    sched *s;
    stepper *stepper;
    plan *plans[2], *flight[2];
    int n_flight;
    client clients[MAX_REQS];
    int n_clients;
    int rope_switch;
    kv_layout kv;
} world;

static void set_up(world *w, input *in)
{
    engine_options o = { .max_model_len = 8 + (int)take(in, 33), .block_size = 1 + (int)take(in, 5), .max_num_seqs = 1 + (int)take(in, 6) };
    o.max_num_batched_tokens = o.max_num_seqs + (int)take(in, 20);
    const int preempt_every = take(in, 4) ? 0 : 5;
    if (preempt_every) o.max_num_batched_tokens += o.max_model_len; /* or a prompt would be thrown away before it is through, for ever */
    const unsigned flags = take(in, 64);
    o.no_prefix_caching = flags & 1;
    o.no_reserve_full_isl = flags & 2;
    o.policy = flags & 4 ? SCHED_PRIORITY : SCHED_FCFS;
    o.long_prefill_token_threshold = flags & 8 && !preempt_every ? 3 : 0;
    o.watermark = flags & 16 ? 0.3 : 0;
    w->rope_switch = flags & 32 ? 6 : 0;
    model_info mi = { .vocab_size = VOCAB, .max_model_len = o.max_model_len, .rope_switch_len = w->rope_switch };
    MUST(engine_plan(&o, &mi, &w->o, &w->limits) == ST_OK);
    w->kv = kv_layout_full();
    if (take(in, 3)) { /* groups of several kinds */
        w->kv.n_groups = 1 + (int)take(in, 4);
        for (int g = 0; g < w->kv.n_groups; g++) {
            const unsigned kind = take(in, 3);
            w->kv.group[g] = (kv_group){ .window = kind == 1 ? 1 + take(in, 12) : 0, .chunk = kind == 2 ? 1 + take(in, 12) : 0 };
        }
    }
    const int per_seq = (int)kv_layout_blocks(&w->kv, w->o.max_model_len, w->o.max_num_batched_tokens, w->o.block_size);
    const int32_t n_blocks = 1 + per_seq + (int)take(in, 10);
    w->dev = (fake_device){ .vocab = VOCAB, .block_size = w->o.block_size, .kv = w->kv };
    engine_device dev = fake_engine_device(&w->dev);
    MUST(dev.kv_resize(dev.self, n_blocks) == ST_OK);
    MUST(block_hasher_init(&w->hasher, HASH_XXHASH, "0", &w->scratch) == ST_OK);
    sched_config c = { .o = &w->o, .limits = &w->limits, .hasher = w->o.no_prefix_caching ? NULL : &w->hasher, .rope_switch_len = w->rope_switch,
                       .n_blocks = n_blocks, .kv = w->kv, .preempt_every = preempt_every };
    MUST(sched_new(&c, &w->s) == ST_OK);
    MUST(stepper_new(&dev, &w->limits, VOCAB, LOGPROBS_RAW, &w->stepper) == ST_OK);
    for (int i = 0; i < 2; i++) MUST(plan_new(&w->limits, w->kv.n_groups, &w->plans[i]) == ST_OK);
}

static void add(world *w, input *in)
{
    if (w->n_clients == MAX_REQS) return;
    client *c = &w->clients[w->n_clients++];
    const unsigned kind = take(in, 4);
    c->n_prompt = c->n = 1 + (int)take(in, (unsigned)w->o.max_model_len);
    c->rope_switch = w->rope_switch;
    c->kv = &w->kv;
    c->wants_prompt_logprobs = kind == 3;
    for (int i = 0; i < c->n; i++) c->tokens[i] = (int32_t)((unsigned)i * (kind == 1 ? 3 : 1) % VOCAB);
    sampling_params p = { .top_p = 1, .repetition_penalty = 1, .max_tokens = 1 + (int)take(in, 30), .logprobs = -2, .prompt_logprobs = kind == 3 ? 0 : -2 };
    request_spec spec = { .id = "f", .prompt = c->tokens, .n_prompt = c->n, .params = &p, .priority = (int64_t)take(in, 3), .on_output = on_output, .user = c };
    MUST(request_new(&spec, &w->o, VOCAB, w->rope_switch, w->kv.n_groups, w->o.no_prefix_caching ? NULL : &w->hasher, (uint64_t)w->n_clients, &c->r) == ST_OK);
    request_ref(c->r);
    sched_add(w->s, c->r);
}

static bool schedule(world *w)
{
    if (w->n_flight == 2) return false;
    plan *p = w->n_flight == 1 && w->flight[0] == w->plans[0] ? w->plans[1] : w->plans[0];
    if (!sched_plan(w->s, p)) return false;
    MUST(p->b.n_tokens <= w->limits.max_tokens && p->b.n_rows <= w->limits.max_rows && p->b.n_seqs <= w->limits.max_seqs);
    w->flight[w->n_flight++] = p;
    return true;
}

static void apply(world *w)
{
    if (w->n_flight == 0) return;
    plan *p = w->flight[0];
    w->flight[0] = w->flight[--w->n_flight];
    stepper_run(w->stepper, p);
    MUST(p->st == ST_OK);
    sched_apply(w->s, p);
}

static void tear_down(world *w)
{
    for (int i = 0; i < w->n_clients; i++) {
        MUST(w->clients[i].n_finals == 1);
        engine_request_release(w->clients[i].r);
    }
    sched_free(w->s);
    stepper_free(w->stepper);
    plan_free(w->plans[0]);
    plan_free(w->plans[1]);
    buf_free(&w->scratch);
    free(w->dev.store);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static world w;
    input in = { data, size };
    w = (world){0};
    set_up(&w, &in);
    while (in.n > 0) {
        switch (take(&in, 8)) {
        case 0: case 1: add(&w, &in); break;
        case 2: if (w.n_clients) sched_end(w.s, w.clients[take(&in, (unsigned)w.n_clients)].r, FINISH_ABORT, NULL); break;
        case 3: if (take(&in, 8) == 0) sched_reset_prefix_cache(w.s); break;
        case 4: case 5: schedule(&w); break;
        default: apply(&w); break;
        }
        MUST(sched_check(w.s) == ST_OK);
    }
    for (int i = 0; !sched_idle(w.s) || w.n_flight; i++) { /* whatever is left must come to its end */
        MUST(i < 20000);
        schedule(&w);
        apply(&w);
        MUST(sched_check(w.s) == ST_OK);
    }
    tear_down(&w);
    return 0;
}
