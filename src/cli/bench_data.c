#include "cli/bench_data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

static const char *const names[] = { "random", "sharegpt", "custom", "prefix_repetition", "burstgpt", NULL };
const char *const *bench_data_names(void) { return names; }

double bench_uniform(bench_rng *r)
{
    uint64_t z = hash_mix64(r->state);
    r->state += HASH_GOLDEN;
    return (double)(z >> 11) * 0x1p-53;
}

int bench_range(bench_rng *r, int lo, int hi) { return lo + (int)(bench_uniform(r) * ((double)hi - lo + 1)); }

void bench_data_free(bench_prompt *p, size_t n)
{
    for (size_t i = 0; p && i < n; i++) {
        mem_free(p[i].ids);
        mem_free(p[i].text);
    }
    mem_free(p);
}

/* Appends n ordinary (not special) token ids. */
static void random_ids(bench_rng *r, const tokenizer *tok, int vocab, int n, i32vec *out)
{
    for (int tries = 0; n > 0 && !out->failed; tries++) {
        int32_t id = bench_range(r, 0, vocab - 1);
        /* A vocabulary of nothing but special tokens must not hang. */
        if (tok && tries < 1000 && (tokenizer_is_added(tok, id) || !tokenizer_token(tok, id, NULL))) continue;
        i32vec_push(out, id);
        tries = 0;
        n--;
    }
}

/* What the tokenizer adds to every text (BOS). */
static status count_special(const tokenizer *tok, size_t *n)
{
    i32vec ids = {0};
    *n = 0;
    if (!tok) return ST_OK;
    TRY(tokenizer_encode(tok, "", 0, true, &ids));
    *n = ids.len;
    i32vec_free(&ids);
    return ST_OK;
}

/* Decodes and encodes ids until both agree on n of them: cut where there are more, filled with random ones where there are
 * fewer. Ten tries, then the length is what it is. *text is that of ids. */
static status settle(bench_rng *r, const tokenizer *tok, int vocab, size_t n, i32vec *ids, buf *text)
{
    i32vec again = {0};
    status st = ST_OK;
    for (int tries = 0; tries < 10; tries++) {
        buf_clear(text);
        again.len = 0;
        TRY_OUT(tokenizer_decode(tok, ids->data, ids->len, true, text));
        TRY_OUT(tokenizer_encode(tok, buf_cstr(text), text->len, false, &again));
        bool settled = again.len == n;
        /* A cut may fall into a character, which is as long again after decoding: each try cuts deeper and fills up. */
        if (again.len > n) again.len = n - ((size_t)tries < n ? (size_t)tries : n - 1);
        if (again.len < n) random_ids(r, tok, vocab, (int)(n - again.len), &again);
        TRY_OUT(i32vec_status(&again));
        TRY_OUT(buf_status(text));
        i32vec swap = *ids;
        *ids = again;
        again = swap;
        if (settled) break;
    }
    buf_clear(text);
    TRY_OUT(tokenizer_decode(tok, ids->data, ids->len, true, text));
    st = buf_status(text);
out:
    i32vec_free(&again);
    return st;
}

/* A prompt of random ids; with a tokenizer its text, whose length as a server counts it is that of ids. Takes `ids`. */
static status from_ids(bench_rng *r, i32vec *ids, const tokenizer *tok, int vocab, int output_len, bench_prompt *out)
{
    buf text = {0};
    status st;
    TRY_OUT(i32vec_status(ids));
    if (tok) {
        size_t n_special;
        TRY_OUT(count_special(tok, &n_special));
        if (ids->len > n_special) ids->len -= n_special;
        TRY_OUT(settle(r, tok, vocab, ids->len, ids, &text));
        ids->len = 0;
        TRY_OUT(tokenizer_encode(tok, buf_cstr(&text), text.len, true, ids));
        TRY_OUT(i32vec_status(ids));
        out->text_len = text.len;
        out->text = buf_take(&text);
        if (!out->text) TRY_OUT(err_nomem());
    }
    out->ids = ids->data;
    out->n_ids = (int)ids->len;
    out->output_len = output_len;
    *ids = (i32vec){0};
    st = ST_OK;
out:
    buf_free(&text);
    i32vec_free(ids);
    return st;
}

