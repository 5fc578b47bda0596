#include "cli/serve_model.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "device/device.h"
#include "load/hub.h"

enum { MAX_TEMPLATE = 16 << 20, MAX_JSON = 64 << 20 };

status merge_json(jv *dst, const jv *src)
{
    for (jv_iter it = jv_begin(src); jv_next(&it);) {
        const jv *have = jv_get(dst, it.key);
        if (jv_is(it.val, JV_OBJ) && jv_is(have, JV_OBJ)) TRY(merge_json((jv *)(uintptr_t)have, it.val));
        else TRY(jv_set(dst, it.key, jv_ref(it.val)));
    }
    return ST_OK;
}

/* ---- templates ---- */
static status read_file(const char *path, buf *out)
{
    char chunk[8192];
    size_t n;
    FILE *f = fopen(path, "rb");
    if (!f) return err_errno("cannot open %s", path);
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0 && out->len <= MAX_TEMPLATE) buf_append(out, chunk, n);
    status st = ferror(f) ? err_errno("cannot read %s", path) : buf_status(out);
    fclose(f);
    if (st == ST_OK && out->len > MAX_TEMPLATE) st = err_set(ST_LIMIT, "%s is larger than %d bytes", path, MAX_TEMPLATE);
    return st;
}

static status open_templates(const flags *f, const model_dir *dir, text_parts *t)
{
    const char *given = flags_str(f, "chat-template");
    if (given) {
        buf text = {0};
        status st = strpbrk(given, "{}\n") ? (buf_str(&text, given), buf_status(&text)) : read_file(given, &text);
        if (st == ST_OK) st = jinja_parse(buf_cstr(&text), text.len, &t->chat);
        if (st != ST_OK) st = err_wrap(st, "--chat-template");
        buf_free(&text);
        return st;
    }
    const char *text = model_dir_template(dir, NULL), *tool = model_dir_template(dir, "tool_use");
    if (text && jinja_parse(text, strlen(text), &t->chat) != ST_OK) {
        /* completions work without one: no reason not to serve */
        log_warn("The chat template of %s cannot be used, chat needs --chat-template: %s", dir->path, err_msg());
        return ST_OK;
    }
    if (tool && jinja_parse(tool, strlen(tool), &t->tool) != ST_OK) log_warn("The tool template of %s cannot be used: %s", dir->path, err_msg());
    return ST_OK;
}

/* A token as "<s>" or {"content": "<s>"}. */
static const char *token_text(const jv *v) { return jv_str(jv_is(v, JV_OBJ) ? jv_get(v, "content") : v, NULL); }

static status collect_tokens(const jv *from, jv *into)
{
    static const char *const names[] = { "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *s = token_text(jv_get(from, names[i]));
        if (s) TRY(jv_set(into, names[i], jv_new_str(s, strlen(s))));
    }
    return ST_OK;
}

/* ---- sampling defaults and eos ---- */
static status copy_key(const jv *from, const char *key, const char *to, jv *into)
{
    const jv *v = jv_get(from, key);
    if (!v || jv_is(v, JV_NULL)) return ST_OK;
    if (!jv_is(v, JV_INT) && !jv_is(v, JV_REAL)) return err_set(ST_INVALID, "generation config: %s must be a number, not %s", key, jv_kind_name(jv_type(v)));
    return jv_set(into, to, jv_ref(v));
}

static status collect_sampling(const jv *from, jv *into)
{
    static const char *const keys[] = { "temperature", "top_p", "top_k", "min_p", "repetition_penalty" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) TRY(copy_key(from, keys[i], keys[i], into));
    return copy_key(from, "max_new_tokens", "max_tokens", into);
}

static status add_eos(text_parts *t, int64_t id, int vocab)
{
    if (id < 0 || id >= vocab || id == t->eos_id) return ST_OK;
    for (int i = 0; i < t->n_extra; i++)
        if (t->extra_eos[i] == id) return ST_OK;
    int32_t *more = mem_realloc_array(t->extra_eos, (size_t)t->n_extra + 1, sizeof *more);
    if (!more) return err_nomem();
    t->extra_eos = more;
    t->extra_eos[t->n_extra++] = (int32_t)id;
    return ST_OK;
}

/* The tokenizer's eos is the eos; further ones of generation_config (else of config.json) are stop ids. */
static status collect_eos(const jv *gen, const model_info *info, text_parts *t)
{
    const char *s = t->tok ? jv_str(jv_get(t->tokens, "eos_token"), NULL) : NULL;
    const jv *v = jv_get(gen, "eos_token_id");
    t->eos_id = s ? tokenizer_token_id(t->tok, s, strlen(s)) : -1;
    if (t->eos_id < 0 && t->tok && info->n_eos > 0) t->eos_id = info->eos_ids[0];
    if (t->eos_id >= info->vocab_size) t->eos_id = -1;
    if (jv_is(v, JV_INT)) return add_eos(t, jv_i64(v, -1), info->vocab_size);
    for (size_t i = 0; jv_is(v, JV_ARR) && i < jv_len(v); i++) TRY(add_eos(t, jv_i64(jv_at(v, i), -1), info->vocab_size));
    for (int i = 0; !jv_is(v, JV_ARR) && i < info->n_eos; i++) TRY(add_eos(t, info->eos_ids[i], info->vocab_size));
    return ST_OK;
}

