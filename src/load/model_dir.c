#include "load/model_dir.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "base/utf8.h"

enum { MIB = 1 << 20, TEMPLATE_MAX = 4 * MIB, TEMPLATES_MAX = 64 };

void model_dir_free(model_dir *d)
{
    if (!d) return;
    mem_free(d->path);
    jv_free(d->config);
    jv_free(d->generation_config);
    jv_free(d->tokenizer_config);
    jv_free(d->special_tokens);
    jv_free(d->preprocessor_config);
    jv_free(d->processor_config);
    for (size_t i = 0; i < d->n_templates; i++) {
        mem_free(d->templates[i].name);
        mem_free(d->templates[i].text);
    }
    mem_free(d->templates);
    mem_free(d);
}

status model_dir_of_config(jv *config, model_dir **out)
{
    model_dir *d = mem_calloc(1, sizeof *d);
    if (!d) {
        jv_free(config);
        return err_nomem();
    }
    d->config = config;
    *out = d;
    return ST_OK;
}

const char *model_dir_template(const model_dir *d, const char *name)
{
    for (size_t i = 0; i < d->n_templates; i++)
        if (strcmp(d->templates[i].name, name ? name : "default") == 0) return d->templates[i].text;
    return NULL;
}

/* DIR/NAME in `path`; false in *found when nothing is there. A dangling link counts as there, so that reading it says so. */
static status locate(const char *dir, const char *name, buf *path, bool *found)
{
    struct stat sb;
    buf_clear(path);
    buf_printf(path, "%s/%s", dir, name);
    TRY(buf_status(path));
    *found = lstat(path->data, &sb) == 0 || errno != ENOENT;
    return ST_OK;
}

/* Only regular files: reading a FIFO would wait for ever. */
static status regular(const char *path)
{
    struct stat sb;
    if (stat(path, &sb) != 0) return err_errno("cannot open %s", path);
    return S_ISREG(sb.st_mode) ? ST_OK : err_set(ST_INVALID, "%s is not a regular file", path);
}

/* An object in *out, or NULL if the file does not exist. */
static status read_object(const char *dir, const char *name, size_t max_bytes, jv **out)
{
    buf path = {0};
    bool found;
    jv *v = NULL;
    status st = ST_OK;
    TRY_OUT(locate(dir, name, &path, &found));
    if (!found) goto out;
    TRY_OUT(regular(path.data));
    TRY_OUT(jv_parse_file(path.data, max_bytes, &v));
    if (!jv_is(v, JV_OBJ)) {
        st = err_set(ST_INVALID, "%s must hold a JSON object, not %s", path.data, jv_kind_name(jv_type(v)));
        goto out;
    }
    *out = v;
    v = NULL;
out:
    jv_free(v);
    buf_free(&path);
    return st;
}

/* The text of a template file into *out (the caller's). */
static status read_text(const char *path, char **out)
{
    TRY(regular(path));
    FILE *f = fopen(path, "rb");
    if (!f) return err_errno("cannot open %s", path);
    buf b = {0};
    status st = ST_OK;
    char chunk[16384];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0 && b.len <= TEMPLATE_MAX) buf_append(&b, chunk, n);
    if (ferror(f)) {
        st = err_errno("cannot read %s", path);
        goto out;
    }
    buf_append(&b, "", 0);
    TRY_OUT(buf_status(&b));
    if (b.len > TEMPLATE_MAX) st = err_set(ST_LIMIT, "%s is larger than %d bytes", path, (int)TEMPLATE_MAX);
    else if (!utf8_valid(buf_cstr(&b), b.len) || memchr(buf_cstr(&b), 0, b.len)) st = err_set(ST_INVALID, "%s is not UTF-8 text", path);
    if (st != ST_OK) goto out;
    char *text = b.len ? buf_take(&b) : mem_strdup("");
    if (!text) st = err_nomem();
    else *out = text;
out:
    buf_free(&b);
    fclose(f);
    return st;
}

/* Takes `text` (also on failure; NULL fails as out of memory). */
static status add_template(model_dir *d, const char *name, size_t name_len, char *text)
{
    char *own = text ? mem_strndup(name, name_len) : NULL;
    chat_template *grown = own ? mem_realloc_array(d->templates, d->n_templates + 1, sizeof *grown) : NULL;
    if (!grown) {
        mem_free(own);
        mem_free(text);
        return err_nomem();
    }
    d->templates = grown;
    d->templates[d->n_templates++] = (chat_template){ own, text };
    return ST_OK;
}

/* DIR/additional_chat_templates/NAME.jinja; absent is fine. */
static status read_additional(model_dir *d)
{
    static const char SUFFIX[] = ".jinja";
    buf folder = {0}, path = {0};
    status st = ST_OK;
    DIR *list = NULL;
    buf_printf(&folder, "%s/additional_chat_templates", d->path);
    TRY_OUT(buf_status(&folder));
    list = opendir(folder.data);
    if (!list) {
        if (errno != ENOENT) st = err_errno("cannot open %s", folder.data);
        goto out;
    }
    for (const struct dirent *e; (e = readdir(list));) {
        size_t n = strlen(e->d_name), m = sizeof SUFFIX - 1;
        if (n <= m || e->d_name[0] == '.' || strcmp(e->d_name + n - m, SUFFIX) != 0) continue;
        if (d->n_templates == TEMPLATES_MAX) {
            st = err_set(ST_LIMIT, "%s holds more than %d templates", folder.data, (int)TEMPLATES_MAX);
            goto out;
        }
        char *text = NULL;
        buf_clear(&path);
        buf_printf(&path, "%s/%s", folder.data, e->d_name);
        TRY_OUT(buf_status(&path));
        TRY_OUT(read_text(path.data, &text));
        TRY_OUT(add_template(d, e->d_name, n - m, text));
    }
out:
    if (list) closedir(list);
    buf_free(&folder);
    buf_free(&path);
    return st;
}