static char *copy_text(const char *text, size_t n)
{
    char *copy = mem_alloc(n + 1);
    if (!copy) return NULL;
    if (n) memcpy(copy, text, n);
    copy[n] = 0;
    return copy;
}

static status from_text(const char *text, size_t n, const tokenizer *tok, int output_len, bench_prompt *out)
{
    i32vec ids = {0};
    status st = tokenizer_encode(tok, text, n, true, &ids);
    if (st == ST_OK) st = i32vec_status(&ids);
    char *copy = st == ST_OK ? copy_text(text, n) : NULL;
    if (!copy) {
        i32vec_free(&ids);
        return st == ST_OK ? err_nomem() : st;
    }
    *out = (bench_prompt){ ids.data, (int)ids.len, copy, n, output_len };
    return ST_OK;
}

static int around(bench_rng *r, int len, double ratio)
{
    int lo = (int)floor(len * (1 - ratio)), hi = (int)ceil(len * (1 + ratio));
    return bench_range(r, lo < 1 ? 1 : lo, hi < 1 ? 1 : hi);
}

static status make_random(const bench_data_options *o, const tokenizer *tok, int vocab, bench_prompt *p)
{
    bench_rng r = { o->seed };
    i32vec prefix = {0};
    status st = ST_OK;
    int in_len = o->input_len ? o->input_len : 1024, out_len = o->output_len ? o->output_len : 128;
    random_ids(&r, tok, vocab, o->prefix_len, &prefix);
    TRY_OUT(i32vec_status(&prefix));
    for (int i = 0; i < o->n_prompts; i++) {
        i32vec ids = {0};
        int n = around(&r, in_len, o->range_ratio), n_out = around(&r, out_len, o->range_ratio);
        i32vec_append(&ids, prefix.data, prefix.len);
        random_ids(&r, tok, vocab, n, &ids);
        TRY_OUT(from_ids(&r, &ids, tok, vocab, n_out, &p[i]));
    }
out:
    i32vec_free(&prefix);
    return st;
}

static status make_prefix_repetition(const bench_data_options *o, const tokenizer *tok, int vocab, bench_prompt *p)
{
    bench_rng r = { o->seed };
    int n_prefixes = o->repeat_prefixes ? o->repeat_prefixes : 10;
    int n_prefix = o->repeat_prefix_len ? o->repeat_prefix_len : 256, n_suffix = o->repeat_suffix_len ? o->repeat_suffix_len : 256;
    i32vec prefixes = {0};
    status st = ST_OK;
    random_ids(&r, tok, vocab, n_prefixes * n_prefix, &prefixes);
    TRY_OUT(i32vec_status(&prefixes));
    for (int i = 0; i < o->n_prompts; i++) {
        i32vec ids = {0};
        i32vec_append(&ids, prefixes.data + (size_t)(i % n_prefixes) * (size_t)n_prefix, (size_t)n_prefix);
        random_ids(&r, tok, vocab, n_suffix, &ids);
        TRY_OUT(from_ids(&r, &ids, tok, vocab, o->output_len ? o->output_len : 128, &p[i]));
    }
out:
    i32vec_free(&prefixes);
    return st;
}

