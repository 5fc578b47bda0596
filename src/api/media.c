#include "api/media.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

static const char *const kind_names[MEDIA_KINDS] = { "image", "audio" };

/* ---- setting up ---- */

static int32_t config_id(const jv *c, const char *name, const char *other)
{
    const jv *thinker = jv_get(c, "thinker_config"), *from = jv_get(thinker, name) ? thinker : c;
    int64_t id = jv_get_i64(from, name, -1);
    if (id < 0 && other) id = jv_get_i64(from, other, -1);
    return id >= 0 && id < INT32_MAX ? (int32_t)id : -1;
}

/* The string of a token as it is written in a prompt; "" for none. */
static void word_of(const tokenizer *t, int32_t id, char *dst, size_t cap)
{
    size_t n = 0;
    const char *s = id >= 0 ? tokenizer_token(t, id, &n) : NULL;
    dst[0] = 0;
    if (s && n < cap) {
        memcpy(dst, s, n);
        dst[n] = 0;
    }
}

static void if_known(const tokenizer *t, const char *word, char *dst, size_t cap)
{
    snprintf(dst, cap, "%s", tokenizer_token_id(t, word, strlen(word)) >= 0 ? word : "");
}

static void put_marker(media_words *w, media_kind k, const char *before, const char *after)
{
    snprintf(w->found[k], sizeof w->found[k], "%s", w->token[k]);
    snprintf(w->marker[k], sizeof w->marker[k], "%.40s%.40s%.40s", before, w->token[k], after);
}

static void qwen_words(const api_options *o, media_words *w)
{
    char a[64], b[64];
    word_of(o->tok, config_id(o->media_config, "vision_start_token_id", NULL), a, sizeof a);
    word_of(o->tok, config_id(o->media_config, "vision_end_token_id", NULL), b, sizeof b);
    put_marker(w, MEDIA_IMAGE, a, b);
    word_of(o->tok, config_id(o->media_config, "audio_start_token_id", NULL), a, sizeof a);
    word_of(o->tok, config_id(o->media_config, "audio_end_token_id", NULL), b, sizeof b);
    put_marker(w, MEDIA_AUDIO, a, b);
}

/* Rows stand between the tokens that begin and end an image; templates write the first of them, or <|image|>. */
static void framed_words(const api_options *o, bool gemma, media_words *w)
{
    char begin[64], end[64];
    word_of(o->tok, config_id(o->media_config, "boi_token_index", NULL), begin, sizeof begin);
    word_of(o->tok, config_id(o->media_config, "eoi_token_index", NULL), end, sizeof end);
    if_known(o->tok, "<|image|>", w->found[MEDIA_IMAGE], sizeof w->found[MEDIA_IMAGE]);
    if (gemma || !w->found[MEDIA_IMAGE][0]) snprintf(w->found[MEDIA_IMAGE], sizeof w->found[MEDIA_IMAGE], "%s", begin);
    snprintf(w->marker[MEDIA_IMAGE], sizeof w->marker[MEDIA_IMAGE], "%s", w->found[MEDIA_IMAGE]);
    snprintf(w->before, sizeof w->before, gemma ? "\n\n%s" : "%s", begin);
    snprintf(w->after, sizeof w->after, gemma ? "%s\n\n" : "%s", end);
    if (gemma) return;
    if_known(o->tok, "<|tile_x_separator|>", w->tile_x, sizeof w->tile_x);
    if_known(o->tok, "<|tile_y_separator|>", w->tile_y, sizeof w->tile_y);
    if_known(o->tok, "<|image|>", w->whole, sizeof w->whole);
}

static void limits(const api_options *o, struct media_setup *m)
{
    for (int k = 0; k < MEDIA_KINDS; k++) {
        const jv *v = jv_get(o->media_limits, kind_names[k]);
        m->limit[k] = jv_is(v, JV_OBJ) ? jv_get_i64(v, "count", 999) : jv_i64(v, 999);
    }
}

static int64_t env_pixels(void)
{
    const char *v = getenv("VLLM_MAX_IMAGE_PIXELS");
    return v && *v ? strtoll(v, NULL, 10) : 0;
}