/* gpt-oss answers in a format of its own, whose <|return|> and <|call|> end a turn whatever the configurations list. */
static status find_harmony(const model_info *info, text_parts *t)
{
    t->harmony = strcmp(info->model_type, "gpt_oss") == 0 && harmony_find_marks(t->tok, &t->marks);
    if (!t->harmony) return ST_OK;
    TRY(add_eos(t, t->marks.id[HARMONY_RETURN], info->vocab_size));
    return add_eos(t, t->marks.id[HARMONY_CALL], info->vocab_size);
}

static status open_sampling(const flags *f, const model_dir *dir, const model_info *info, text_parts *t)
{
    const char *mode = flags_str(f, "generation-config");
    jv *own = NULL;
    const jv *gen = dir->generation_config;
    bool defaults = strcmp(mode, "vllm") != 0;
    if (defaults && strcmp(mode, "auto") != 0) {
        char path[4096];
        snprintf(path, sizeof path, "%s/generation_config.json", mode);
        status st = jv_parse_file(path, MAX_JSON, &own);
        if (st != ST_OK) return err_wrap(st, "--generation-config");
        gen = own;
    }
    t->sampling = jv_new_obj();
    status st = t->sampling ? ST_OK : err_nomem();
    if (st == ST_OK && defaults) st = collect_sampling(gen, t->sampling);
    if (st == ST_OK) st = collect_sampling(flags_json(f, "override-generation-config"), t->sampling);
    const jv *eos = jv_get(flags_json(f, "override-generation-config"), "eos_token_id");
    if (st == ST_OK) st = collect_eos(eos ? flags_json(f, "override-generation-config") : gen, info, t);
    jv_free(own);
    if (st == ST_OK && jv_len(t->sampling) > 0) {
        buf b = {0};
        jw w = jw_to(&b);
        jw_value(&w, t->sampling);
        log_warn("Default vLLM sampling parameters have been overridden by the model's `generation_config.json`: `%s`. "
                 "If this is not intended, please relaunch the server with `--generation-config vllm`.", buf_cstr(&b));
        buf_free(&b);
    }
    return st;
}

/* ---- all of it ---- */
static status open_tokenizer(const flags *f, const model_dir *dir, text_parts *t)
{
    const char *other = flags_str(f, "tokenizer");
    if (flags_bool(f, "skip-tokenizer-init", false)) return ST_OK;
    if (!other || !*other) {
        status own = dir->path ? tokenizer_load_dir(dir->path, &t->tok) : ST_NOT_FOUND;
        if (own != ST_NOT_FOUND || device_needs_weights(flags_str(f, "device"))) return own;
        log_warn("%s has no tokenizer: the simulation takes and gives token ids, as with --skip-tokenizer-init; --tokenizer DIR names one", flags_str(f, "model"));
        return ST_OK;
    }
    hub_options h = { .revision = flags_str(f, "tokenizer-revision"), .token = flags_str(f, "hf-token"), .download_dir = flags_str(f, "download-dir") };
    status st = hub_resolve(other, &h, &t->tokenizer_dir);
    if (st == ST_OK) st = tokenizer_load_dir(t->tokenizer_dir, &t->tok);
    return st == ST_OK ? ST_OK : err_wrap(st, "--tokenizer");
}

/* bos, eos and the like, of the directory the tokenizer is from. */
static status open_tokens(const model_dir *dir, text_parts *t)
{
    t->tokens = jv_new_obj();
    if (!t->tokens) return err_nomem();
    if (!t->tokenizer_dir) {
        TRY(collect_tokens(dir->special_tokens, t->tokens));
        return collect_tokens(dir->tokenizer_config, t->tokens);
    }
    static const char *const files[] = { "special_tokens_map.json", "tokenizer_config.json" };
    for (size_t i = 0; i < 2; i++) {
        char path[4096];
        jv *v = NULL;
        snprintf(path, sizeof path, "%s/%s", t->tokenizer_dir, files[i]);
        status st = jv_parse_file(path, MAX_JSON, &v);
        if (st == ST_NOT_FOUND) continue;
        if (st == ST_OK) st = collect_tokens(v, t->tokens);
        jv_free(v);
        if (st != ST_OK) return st;
    }
    return ST_OK;
}

status text_parts_open(const flags *f, const model_dir *dir, const model_info *info, text_parts *out)
{
    text_parts t = { .eos_id = -1 };
    status st = open_tokenizer(f, dir, &t);
    if (st == ST_OK) st = open_tokens(dir, &t);
    if (st == ST_OK) st = open_templates(f, dir, &t);
    if (st == ST_OK) st = open_sampling(f, dir, info, &t);
    if (st == ST_OK) st = find_harmony(info, &t);
    if (st != ST_OK) {
        text_parts_free(&t);
        return st;
    }
    *out = t;
    return ST_OK;
}

void text_parts_free(text_parts *t)
{
    tokenizer_free(t->tok);
    jinja_free(t->chat);
    jinja_free(t->tool);
    jv_free(t->tokens);
    jv_free(t->sampling);
    mem_free(t->extra_eos);
    mem_free(t->tokenizer_dir);
    *t = (text_parts){0};
}
