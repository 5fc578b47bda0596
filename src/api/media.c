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
    const status st = o->media_io ? image_options_with(o->media_io, &m->image) : ST_OK;
    if (st != ST_OK) {
        mem_free(m);
        return err_wrap(st, "--media-io-kwargs");
    }
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

/* A part, or a crop of one, which comes behind it: features, rows. crops: how many follow. */
typedef struct item { media_kind kind; media_features f; int64_t n; media_rows *rows; int crops; bool is_crop; } item;
typedef struct item_list { item *item; int n; int64_t tokens; } item_list;      /* with room for all crops that there may be */

/* How items of a request are made. */
typedef struct making { const app *a; const media_processor *processor; image_options image; const jv *kwargs, *io; bool encode; item_list *items; } making;

/* What its rows depend on: the bytes, their kind, and how the request wants them read and processed. */
static status hash_item(const making *g, const buf *bytes, media_kind kind, uint8_t hash[SHA256_BYTES])
{
    sha256(bytes->data, bytes->len, hash);
    hash[0] ^= (uint8_t)kind;
    if (!g->kwargs && !g->io) return ST_OK;
    buf all = {0};
    buf_append(&all, hash, SHA256_BYTES);
    const jv *const settings[] = { g->kwargs, g->io };
    for (int i = 0; i < 2; i++) {
        jw w = jw_to(&all);
        if (settings[i]) jw_value(&w, settings[i]);
        buf_char(&all, 0);
    }
    if (!all.failed) sha256(all.data, all.len, hash);
    const status st = buf_status(&all);
    buf_free(&all);
    return st;
}

/* The features that an item has become tokens and rows. hash: of the part; crop: which of it, from 1 on; 0: all of it. */
static status add_item(const making *g, item *it, const uint8_t part[SHA256_BYTES], int crop)
{
    const struct media_setup *m = g->a->media;
    uint8_t hash[SHA256_BYTES];
    memcpy(hash, part, sizeof hash);
    hash[1] ^= (uint8_t)crop;
    it->is_crop = crop > 0;
    g->items->n++;
    const encoder_input in = { it->f.values, it->f.rows, it->f.cols, { it->f.grid[0], it->f.grid[1], it->f.grid[2] } };
    status st = towers_n_tokens(m->towers, (encoder_kind)it->kind, &in, &it->n);
    if (st == ST_OK) g->items->tokens += it->n;
    if (st == ST_OK && g->encode && g->items->tokens <= g->a->o.max_model_len) st = towers_encode(m->towers, (encoder_kind)it->kind, &in, hash, &it->rows);
    mem_free(it->f.values);     /* sizes are still needed, values are not */
    it->f.values = NULL;
    return st;
}

static item *next_item(const making *g, media_kind kind)
{
    item *it = &g->items->item[g->items->n];
    *it = (item){ .kind = kind };
    return it;
}

static status add_image(const making *g, const buf *bytes, const uint8_t hash[SHA256_BYTES])
{
    image im, part;
    image_box boxes[MEDIA_MOST_CROPS];
    item *whole = next_item(g, MEDIA_IMAGE);
    TRY(image_decode(bytes->data, bytes->len, &g->image, &im));
    const int crops = media_image_crops(g->processor, &im, boxes);
    status st = media_process_image(g->processor, &im, &whole->f);
    if (st == ST_OK) st = add_item(g, whole, hash, 0);
    whole->crops = crops;
    for (int i = 0; i < crops && st == ST_OK; i++) {
        item *it = next_item(g, MEDIA_IMAGE);
        st = image_crop(&im, boxes[i], &part);
        if (st != ST_OK) break;
        st = media_process_image(g->processor, &part, &it->f);
        image_free(&part);
        if (st == ST_OK) st = add_item(g, it, hash, i + 1);
    }
    image_free(&im);
    return st;
}

static status add_sound(const making *g, const buf *bytes, const uint8_t hash[SHA256_BYTES])
{
    audio sound;
    item *it = next_item(g, MEDIA_AUDIO);
    TRY(audio_decode(bytes->data, bytes->len, 0, &sound));
    const status st = media_process_audio(g->processor, &sound, &it->f);
    audio_free(&sound);
    return st == ST_OK ? add_item(g, it, hash, 0) : st;
}