status media_setup_new(const api_options *o, struct media_setup **out)
{
    *out = NULL;
    if (!o->media_processor || !o->towers || !o->tok) return ST_OK;
    struct media_setup *m = mem_calloc(1, sizeof *m);
    if (!m) return err_nomem();
    const char *type = jv_get_str(o->media_config, "model_type", "");
    m->processor = o->media_processor;
    m->towers = o->towers;
    m->domains = o->media_domains;
    m->path = o->media_path;
    m->image = image_defaults;
    m->image.max_pixels = env_pixels();
    limits(o, m);
    m->words.id[MEDIA_IMAGE] = config_id(o->media_config, "image_token_id", "image_token_index");
    m->words.id[MEDIA_AUDIO] = config_id(o->media_config, "audio_token_id", NULL);
    for (int k = 0; k < MEDIA_KINDS; k++) word_of(o->tok, m->words.id[k], m->words.token[k], sizeof m->words.token[k]);
    m->tiles = strcmp(type, "llama4") == 0;
    m->sees_all = strcmp(type, "gemma3") == 0;
    m->mrope = !m->tiles && !m->sees_all;
    if (m->mrope) qwen_words(o, &m->words);
    else framed_words(o, m->sees_all, &m->words);
    *out = m;
    return ST_OK;
}

void media_setup_free(struct media_setup *m) { mem_free(m); }

/* ---- parts ---- */

media_kind media_kind_of(const char *t)
{
    if (strcmp(t, "image_url") == 0) return MEDIA_IMAGE;
    return strcmp(t, "input_audio") == 0 || strcmp(t, "audio_url") == 0 ? MEDIA_AUDIO : MEDIA_KINDS;
}

status media_note(const app *a, conversation *c, media_kind kind, const jv *part, arena *mem, api_error *e)
{
    const struct media_setup *m = a->media;
    if (!m || !media_processor_takes(m->processor, kind) || !towers_has(m->towers, (encoder_kind)kind) || !m->words.token[kind][0])
        return api_bad(e, "messages", "Content parts of this type are not supported: the model takes no %s input.", kind_names[kind]);
    int count = 1;
    for (int i = 0; i < c->n_media; i++) count += c->media[i].kind == (int)kind;
    if (count > m->limit[kind])
        return api_bad(e, "messages", "At most %" PRId64 " %s(s) may be provided in one prompt. Set '--limit-mm-per-prompt' to increase this limit.", m->limit[kind], kind_names[kind]);
    if (c->n_media == c->cap_media) {
        const int cap = c->cap_media ? 2 * c->cap_media : 8;
        media_part *more = arena_alloc(mem, (size_t)cap * sizeof *more);
        if (!more) return api_fail_status(e, err_nomem(), NULL);
        if (c->n_media) memcpy(more, c->media, (size_t)c->n_media * sizeof *more);
        c->media = more;
        c->cap_media = cap;
    }
    c->media[c->n_media++] = (media_part){ .kind = (int)kind, .part = part };
    return ST_OK;
}

/* One part: bytes, features, rows. */
typedef struct item { media_kind kind; media_features f; int64_t n; media_rows *rows; } item;

static status make_features(const struct media_setup *m, const media_processor *processor, item *it, const buf *bytes)
{
    if (it->kind == MEDIA_IMAGE) {
        image im;
        TRY(image_decode(bytes->data, bytes->len, &m->image, &im));
        const status st = media_process_image(processor, &im, &it->f);
        image_free(&im);
        return st;
    }
    audio sound;
    TRY(audio_decode(bytes->data, bytes->len, 0, &sound));
    const status st = media_process_audio(processor, &sound, &it->f);
    audio_free(&sound);
    return st;
}

/* What its rows depend on: the bytes, their kind, and how the request wants them processed. */
static status hash_item(const buf *bytes, media_kind kind, const jv *kwargs, uint8_t hash[SHA256_BYTES])
{
    sha256(bytes->data, bytes->len, hash);
    hash[0] ^= (uint8_t)kind;
    if (!kwargs) return ST_OK;
    buf all = {0};
    buf_append(&all, hash, SHA256_BYTES);
    jw w = jw_to(&all);
    jw_value(&w, kwargs);
    if (!all.failed) sha256(all.data, all.len, hash);
    const status st = buf_status(&all);
    buf_free(&all);
    return st;
}

static status make_item(const struct media_setup *m, const media_processor *processor, const jv *kwargs, const media_part *p, bool encode, item *it, api_error *e)
{
    buf bytes = {0};
    uint8_t hash[SHA256_BYTES];
    it->kind = (media_kind)p->kind;
    status st = media_load_part(m, it->kind, p->part, &bytes);
    if (st != ST_OK) {
        buf_free(&bytes);
        if (st == ST_NOMEM) return api_fail_status(e, st, NULL);
        return api_bad(e, "messages", "%s", err_msg());
    }
    st = hash_item(&bytes, it->kind, kwargs, hash);
    if (st == ST_OK) st = make_features(m, processor, it, &bytes);
    buf_free(&bytes);
    const encoder_input in = { it->f.values, it->f.rows, it->f.cols, { it->f.grid[0], it->f.grid[1], it->f.grid[2] } };
    if (st == ST_OK) st = towers_n_tokens(m->towers, (encoder_kind)it->kind, &in, &it->n);
    if (st == ST_OK && encode) st = towers_encode(m->towers, (encoder_kind)it->kind, &in, hash, &it->rows);
    if (st == ST_OK) return ST_OK;
    if (st == ST_NOMEM || st == ST_INTERNAL) return api_fail_status(e, st, NULL);
    return api_fail(e, 422, "UnprocessableEntityError", "messages", "Failed to load %s: %s", kind_names[it->kind], err_msg());
}

