#include "load/hub.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/json.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "load/hub_cache.h"
#include "load/hub_net.h"
#include "load/st_header.h"

enum { FILES_MAX = 100000, INDEX_MAX = 256 << 20 };
static const char SINGLE[] = "model.safetensors";
static const char INDEX[] = "model.safetensors.index.json";

/* One call of hub_resolve. */
typedef struct job {
    arena mem;
    const hub_options *o;
    const char *id, *revision, *commit;
    hub_cache cache;
    hub_net net;
    const char **files;  /* what the hub lists */
    size_t n_files;
    map listed;
} job;

/* ---- which files ---- */

static const char *const SMALL[] = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "adapter_config.json", "quantize_config.json", "hf_quant_config.json", NULL,
};

static bool matches(const char *const *patterns, const char *name)
{
    for (; patterns && *patterns; patterns++)
        if (fnmatch(*patterns, name, 0) == 0) return true;
    return false;
}

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n > m && strcmp(s + n - m, suffix) == 0;
}

static bool is_weights(const char *name) { return has_suffix(name, ".safetensors") && !strchr(name, '/'); }
static bool is_consolidated(const char *name) { return strncmp(name, "consolidated", 12) == 0; }
static bool listed(const job *j, const char *name) { return map_get(&j->listed, name, strlen(name), NULL) && !matches(j->o->ignore, name); }

/* Fills files and listed. A name that leads out of its folder makes the whole answer untrustworthy. */
static status read_list(job *j, const jv *list)
{
    const jv *siblings = jv_get(list, "siblings");
    char shown[ST_SHOWN_CAP];
    if (jv_len(siblings) > FILES_MAX) return err_set(ST_LIMIT, "%s lists more than %d files", j->id, (int)FILES_MAX);
    j->commit = arena_strdup(&j->mem, jv_get_str(list, "sha", ""));
    j->files = arena_calloc(&j->mem, jv_len(siblings) + 1, sizeof *j->files);
    if (!j->commit || !j->files) return err_nomem();
    for (size_t i = 0; i < jv_len(siblings); i++) {
        const jv *v = jv_get(jv_at(siblings, i), "rfilename");
        const char *name = jv_str(v, "");
        if (strlen(name) != jv_len(v) || !hub_name_ok(name)) return err_set(ST_INVALID, "%s: the hub lists a file with an unsafe name: \"%s\"", j->id, st_shown(name, shown));
        char *copy = arena_strdup(&j->mem, name);
        if (!copy) return err_nomem();
        j->files[j->n_files++] = copy;
        TRY(map_put(&j->listed, name, strlen(name), 0));
    }
    return ST_OK;
}

/* ---- one file ---- */

static status fetch_blob(job *j, const char *name, const hub_meta *m)
{
    const char *blob = hub_cache_blob(&j->mem, &j->cache, m->etag);
    const char *part = blob ? arena_printf(&j->mem, "%s.incomplete", blob) : NULL;
    struct stat sb;
    if (!part) return err_nomem();
    if (stat(blob, &sb) == 0) {
        if (S_ISREG(sb.st_mode) && (m->size < 0 || sb.st_size == m->size)) return ST_OK; /* another revision's, or another process's */
        log_warn("%s has %lld bytes where the hub lists %lld: downloading it again", blob, (long long)sb.st_size, (long long)m->size);
        if (unlink(blob) != 0) return err_errno("cannot remove the damaged %s", blob);
    }
    TRY(hub_net_download(&j->net, j->commit, name, m, part));
    /* Where flock() is a lie (some network filesystems) another process may have written the same bytes and renamed them. */
    if (rename(part, blob) == 0 || (errno == ENOENT && hub_is_file(blob))) return ST_OK;
    return err_errno("cannot rename %s", part);
}

static status get_file(job *j, const char *name)
{
    const char *path = hub_cache_file(&j->mem, &j->cache, j->commit, name);
    hub_meta m;
    int lock;
    if (!path) return err_nomem();
    if (hub_is_file(path)) return ST_OK;
    TRY(hub_net_head(&j->net, j->commit, name, &m));
    TRY(hub_cache_lock(&j->mem, &j->cache, m.etag, &lock));
    status st = fetch_blob(j, name, &m);
    if (st == ST_OK) st = hub_cache_link(&j->mem, &j->cache, m.etag, j->commit, name);
    hub_cache_unlock(lock);
    return st;
}

