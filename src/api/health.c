/* /health /ping /version /load /metrics /kv_event_sources /reset_prefix_cache. */
#include "api/app.h"

status health_get(call *c, api_error *e)
{
    (void)e;
    bool ok = !atomic_load(&c->app->draining) && engine_healthy(c->app->o.engine);
    call_reply(c, ok ? 200 : 503, NULL, NULL, 0);
    return ST_OK;
}

status version_get(call *c, api_error *e)
{
    (void)e;
    static const char body[] = "{\"version\":\"" API_VLLM_VERSION "\"}";
    call_reply(c, 200, "application/json", body, sizeof body - 1);
    return ST_OK;
}

status load_get(call *c, api_error *e)
{
    (void)e;
    buf b = {0};
    buf_printf(&b, "{\"server_load\":%lld}", (long long)atomic_load(&c->app->server_load));
    call_json(c, 200, &b);
    buf_free(&b);
    return ST_OK;
}

status metrics_get(call *c, api_error *e)
{
    app *a = c->app;
    buf b = {0};
    engine_stats s = {0};
    engine_get_stats(a->o.engine, &s);
    if (a->o.towers) {
        towers_stats t;
        towers_get_stats(a->o.towers, &t);
        s.media_queries = t.queries;
        s.media_hits = t.hits;
    }
    metrics_write(a->metrics, &s, engine_config(a->o.engine), engine_num_blocks(a->o.engine), &b);
    status st = buf_status(&b);
    if (st == ST_OK) call_reply(c, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
    else st = api_fail_status(e, st, NULL);
    buf_free(&b);
    return st;
}

status kv_event_sources_get(call *c, api_error *e)
{
    (void)e;
    call_reply(c, 200, "application/json", "{}", 2); /* nothing publishes KV events here */
    return ST_OK;
}

status reset_prefix_cache_post(call *c, api_error *e)
{
    (void)e;
    bool done = engine_reset_prefix_cache(c->app->o.engine);
    const char *body = done ? "{\"success\":true}" : "{\"success\":false}";
    call_reply(c, 200, "application/json", body, done ? 16 : 17);
    return ST_OK;
}