/* ---- the text ---- */

static void repeat(buf *out, const char *word, int64_t n)
{
    for (int64_t i = 0; i < n; i++) buf_str(out, word);
}

static void expand(const struct media_setup *m, const item *it, buf *out)
{
    const media_words *w = &m->words;
    const char *token = w->token[it->kind];
    const int rows = it->f.grid[1], cols = it->f.grid[2];
    if (it->kind == MEDIA_IMAGE) buf_str(out, w->before);
    if (m->tiles && it->kind == MEDIA_IMAGE) {
        const int64_t each = it->n / it->f.rows;
        for (int y = 0; rows * cols > 1 && y < rows; y++) {
            for (int x = 0; x < cols; x++) {
                repeat(out, token, each);
                if (x + 1 < cols) buf_str(out, w->tile_x);
            }
            buf_str(out, w->tile_y);
        }
        buf_str(out, w->whole);
        repeat(out, token, each);
    } else {
        repeat(out, token, it->n);
    }
    if (it->kind == MEDIA_IMAGE) buf_str(out, w->after);
}

/* The placeholder that comes first from `from` on; NULL if none is left. */
static const char *next_marker(const media_words *w, const char *from, const char *end, media_kind *kind)
{
    const char *first = NULL;
    for (int k = 0; k < MEDIA_KINDS; k++) {
        const size_t n = strlen(w->found[k]);
        const char *at = n ? memmem(from, (size_t)(end - from), w->found[k], n) : NULL;
        if (!at || (first && at > first)) continue;
        first = at;
        *kind = (media_kind)k;
    }
    return first;
}

/* Items of a kind go to its placeholders in order. order[i]: which item the i-th placeholder of the text is. */
static status expand_text(const struct media_setup *m, const item *items, int n, const buf *text, int *order, buf *out, api_error *e)
{
    const char *at = buf_cstr(text), *end = at + text->len;
    int next[MEDIA_KINDS] = { 0 }, done = 0;
    media_kind kind = MEDIA_IMAGE;
    for (const char *mark; (mark = next_marker(&m->words, at, end, &kind)) != NULL; done++) {
        int i = next[kind];
        while (i < n && items[i].kind != kind) i++;
        if (i >= n) return api_bad(e, "messages", "The prompt has more %s placeholders than %s inputs: the chat template or a message's text writes the placeholder itself.", kind_names[kind], kind_names[kind]);
        next[kind] = i + 1;
        order[done] = i;
        buf_append(out, at, (size_t)(mark - at));
        expand(m, &items[i], out);
        at = mark + strlen(m->words.found[kind]);
    }
    if (done < n) return api_bad(e, "messages", "The prompt has %d placeholders for %d images and sounds: the chat template does not render them.", done, n);
    buf_append(out, at, (size_t)(end - at));
    return out->failed ? api_fail_status(e, err_nomem(), NULL) : ST_OK;
}

/* ---- the tokens ---- */

/* Finds each item's tokens: the ids of its kind, in the text's order. */
static status place_rows(const struct media_setup *m, const item *items, int n, const int *order, prompt *p, prompt_media *pm, api_error *e)
{
    int t = 0;
    for (int i = 0; i < n; i++) {
        const item *it = &items[order[i]];
        const int32_t id = m->words.id[it->kind];
        pm->items[i] = (request_media){ .rows = it->rows };
        for (int64_t row = 0; row < it->n; row++, t++) {
            while (t < p->n && p->ids[t] != id) t++;
            if (t >= p->n) return api_fail(e, 500, "InternalServerError", NULL, "The tokenizer does not keep the placeholder of %s inputs apart.", kind_names[it->kind]);
            if (row == 0) pm->items[i].from = t;
            pm->row[t] = (int32_t)row;
        }
        pm->items[i].to = t;
    }
    for (; t < p->n; t++)
        if (p->ids[t] == m->words.id[MEDIA_IMAGE] || p->ids[t] == m->words.id[MEDIA_AUDIO])
            return api_bad(e, "messages", "The prompt's text holds the placeholder token of media.");
    return ST_OK;
}