/* ---- weights ---- */

/* Calls `each` for every distinct shard that an index names. */
static status for_shards(job *j, const char *index_path, status (*each)(job *j, const char *shard))
{
    jv *index = NULL;
    map seen = {0};
    status st = jv_parse_file(index_path, INDEX_MAX, &index);
    const jv *weight_map = jv_get(index, "weight_map");
    if (st == ST_OK && !jv_is(weight_map, JV_OBJ)) st = err_set(ST_INVALID, "%s: weight_map must be an object from tensor names to files", index_path);
    if (st != ST_OK) goto out;
    for (jv_iter it = jv_begin(weight_map); jv_next(&it);) {
        const char *shard = jv_str(it.val, "");
        char shown[ST_SHOWN_CAP];
        if (!hub_name_ok(shard) || strchr(shard, '/') || strlen(shard) != jv_len(it.val)) {
            st = err_set(ST_INVALID, "%s: weight_map: tensor %s must name a file in the same folder", index_path, st_shown(it.key, shown));
            goto out;
        }
        if (map_get(&seen, shard, strlen(shard), NULL)) continue;
        TRY_OUT(map_put(&seen, shard, strlen(shard), 0));
        TRY_OUT(each(j, shard));
    }
out:
    map_free(&seen);
    jv_free(index);
    return st;
}

static status get_shard(job *j, const char *shard)
{
    if (!listed(j, shard)) return err_set(ST_NOT_FOUND, "%s: %s names %s, which the model does not have", j->id, INDEX, shard);
    return get_file(j, shard);
}

static status get_weights(job *j)
{
    size_t n = 0, n_main = 0;
    const char *other = NULL;
    if (listed(j, SINGLE)) return get_file(j, SINGLE);
    if (listed(j, INDEX)) {
        const char *path = hub_cache_file(&j->mem, &j->cache, j->commit, INDEX);
        if (!path) return err_nomem();
        TRY(get_file(j, INDEX));
        return for_shards(j, path, get_shard);
    }
    for (size_t i = 0; i < j->n_files; i++) {
        if (has_suffix(j->files[i], ".bin") || has_suffix(j->files[i], ".gguf") || has_suffix(j->files[i], ".pth")) other = j->files[i];
        n_main += is_weights(j->files[i]) && !is_consolidated(j->files[i]);
    }
    for (size_t i = 0; i < j->n_files; i++) {
        const char *f = j->files[i];
        if (!is_weights(f) || matches(j->o->ignore, f) || (n_main && is_consolidated(f))) continue;
        TRY(get_file(j, f));
        n++;
    }
    if (n) return ST_OK;
    if (other) return err_set(ST_UNSUPPORTED, "%s has no *.safetensors; %s is not read: convert it to safetensors", j->id, other);
    return err_set(ST_NOT_FOUND, "%s has no weights: expected %s, %s or *.safetensors", j->id, SINGLE, INDEX);
}

static status download(job *j, const jv *list)
{
    TRY(read_list(j, list));
    for (size_t i = 0; i < j->n_files; i++)
        if (matches(SMALL, j->files[i]) && !matches(j->o->ignore, j->files[i])) TRY(get_file(j, j->files[i]));
    if (j->o->weights) TRY(get_weights(j));
    if (strcmp(j->revision, j->commit) != 0 && hub_cache_set_ref(&j->mem, &j->cache, j->revision, j->commit) != ST_OK)
        log_warn("%s", err_msg()); /* a read-only cache that has all files is fine */
    return ST_OK;
}

/* ---- the cache alone ---- */

static status need_cached(job *j, const char *name)
{
    const char *path = hub_cache_file(&j->mem, &j->cache, j->commit, name);
    if (!path) return err_nomem();
    if (hub_is_file(path)) return ST_OK;
    return err_set(ST_NOT_FOUND, "%s is missing in the cache folder %s/snapshots/%s", name, j->cache.repo, j->commit);
}

static status cached(job *j, const char *name, bool *yes)
{
    const char *path = hub_cache_file(&j->mem, &j->cache, j->commit, name);
    if (!path) return err_nomem();
    *yes = hub_is_file(path);
    return ST_OK;
}