/* [{"conversations": [{"value": prompt}, {"value": answer}, ...]}, ...]; vLLM's filter on lengths. */
static status make_sharegpt(const bench_data_options *o, const tokenizer *tok, bench_prompt *p, size_t *n)
{
    jv *data = NULL;
    i32vec answer = {0};
    status st = jv_parse_file(o->path, (size_t)4 << 30, &data);
    if (st != ST_OK) return st;
    if (!jv_is(data, JV_ARR)) {
        st = err_set(ST_INVALID, "%s: expected a list of conversations", o->path);
        goto out;
    }
    for (size_t i = 0; i < jv_len(data) && *n < (size_t)o->n_prompts; i++) {
        const jv *turns = jv_get(jv_at(data, i), "conversations");
        const jv *ask = jv_get(jv_at(turns, 0), "value"), *reply = jv_get(jv_at(turns, 1), "value");
        if (!jv_is(ask, JV_STR) || !jv_is(reply, JV_STR)) continue;
        answer.len = 0;
        TRY_OUT(tokenizer_encode(tok, jv_str(reply, ""), jv_len(reply), false, &answer));
        int out_len = o->output_len ? o->output_len : (int)answer.len;
        bench_prompt one = {0};
        TRY_OUT(from_text(jv_str(ask, ""), jv_len(ask), tok, out_len, &one));
        if (one.n_ids < 4 || (!o->output_len && out_len < 4) || one.n_ids > 1024 || one.n_ids + out_len > 2048) {
            mem_free(one.ids);
            mem_free(one.text);
            continue;
        }
        p[(*n)++] = one;
    }
out:
    i32vec_free(&answer);
    jv_free(data);
    return st;
}

typedef status line_fn(void *arg, const bench_data_options *o, const char *line, size_t n, int line_no, bench_prompt *out, bool *skip);

static status each_line(const bench_data_options *o, line_fn *fn, void *arg, bench_prompt *p, size_t *n)
{
    FILE *f = fopen(o->path, "rb");
    if (!f) return err_errno("cannot open %s", o->path);
    buf line = {0};
    status st = ST_OK;
    int line_no = 0, c;
    do {
        buf_clear(&line);
        while ((c = getc(f)) != EOF && c != '\n' && line.len < (16u << 20)) buf_char(&line, (char)c);
        TRY_OUT(buf_status(&line));
        line_no++;
        if (line.len == 0) continue;
        bool skip = false;
        st = fn(arg, o, line.data, line.len, line_no, &p[*n], &skip);
        if (st != ST_OK) {
            st = err_wrap(st, "%s line %d", o->path, line_no);
            goto out;
        }
        *n += !skip;
    } while (c != EOF && *n < (size_t)o->n_prompts);
out:
    buf_free(&line);
    fclose(f);
    return st;
}

/* custom: {"prompt": "...", "output_tokens": N} per line. */
static status custom_line(void *arg, const bench_data_options *o, const char *line, size_t n, int line_no, bench_prompt *out, bool *skip)
{
    (void)line_no;
    (void)skip;
    jv *v = NULL;
    TRY(jv_parse(line, n, &v));
    const jv *prompt = jv_get(v, "prompt");
    int64_t len = o->output_len ? o->output_len : jv_get_i64(v, "output_tokens", 256);
    status st = !jv_is(prompt, JV_STR) ? err_set(ST_INVALID, "\"prompt\" must be a string")
              : len < 1 || len > 1 << 24 ? err_set(ST_INVALID, "\"output_tokens\" must be at least 1")
              : from_text(jv_str(prompt, ""), jv_len(prompt), arg, (int)len, out);
    jv_free(v);
    return st;
}

/* burstgpt: Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type; failed requests (0 tokens) are passed over. */
typedef struct burst { const tokenizer *tok; bench_rng rng; int vocab; } burst;
static status burst_line(void *arg, const bench_data_options *o, const char *line, size_t n, int line_no, bench_prompt *out, bool *skip)
{
    burst *b = arg;
    *skip = true;
    if (line_no == 1) return ST_OK; /* header */
    char copy[512];
    snprintf(copy, sizeof copy, "%.*s", (int)(n < 511 ? n : 511), line);
    char *at = copy, *field[4] = {0};
    for (int i = 0; i < 4 && at; i++) field[i] = strsep(&at, ",");
    if (!field[3]) return err_set(ST_INVALID, "expected at least 4 comma-separated fields");
    long in = strtol(field[2], NULL, 10), len = strtol(field[3], NULL, 10);
    if (in < 1 || len < 1 || in > 1 << 20 || len > 1 << 20) return ST_OK;
    *skip = false;
    i32vec ids = {0};
    random_ids(&b->rng, b->tok, b->vocab, (int)in, &ids);
    return from_ids(&b->rng, &ids, b->tok, b->vocab, o->output_len ? o->output_len : (int)len, out);
}