/* Time, height and width: text counts on in all three; an image's rows have its row and column, and what follows it goes on behind the larger side. */
static void three_positions(const item *items, int n, const int *order, const prompt *p, prompt_media *pm)
{
    int next = 0;
    for (int t = 0, i = 0; t < p->n; t++) {
        while (i < n && t >= pm->items[i].to) i++;
        const item *it = i < n ? &items[order[i]] : NULL;
        int32_t *pos = pm->positions3 + 3 * t;
        if (!it || it->kind != MEDIA_IMAGE || pm->row[t] < 0) {
            pos[0] = pos[1] = pos[2] = next++;
            continue;
        }
        const int64_t patches = (int64_t)it->f.grid[0] * it->f.grid[1] * it->f.grid[2];
        const int merge = (int)lrint(sqrt((double)patches / (double)it->n)), h = it->f.grid[1] / merge, w = it->f.grid[2] / merge, row = pm->row[t];
        pos[0] = next + row / (h * w);
        pos[1] = next + row / w % h;
        pos[2] = next + row % w;
        if (row + 1 == it->n) next += h > w ? h : w;
    }
    pm->delta = next - p->n;
}

static status make_tokens(const app *a, const item *items, int n, const int *order, const buf *text, bool add_special, arena *mem, prompt *out, api_error *e)
{
    i32vec ids = {0};
    status st = prompt_encode(a, buf_cstr(text), text->len, add_special, &ids, e);
    if (st == ST_OK) st = prompt_take(mem, &ids, buf_cstr(text), text->len, out, e);
    i32vec_free(&ids);
    TRY(st);
    prompt_media *pm = arena_calloc(mem, 1, sizeof *pm);
    if (!pm) return api_fail_status(e, err_nomem(), NULL);
    pm->items = arena_calloc(mem, (size_t)n, sizeof *pm->items);
    pm->row = arena_alloc(mem, (size_t)(out->n + 1) * sizeof *pm->row);
    if (a->media->mrope) pm->positions3 = arena_alloc(mem, (size_t)(out->n + 1) * 3 * sizeof *pm->positions3);
    if (!pm->items || !pm->row || (a->media->mrope && !pm->positions3)) return api_fail_status(e, err_nomem(), NULL);
    for (int t = 0; t < out->n; t++) pm->row[t] = -1;
    pm->sees_all = a->media->sees_all;
    TRY(place_rows(a->media, items, n, order, out, pm, e));
    pm->n = n;
    if (pm->positions3) three_positions(items, n, order, out, pm);
    out->media = pm;
    return ST_OK;
}

status media_prompt(const app *a, conversation *c, bool add_special, bool encode, arena *mem, prompt *out, api_error *e)
{
    const int n = c->n_media;
    buf text = {0};
    item *items = arena_calloc(mem, (size_t)n, sizeof *items);
    int *order = arena_calloc(mem, (size_t)n, sizeof *order);
    if (!items || !order) return api_fail_status(e, err_nomem(), NULL);
    int64_t tokens = 0;
    media_processor *own = NULL;
    status st = c->mm_kwargs ? media_processor_with(a->media->processor, c->mm_kwargs, &own) : ST_OK;
    if (st != ST_OK) return st == ST_NOMEM ? api_fail_status(e, st, NULL) : api_bad(e, "mm_processor_kwargs", "%s", err_msg());
    for (int i = 0; i < n && st == ST_OK; i++) {
        st = make_item(a->media, own ? own : a->media->processor, c->mm_kwargs, &c->media[i], encode, &items[i], e);
        tokens += items[i].n;
        media_features *f = &items[i].f; /* sizes are still needed, values are not */
        mem_free(f->values);
        f->values = NULL;
        if (st == ST_OK && tokens > a->o.max_model_len)
            st = api_bad(e, "input_tokens", "This model's maximum context length is %d tokens. However, your request has images and sounds of %" PRId64 " tokens.", a->o.max_model_len, tokens);
    }
    if (st == ST_OK) st = expand_text(a->media, items, n, &c->text, order, &text, e);
    if (st == ST_OK) st = make_tokens(a, items, n, order, &text, add_special, mem, out, e);
    if (st != ST_OK)
        for (int i = 0; i < n; i++) media_rows_release(items[i].rows);
    if (st != ST_OK) out->media = NULL;
    if (own) media_processor_close(own);
    buf_free(&text);
    return st;
}

void media_release(prompt *p)
{
    for (int i = 0; p && p->media && i < p->media->n; i++) media_rows_release(p->media->items[i].rows);
    if (p) p->media = NULL;
}