/* Without index or single file: is there any *.safetensors at the top of the snapshot? */
static status some_weights(job *j)
{
    const char *dir = hub_cache_snapshot(&j->mem, &j->cache, j->commit);
    if (!dir) return err_nomem();
    DIR *d = opendir(dir);
    if (!d) return err_errno("cannot open the cache folder %s", dir);
    bool found = false;
    for (const struct dirent *e; !found && (e = readdir(d));) found = is_weights(e->d_name);
    closedir(d);
    return found ? ST_OK : err_set(ST_NOT_FOUND, "the weights (%s, %s or *.safetensors) are missing in the cache folder %s", SINGLE, INDEX, dir);
}

/* Sets commit if the cache holds what is asked for; ST_NOT_FOUND says what is missing where. */
static status from_cache(job *j)
{
    bool config = false, adapter = false, single = false, index = false;
    TRY(hub_cache_commit(&j->mem, &j->cache, j->revision, &j->commit));
    TRY(cached(j, "config.json", &config));
    TRY(cached(j, "adapter_config.json", &adapter));
    if (!config && !adapter) return need_cached(j, "config.json");
    if (!j->o->weights) return ST_OK;
    TRY(cached(j, SINGLE, &single));
    TRY(cached(j, INDEX, &index));
    if (single) return ST_OK;
    if (!index) return some_weights(j);
    const char *path = hub_cache_file(&j->mem, &j->cache, j->commit, INDEX);
    return path ? for_shards(j, path, need_cached) : err_nomem();
}

/* ---- from a name to a folder ---- */

static status offline_only(job *j)
{
    status st = from_cache(j);
    if (st != ST_NOT_FOUND) return st;
    return err_wrap(st, "offline mode (HF_HUB_OFFLINE), and %s at revision %s is not complete", j->id, j->revision);
}

/* Asks the hub. When it cannot be reached, a complete copy in the cache will do. */
static status online(job *j, const char *token)
{
    jv *list = NULL;
    char why[1024];
    status st = hub_net_open(&j->net, &j->mem, j->id, j->revision, token, j->o->progress);
    if (st == ST_OK) st = hub_net_list(&j->net, &list);
    if (st == ST_OK) {
        st = download(j, list);
    } else if (st == ST_IO || st == ST_LIMIT) {
        status first = st;
        err_copy(why, sizeof why);
        st = from_cache(j);
        if (st == ST_OK) log_warn("%s; using the copy in %s", why, j->cache.repo);
        else if (st != ST_NOMEM) st = err_set(first, "%s, and the cache has no complete copy (%s)", why, err_msg());
    }
    jv_free(list);
    hub_net_close(&j->net);
    return st;
}

static status resolve(job *j, char **dir)
{
    const char *token = NULL;
    if (!hub_name_ok(j->revision) || strlen(j->revision) > 200) return err_set(ST_INVALID, "revision \"%.40s\" is not the name of a branch, tag or commit", j->revision);
    TRY(hub_cache_at(&j->mem, j->id, j->o->download_dir, &j->cache));
    if (j->o->offline || hub_env_true("HF_HUB_OFFLINE") || hub_env_true("TRANSFORMERS_OFFLINE")) {
        TRY(offline_only(j));
    } else {
        TRY(hub_token(&j->mem, j->o->token, &token));
        TRY(online(j, token));
    }
    const char *snapshot = hub_cache_snapshot(&j->mem, &j->cache, j->commit);
    char *copy = snapshot ? mem_strdup(snapshot) : NULL;
    if (!copy) return err_nomem();
    *dir = copy;
    return ST_OK;
}

status hub_resolve(const char *model, const hub_options *o, char **dir)
{
    static const hub_options defaults = { .weights = true };
    struct stat sb;
    if (stat(model, &sb) == 0 && S_ISDIR(sb.st_mode)) {
        char *copy = mem_strdup(model);
        if (!copy) return err_nomem();
        *dir = copy;
        return ST_OK;
    }
    if (stat(model, &sb) == 0) return err_set(ST_INVALID, "%s is a file: expected a model directory or a hub id (org/name)", model);
    if (!hub_id_ok(model)) return err_set(ST_NOT_FOUND, "\"%s\" is neither an existing directory nor a hub id (org/name)", model);
    job *j = mem_calloc(1, sizeof *j);
    if (!j) return err_nomem();
    j->o = o ? o : &defaults;
    j->id = model;
    j->revision = j->o->revision && *j->o->revision ? j->o->revision : "main";
    status st = resolve(j, dir);
    map_free(&j->listed);
    arena_free(&j->mem);
    mem_free(j);
    return st;
}