static status make_items(const making *g, const media_part *p, api_error *e)
{
    const media_kind kind = (media_kind)p->kind;
    buf bytes = {0};
    uint8_t hash[SHA256_BYTES];
    status st = media_load_part(g->a->media, kind, p->part, &bytes);
    if (st != ST_OK) {
        buf_free(&bytes);
        if (st == ST_NOMEM) return api_fail_status(e, st, NULL);
        return api_bad(e, "messages", "%s", err_msg());
    }
    st = hash_item(g, &bytes, kind, hash);
    if (st == ST_OK) st = kind == MEDIA_IMAGE ? add_image(g, &bytes, hash) : add_sound(g, &bytes, hash);
    buf_free(&bytes);
    if (st == ST_NOMEM || st == ST_INTERNAL) return api_fail_status(e, st, NULL);
    if (st != ST_OK) return api_fail(e, 422, "UnprocessableEntityError", "messages", "Failed to load %s: %s", kind_names[kind], err_msg());
    const int most = g->a->o.max_model_len;
    if (g->items->tokens <= most) return ST_OK;
    return api_bad(e, "input_tokens", "This model's maximum context length is %d tokens. However, your request has images and sounds of %" PRId64 " tokens.", most, g->items->tokens);
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

/* Pan and scan: an image and its crops, in Gemma 3's words. */
static void expand_with_crops(const struct media_setup *m, const item *it, buf *out)
{
    if (it->crops) buf_str(out, "Here is the original image ");
    expand(m, it, out);
    for (int i = 1; i <= it->crops; i++) {
        buf_str(out, i == 1 ? " and here are some crops to help you see better " : " ");
        expand(m, &it[i], out);
    }
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

/* Items of a kind go to its placeholders in order, crops behind their image. order[i]: the text's i-th item. parts: items that are no crops. */
static status expand_text(const struct media_setup *m, const item *items, int n, int parts, const buf *text, int *order, buf *out, api_error *e)
{
    const char *at = buf_cstr(text), *end = at + text->len;
    int next[MEDIA_KINDS] = { 0 }, done = 0, marks = 0;
    media_kind kind = MEDIA_IMAGE;
    for (const char *mark; (mark = next_marker(&m->words, at, end, &kind)) != NULL; marks++) {
        int i = next[kind];
        while (i < n && (items[i].kind != kind || items[i].is_crop)) i++;
        if (i >= n) return api_bad(e, "messages", "The prompt has more %s placeholders than %s inputs: the chat template or a message's text writes the placeholder itself.", kind_names[kind], kind_names[kind]);
        next[kind] = i + 1;
        for (int c = 0; c <= items[i].crops; c++) order[done++] = i + c;
        buf_append(out, at, (size_t)(mark - at));
        expand_with_crops(m, &items[i], out);
        at = mark + strlen(m->words.found[kind]);
    }
    if (marks < parts) return api_bad(e, "messages", "The prompt has %d placeholders for %d images and sounds: the chat template does not render them.", marks, parts);
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
    const struct media_setup *m = a->media;
    making g = { .a = a, .processor = m->processor, .image = m->image, .kwargs = c->mm_kwargs, .io = c->io_kwargs, .encode = encode };
    media_processor *own = NULL;
    if (c->mm_kwargs) {
        const status st = media_processor_with(m->processor, c->mm_kwargs, &own);
        if (st != ST_OK) return st == ST_NOMEM ? api_fail_status(e, st, NULL) : api_bad(e, "mm_processor_kwargs", "%s", err_msg());
        g.processor = own;
    }
    status st = c->io_kwargs ? image_options_with(c->io_kwargs, &g.image) : ST_OK;
    if (st != ST_OK) st = st == ST_NOMEM ? api_fail_status(e, st, NULL) : api_bad(e, "media_io_kwargs", "%s", err_msg());
    const size_t room = (size_t)c->n_media * (size_t)(1 + media_most_crops(g.processor));
    buf text = {0};
    item_list list = { .item = arena_calloc(mem, room, sizeof *list.item) };
    int *order = arena_calloc(mem, room, sizeof *order);
    if (st == ST_OK && (!list.item || !order)) st = api_fail_status(e, err_nomem(), NULL);
    g.items = &list;
    for (int i = 0; i < c->n_media && st == ST_OK; i++) st = make_items(&g, &c->media[i], e);
    if (st == ST_OK) st = expand_text(m, list.item, list.n, c->n_media, &c->text, order, &text, e);
    if (st == ST_OK) st = make_tokens(a, list.item, list.n, order, &text, add_special, mem, out, e);
    if (st != ST_OK) {
        for (int i = 0; i < list.n; i++) media_rows_release(list.item[i].rows);
        out->media = NULL;
    }
    if (own) media_processor_close(own);
    buf_free(&text);
    return st;
}

void media_release(prompt *p)
{
    for (int i = 0; p && p->media && i < p->media->n; i++) media_rows_release(p->media->items[i].rows);
    if (p) p->media = NULL;
}
