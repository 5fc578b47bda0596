/* A whole server in the test's process: real HTTP, API, engine and tokenizer over a device that writes a script. The token
 * after position p is script[p % length], so every answer is known. The tokenizer has one token per byte, then specials. */
#ifndef SYSTOLIC_TESTS_API_FIXTURE_H
#define SYSTOLIC_TESTS_API_FIXTURE_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "api/server.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/fetch.h"
#include "base/mem.h"

enum { VOCAB = 260, EOS = 256, BOS = 257, STOP_ID = 258, MAX_LEN = 256 };

typedef struct script_device {
    int32_t script[64]; int n;
    int delay_us;
    atomic_int n_runs;
    int fail_at;
} script_device;

static status script_run(void *self, const batch *b)
{
    script_device *d = self;
    if (atomic_fetch_add(&d->n_runs, 1) + 1 == d->fail_at) return err_set(ST_INTERNAL, "the device broke");
    for (int r = 0; r < b->n_rows; r++) {
        float *row = b->logits + (size_t)r * VOCAB;
        for (int i = 0; i < VOCAB; i++) row[i] = i < 33 || i > 126 ? -20 : -(float)(i % 7);
        row[d->script[b->positions[b->rows[r]] % d->n]] = 8;
    }
    if (d->delay_us > 0) nanosleep(&(struct timespec){ 0, d->delay_us * 1000L }, NULL);
    return ST_OK;
}

static status script_resize(void *self, int32_t n)
{
    (void)self;
    (void)n;
    return ST_OK;
}

static int64_t script_block_bytes(void *self)
{
    (void)self;
    return 1024;
}

/* Byte-level BPE without merges: "Ġ" and friends are how bytes are written in such a vocabulary. */
static tokenizer *byte_tokenizer(void)
{
    buf b = {0};
    uint32_t next = 256;
    buf_str(&b, "{\"version\":\"1.0\",\"added_tokens\":[");
    static const char *const specials[] = { "<eos>", "<bos>", "<stop>" };
    for (int i = 0; i < 3; i++)
        buf_printf(&b, "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}", i ? "," : "", EOS + i, specials[i]);
    buf_str(&b, "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false},"
                "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
                "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"merges\":[],\"vocab\":{");
    for (int i = 0; i < 256; i++) {
        bool plain = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
        buf text = {0};
        jw w = jw_to(&text);
        buf ch = {0};
        buf_utf8(&ch, plain ? (uint32_t)i : next++);
        jw_strn(&w, ch.data, ch.len);
        buf_printf(&b, "%s%s:%d", i ? "," : "", text.data, i);
        buf_free(&text);
        buf_free(&ch);
    }
    buf_str(&b, "}}}");
    jv *spec = NULL;
    tokenizer *t = NULL;
    if (jv_parse(b.data, b.len, &spec) != ST_OK || tokenizer_new(spec, NULL, &t) != ST_OK) printf("  tokenizer: %s\n", err_msg());
    jv_free(spec);
    buf_free(&b);
    return t;
}

typedef struct fixture {
    script_device dev;
    tokenizer *tok;
    jinja *chat;
    engine *e;
    api_server *api;
    api_options o;
    engine_options eo;
    char url[64];
} fixture;

static const char *const fixture_names[] = { "tiny", "other" };

static void set_script(fixture *x, const char *bytes)
{
    x->dev.n = 0;
    for (const char *p = bytes; *p && x->dev.n < 64; p++) x->dev.script[x->dev.n++] = *p == '~' ? EOS : *p == '^' ? STOP_ID : (unsigned char)*p;
}

static const char chat_text[] =
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if tools %}T{{ tools|length }}{% endif %}{% if bad %}{{ raise_exception('no ' ~ bad) }}{% endif %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}";

