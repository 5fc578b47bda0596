/* GET /v1/models and the check of a request's model name. */
#include <stdlib.h>
#include <string.h>

#include "api/app.h"
#include "base/hash.h"

static void permission(jw *w, int64_t created)
{
    char id[48] = "modelperm-";
    random_hex(id + 10, 16);
    jw_obj(w);
    jw_key(w, "id");                   jw_str(w, id);
    jw_key(w, "object");               jw_str(w, "model_permission");
    jw_key(w, "created");              jw_i64(w, created);
    jw_key(w, "allow_create_engine");  jw_bool(w, false);
    jw_key(w, "allow_sampling");       jw_bool(w, true);
    jw_key(w, "allow_logprobs");       jw_bool(w, true);
    jw_key(w, "allow_search_indices"); jw_bool(w, false);
    jw_key(w, "allow_view");           jw_bool(w, true);
    jw_key(w, "allow_fine_tuning");    jw_bool(w, false);
    jw_key(w, "organization");         jw_str(w, "*");
    jw_key(w, "group");                jw_null(w);
    jw_key(w, "is_blocking");          jw_bool(w, false);
    jw_end_obj(w);
}

status models_list(call *c, api_error *e)
{
    (void)e;
    const app *a = c->app;
    buf b = {0};
    jw w = jw_to(&b);
    jw_obj(&w);
    jw_key(&w, "object"); jw_str(&w, "list");
    jw_key(&w, "data");
    jw_arr(&w);
    for (int i = 0; i < a->o.served_names.n; i++) {
        jw_obj(&w);
        jw_key(&w, "id");            jw_str(&w, a->o.served_names.v[i]);
        jw_key(&w, "object");        jw_str(&w, "model");
        jw_key(&w, "created");       jw_i64(&w, a->created);
        jw_key(&w, "owned_by");      jw_str(&w, "vllm");
        jw_key(&w, "root");          jw_str(&w, a->o.model_root);
        jw_key(&w, "parent");        jw_null(&w);
        jw_key(&w, "max_model_len"); jw_i64(&w, a->o.max_model_len);
        jw_key(&w, "permission");
        jw_arr(&w);
        permission(&w, a->created);
        jw_end_arr(&w);
        jw_end_obj(&w);
    }
    jw_end_arr(&w);
    jw_end_obj(&w);
    call_json(c, 200, &b);
    buf_free(&b);
    return ST_OK;
}

status models_resolve(const app *a, const jv *body, const char **name, api_error *e)
{
    const char *want = jv_str(jv_get(body, "model"), NULL);
    if (!want || !*want) {
        *name = a->o.served_names.v[0];
        return ST_OK;
    }
    for (int i = 0; i < a->o.served_names.n; i++)
        if (strcmp(want, a->o.served_names.v[i]) == 0) {
            *name = a->o.served_names.v[i];
            return ST_OK;
        }
    const char *skip = getenv("VLLM_SKIP_MODEL_NAME_VALIDATION");
    if (skip && strcmp(skip, "1") == 0) {
        *name = a->o.served_names.v[0];
        return ST_OK;
    }
    return api_fail(e, 404, "NotFoundError", "model", "The model `%.200s` does not exist.", want);
}