/* A template value: a string, or a list of {"name", "template"}. JSON null and absence mean none. `file` is for messages. */
static status templates_of(model_dir *d, const jv *v, const char *file)
{
    if (jv_is(v, JV_MISSING) || jv_is(v, JV_NULL)) return ST_OK;
    d->template_source = file;
    if (jv_is(v, JV_STR)) {
        if (strlen(jv_str(v, "")) != jv_len(v)) return err_set(ST_INVALID, "%s/%s: chat_template holds a NUL", d->path, file);
        return add_template(d, "default", 7, mem_strdup(jv_str(v, "")));
    }
    if (!jv_is(v, JV_ARR)) return err_set(ST_INVALID, "%s/%s: chat_template must be a string or a list, not %s", d->path, file, jv_kind_name(jv_type(v)));
    if (jv_len(v) > TEMPLATES_MAX) return err_set(ST_LIMIT, "%s/%s: chat_template lists more than %d templates", d->path, file, (int)TEMPLATES_MAX);
    for (size_t i = 0; i < jv_len(v); i++) {
        const jv *name = jv_get(jv_at(v, i), "name"), *text = jv_get(jv_at(v, i), "template");
        if (!jv_is(name, JV_STR) || !jv_is(text, JV_STR) || strlen(jv_str(name, "")) != jv_len(name) || strlen(jv_str(text, "")) != jv_len(text))
            return err_set(ST_INVALID, "%s/%s: chat_template[%zu] must be an object with the strings \"name\" and \"template\"", d->path, file, i);
        if (model_dir_template(d, jv_str(name, ""))) return err_set(ST_INVALID, "%s/%s: chat_template has \"%s\" twice", d->path, file, jv_str(name, ""));
        TRY(add_template(d, jv_str(name, ""), jv_len(name), mem_strdup(jv_str(text, ""))));
    }
    return ST_OK;
}

static status read_templates(model_dir *d)
{
    static const char JINJA[] = "chat_template.jinja", JSON[] = "chat_template.json";
    buf path = {0};
    jv *json = NULL;
    bool found;
    status st = ST_OK;
    TRY_OUT(locate(d->path, JINJA, &path, &found));
    if (found) {
        char *text = NULL;
        TRY_OUT(read_text(path.data, &text));
        TRY_OUT(add_template(d, "default", 7, text));
        d->template_source = JINJA;
        st = read_additional(d);
        goto out;
    }
    TRY_OUT(read_object(d->path, JSON, TEMPLATE_MAX, &json));
    if (json) TRY_OUT(templates_of(d, jv_get(json, "chat_template"), JSON));
    if (d->n_templates == 0) st = templates_of(d, jv_get(d->tokenizer_config, "chat_template"), "tokenizer_config.json");
out:
    jv_free(json);
    buf_free(&path);
    return st;
}

static status no_config(const char *dir)
{
    buf path = {0};
    bool mistral;
    status st = locate(dir, "params.json", &path, &mistral);
    buf_free(&path);
    if (st != ST_OK) return st;
    if (mistral) return err_set(ST_UNSUPPORTED, "%s has params.json but no config.json: the Hugging Face form of the model is needed", dir);
    return err_set(ST_NOT_FOUND, "%s has no config.json: not a model directory", dir);
}

static status read_all(model_dir *d)
{
    const struct { const char *name; size_t max_bytes; jv **to; } files[] = {
        { "config.json", 1 * MIB, &d->config },
        { "generation_config.json", 1 * MIB, &d->generation_config },
        { "tokenizer_config.json", 64 * MIB, &d->tokenizer_config },
        { "special_tokens_map.json", 4 * MIB, &d->special_tokens },
        { "preprocessor_config.json", 1 * MIB, &d->preprocessor_config },
        { "processor_config.json", 4 * MIB, &d->processor_config },
    };
    struct stat sb;
    if (stat(d->path, &sb) != 0) return err_errno("cannot open the model directory %s", d->path);
    if (!S_ISDIR(sb.st_mode)) return err_set(ST_INVALID, "%s is not a directory", d->path);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        TRY(read_object(d->path, files[i].name, files[i].max_bytes, files[i].to));
        if (i == 0 && !d->config) return no_config(d->path);
    }
    return read_templates(d);
}

status model_dir_open(const char *path, model_dir **out)
{
    model_dir *d = mem_calloc(1, sizeof *d);
    if (!d) return err_nomem();
    d->path = mem_strdup(path);
    status st = d->path ? read_all(d) : err_nomem();
    if (st != ST_OK) {
        model_dir_free(d);
        return st;
    }
    *out = d;
    return ST_OK;
}