/* Options and engine options may be changed between the two. */
static void fixture_init(fixture *x, const char *script)
{
    static const char *const key[] = { NULL };
    *x = (fixture){0};
    set_script(x, script);
    x->tok = byte_tokenizer();
    if (jinja_parse(chat_text, sizeof chat_text - 1, &x->chat) != ST_OK) printf("  template: %s\n", err_msg());
    x->eo = (engine_options){ .max_num_batched_tokens = 64, .max_num_seqs = 16, .max_model_len = MAX_LEN, .block_size = 4, .num_blocks_override = 1000, .kv_dtype = DT_F32 };
    x->o = (api_options){
        .served_names = { fixture_names, 2 }, .model_root = "/models/tiny", .vocab_size = VOCAB, .max_model_len = MAX_LEN, .max_logprobs = 20,
        .tok = x->tok, .chat_template = x->chat, .eos_id = EOS, .api_keys = { key, 0 }, .fingerprint = "fp", .memory_fraction = 0.92,
        .http = { .host = "127.0.0.1", .n_workers = 2 }, .no_log_stats = true,
    };
}

static bool fixture_start(fixture *x)
{
    static const model_info mi = { .architecture = "Script", .model_type = "script", .vocab_size = VOCAB, .max_model_len = MAX_LEN };
    engine_device dev = { .run = script_run, .kv_resize = script_resize, .kv_block_bytes = script_block_bytes, .self = &x->dev, .name = "Fake", .free_bytes = 1 << 30 };
    status st = engine_start_on(&dev, &mi, &x->eo, &x->e);
    if (st == ST_OK) {
        x->o.engine = x->e;
        st = api_start(&x->o, &x->api);
    }
    if (st != ST_OK) printf("  start: %s\n", err_msg());
    else snprintf(x->url, sizeof x->url, "http://127.0.0.1:%d", api_port(x->api));
    return st == ST_OK;
}

static void fixture_stop(fixture *x)
{
    if (x->api) api_close(x->api, 0);
    if (x->e) engine_stop(x->e, 0);
    api_free(x->api);
    jinja_free(x->chat);
    tokenizer_free(x->tok);
}

/* One request; body NULL is a GET. The answer's text is the caller's (buf_free). Returns the HTTP code, 0 if none came. */
static int ask_with(fixture *x, const char *path, const char *body, const char *const *headers, fetch_response *r)
{
    fetch *f = NULL;
    char url[256];
    static const char *const json[] = { "Content-Type: application/json", NULL };
    snprintf(url, sizeof url, "%s%s", x->url, path);
    *r = (fetch_response){0};
    if (fetch_open(&f) != ST_OK) return 0;
    fetch_options o = { .body = body, .body_len = body ? strlen(body) : 0, .headers = headers ? headers : body ? json : NULL, .total_timeout_s = 20 };
    if (fetch_run(f, url, &o, r) != ST_OK) printf("  %s: %s\n", path, err_msg());
    fetch_close(f);
    return r->code;
}

static int ask(fixture *x, const char *path, const char *body, jv **out)
{
    fetch_response r;
    int code = ask_with(x, path, body, NULL, &r);
    *out = NULL;
    if (r.body.len && jv_parse(r.body.data, r.body.len, out) != ST_OK) printf("  not JSON: %s\n", r.body.data);
    fetch_response_free(&r);
    return code;
}

/* The raw text of an answer, for streams. */
static char *ask_text(fixture *x, const char *path, const char *body, int *code)
{
    fetch_response r;
    *code = ask_with(x, path, body, NULL, &r);
    char *text = mem_strdup(buf_cstr(&r.body));
    fetch_response_free(&r);
    return text;
}

/* "choices.0.text"-like path through objects and lists. */
static const jv *dig(const jv *v, const char *path)
{
    char part[64];
    while (*path && v) {
        size_t n = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        v = jv_is(v, JV_ARR) ? jv_at(v, (size_t)atoi(part)) : jv_get(v, part);
        path += n;
        if (*path) path++;
    }
    return v;
}
#define DIG_STR(v, path) jv_str(dig(v, path), "(none)")
#define DIG_INT(v, path) jv_i64(dig(v, path), -999)

#endif