static status make(const bench_data_options *o, const tokenizer *tok, int vocab, bench_prompt *p, size_t *n)
{
    bool is_random = strcmp(o->dataset, "random") == 0;
    if (is_random || strcmp(o->dataset, "prefix_repetition") == 0) {
        *n = (size_t)o->n_prompts;
        return is_random ? make_random(o, tok, vocab, p) : make_prefix_repetition(o, tok, vocab, p);
    }
    if (!o->path) return err_set(ST_INVALID, "--dataset-name %s needs --dataset-path", o->dataset);
    if (!tok) return err_set(ST_INVALID, "--dataset-name %s needs a tokenizer", o->dataset);
    if (strcmp(o->dataset, "sharegpt") == 0) return make_sharegpt(o, tok, p, n);
    if (strcmp(o->dataset, "custom") == 0) return each_line(o, custom_line, (void *)(uintptr_t)tok, p, n);
    if (strcmp(o->dataset, "burstgpt") == 0) {
        burst b = { tok, { o->seed }, vocab };
        return each_line(o, burst_line, &b, p, n);
    }
    return err_set(ST_UNSUPPORTED, "--dataset-name %s is not supported (random, sharegpt, custom, prefix_repetition and burstgpt are)", o->dataset);
}

/* Fills p[*n..n_prompts) with copies drawn at random from p[0..*n), as vLLM does when a file holds too few. */
static status oversample(const bench_data_options *o, bench_prompt *p, size_t *n)
{
    bench_rng r = { o->seed };
    int have = (int)*n;
    if (have < o->n_prompts) log_info("%s holds %d usable prompts; some are drawn again to make %d", o->path, have, o->n_prompts);
    while (*n < (size_t)o->n_prompts) {
        const bench_prompt *from = &p[bench_range(&r, 0, have - 1)];
        bench_prompt *to = &p[*n];
        *to = (bench_prompt){ mem_array((size_t)from->n_ids + 1, sizeof *to->ids), from->n_ids, copy_text(from->text, from->text_len), from->text_len, from->output_len };
        if (!to->ids || !to->text) return err_nomem(); /* bench_data_make frees all of p */
        memcpy(to->ids, from->ids, (size_t)from->n_ids * sizeof *to->ids);
        ++*n;
    }
    return ST_OK;
}

status bench_data_make(const bench_data_options *o, const tokenizer *tok, bench_prompt **out, size_t *n)
{
    int vocab = tok ? (int)tokenizer_vocab_size(tok) : o->vocab_size;
    if (o->n_prompts < 1) return err_set(ST_INVALID, "--num-prompts must be at least 1");
    if (vocab < 1) return err_set(ST_INVALID, "the vocabulary is empty");
    bench_prompt *p = mem_calloc((size_t)o->n_prompts, sizeof *p);
    if (!p) return err_nomem();
    size_t count = 0;
    status st = make(o, tok, vocab, p, &count);
    if (st == ST_OK && count == 0) st = err_set(ST_INVALID, "%s: no usable prompt", o->path);
    if (st == ST_OK && !o->no_oversample) st = oversample(o, p, &count);
    if (st != ST_OK) {
        bench_data_free(p, (size_t)o->n_prompts);
        return st;
    }
    *out = p;
    *n = count;
    return ST_OK;
}
