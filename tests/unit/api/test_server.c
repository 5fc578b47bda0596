/* api: routes, keys, CORS, metrics, cancellation, failures and shutdown. */
#include "tests/test.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include "tests/unit/api/fixture.h"

#define LONG_BODY "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":200,\"stream\":true}"

TEST(routes)
{
    fixture x;
    fetch_response r;
    jv *v;
    fixture_init(&x, "abc");
    x.o.root_path = "/proxy";
    REQUIRE(fixture_start(&x));
    CHECK_INT(ask_with(&x, "/health", NULL, NULL, &r), 200);
    CHECK_INT(r.body.len, 0);
    fetch_response_free(&r);
    CHECK_INT(ask_with(&x, "/ping", "", NULL, &r), 200);
    fetch_response_free(&r);
    CHECK_INT(ask(&x, "/version", NULL, &v), 200);
    CHECK_STR(DIG_STR(v, "version"), "0.33.0");
    jv_free(v);
    CHECK_INT(ask(&x, "/load", NULL, &v), 200);
    CHECK_INT(DIG_INT(v, "server_load"), 0);
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/models", NULL, &v), 200);
    CHECK_STR(DIG_STR(v, "data.1.id"), "other");
    CHECK_STR(DIG_STR(v, "data.0.root"), "/models/tiny");
    CHECK_INT(DIG_INT(v, "data.0.max_model_len"), MAX_LEN);
    CHECK_STR(DIG_STR(v, "data.0.permission.0.object"), "model_permission");
    jv_free(v);
    CHECK_INT(ask(&x, "/nope", NULL, &v), 404);
    CHECK_STR(DIG_STR(v, "error.type"), "Not Found");
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/completions", NULL, &v), 405);
    CHECK_STR(DIG_STR(v, "error.type"), "Method Not Allowed");
    jv_free(v);
    CHECK_INT(ask(&x, "/tokenizer_info", NULL, &v), 404); /* needs its flag */
    jv_free(v);
    CHECK_INT(ask(&x, "/invocations", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":1}", &v), 200);
    CHECK_STR(DIG_STR(v, "object"), "chat.completion");
    jv_free(v);
    CHECK_INT(ask(&x, "/reset_prefix_cache", "", &v), 404);
    jv_free(v);
    setenv("VLLM_SERVER_DEV_MODE", "1", 1);
    CHECK_INT(ask(&x, "/reset_prefix_cache", "", &v), 200);
    CHECK(jv_get_bool(v, "success", false));
    jv_free(v);
    unsetenv("VLLM_SERVER_DEV_MODE");
    CHECK_INT(ask(&x, "/proxy/version", NULL, &v), 200);
    jv_free(v);
    CHECK_INT(ask(&x, "/openapi.json", NULL, &v), 200);
    CHECK(jv_len(dig(v, "paths")) > 10);
    CHECK(jv_get(jv_get(jv_get(v, "paths"), "/ping"), "post") != NULL);
    jv_free(v);
    CHECK_INT(ask_with(&x, "/docs", NULL, NULL, &r), 200);
    fetch_response_free(&r);
    static const char *const plain[] = { "Content-Type: text/plain", NULL };
    CHECK_INT(ask_with(&x, "/v1/completions", "{\"prompt\":\"x\"}", plain, &r), 400);
    CHECK(strstr(buf_cstr(&r.body), "Only 'application/json' is allowed") != NULL);
    fetch_response_free(&r);
    static const char *const charset[] = { "Content-Type: application/json; charset=utf-8", NULL };
    CHECK_INT(ask_with(&x, "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":1}", charset, &r), 200);
    fetch_response_free(&r);
    fixture_stop(&x);
}

TEST(keys)
{
    static const char *const keys[] = { "k1", "k2" };
    static const struct { const char *header, *path; int code; } cases[] = {
        { NULL, "/v1/models", 401 }, { "Authorization: Bearer k3", "/v1/models", 401 }, { "Authorization: Bearer k2", "/v1/models", 200 },
        { "Authorization: bearer k1", "/v1/models", 200 }, { "Authorization: Basic k1", "/v1/models", 401 }, { NULL, "/health", 200 }, { NULL, "/metrics", 200 },
        { NULL, "/version", 200 }, { "Authorization: Bearer k", "/v1/models", 401 }, { NULL, "/v1/nope", 401 },
    };
    fixture x;
    fixture_init(&x, "abc");
    x.o.api_keys = (str_list){ keys, 2 };
    REQUIRE(fixture_start(&x));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fetch_response r;
        const char *headers[] = { cases[i].header, NULL };
        CHECK_INT(ask_with(&x, cases[i].path, NULL, headers, &r), cases[i].code);
        if (cases[i].code == 401) CHECK_STR(buf_cstr(&r.body), "{\"error\":\"Unauthorized\"}");
        fetch_response_free(&r);
    }
    fixture_stop(&x);
}

TEST(cors_and_request_ids)
{
    static const char *const origins[] = { "https://a.example" }, *const star[] = { "*" };
    fixture x;
    fetch_response r;
    char value[128];
    fixture_init(&x, "abc");
    x.o.allowed_origins = (str_list){ origins, 1 };
    x.o.allowed_methods = x.o.allowed_headers = (str_list){ star, 1 };
    x.o.request_id_headers = true;
    REQUIRE(fixture_start(&x));
    static const char *const good[] = { "Origin: https://a.example", "X-Request-Id: my-id", NULL }, *const bad[] = { "Origin: https://b.example", NULL };
    ask_with(&x, "/version", NULL, good, &r);
    CHECK(fetch_header(&r, "Access-Control-Allow-Origin", value, sizeof value) && strcmp(value, "https://a.example") == 0);
    CHECK(fetch_header(&r, "X-Request-Id", value, sizeof value) && strcmp(value, "my-id") == 0);
    fetch_response_free(&r);
    ask_with(&x, "/version", NULL, bad, &r);
    CHECK(!fetch_header(&r, "Access-Control-Allow-Origin", value, sizeof value));
    CHECK(fetch_header(&r, "X-Request-Id", value, sizeof value) && strlen(value) == 32);
    fetch_response_free(&r);
    static const char *const with_id[] = { "Content-Type: application/json", "X-Request-Id: my-id", NULL };
    ask_with(&x, "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":1,\"request_id\":\"body-id\"}", with_id, &r);
    CHECK(strstr(buf_cstr(&r.body), "\"id\":\"cmpl-my-id\"") != NULL);
    fetch_response_free(&r);
    ask_with(&x, "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":1,\"request_id\":\"body-id\"}", NULL, &r);
    CHECK(strstr(buf_cstr(&r.body), "\"id\":\"cmpl-body-id\"") != NULL);
    fetch_response_free(&r);
    fixture_stop(&x);
}

TEST(metrics_names_and_counts)
{
    static const char *const lines[] = {
        "vllm:request_success_total{model_name=\"tiny\",engine=\"0\",finished_reason=\"length\"} 2.0\n",
        "vllm:generation_tokens_total{model_name=\"tiny\",engine=\"0\"} 8.0\n",
        "vllm:prompt_tokens_total{model_name=\"tiny\",engine=\"0\"} 4.0\n",


        "vllm:request_prompt_tokens_bucket{model_name=\"tiny\",engine=\"0\",le=\"2.0\"} 2.0\n",
        "vllm:request_prompt_tokens_bucket{model_name=\"tiny\",engine=\"0\",le=\"200.0\"} 2.0\n",
        "vllm:time_to_first_token_seconds_bucket{model_name=\"tiny\",engine=\"0\",le=\"2560.0\"} 2.0\n",
        "vllm:e2e_request_latency_seconds_bucket{model_name=\"tiny\",engine=\"0\",le=\"+Inf\"} 2.0\n",
        "vllm:iteration_tokens_total_bucket{model_name=\"tiny\",engine=\"0\",le=\"16384.0\"} ",
        "vllm:num_requests_running{model_name=\"tiny\",engine=\"0\"} 0.0\n",
        "vllm:admission_rejections_total{model_name=\"tiny\",reason=\"max_num_queued_reqs\"} 0.0\n",
        "# TYPE vllm:kv_cache_usage_perc gauge\n", "# TYPE vllm:prompt_tokens_total counter\n", "# TYPE vllm:inter_token_latency_seconds histogram\n",
        "vllm:cache_config_info{block_size=\"4\",",
        "http_requests_total{handler=\"/v1/completions\",method=\"POST\",status=\"2xx\"} 1.0\n",
        "http_requests_total{handler=\"none\",method=\"GET\",status=\"4xx\"} 1.0\n",
        "http_request_duration_seconds_count{handler=\"/v1/completions\",method=\"POST\"} 1.0\n",
    };
    fixture x;
    jv *v;
    fetch_response r;
    fixture_init(&x, "abcdefgh");
    REQUIRE(fixture_start(&x));
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"xy\",\"temperature\":1,\"n\":2,\"max_tokens\":4,\"ignore_eos\":true,\"top_k\":1}", &v), 200);
    jv_free(v);
    ask(&x, "/nope", NULL, &v);
    jv_free(v);
    CHECK_INT(ask_with(&x, "/metrics", NULL, NULL, &r), 200);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        /* n is counted per request */
        if (strstr(lines[i], "params_n")) continue;
        if (!strstr(buf_cstr(&r.body), lines[i])) FAIL("no line %s", lines[i]);
    }
    CHECK(strstr(buf_cstr(&r.body), "vllm:request_params_n_count{model_name=\"tiny\",engine=\"0\"} 1.0\n") != NULL);
    CHECK(strstr(buf_cstr(&r.body), "vllm:request_params_n_bucket{model_name=\"tiny\",engine=\"0\",le=\"2.0\"} 1.0\n") != NULL);
    fetch_response_free(&r);
    fixture_stop(&x);
}

TEST(custom_buckets_are_checked)
{
    static const char *const bad[] = { "{\"nope\":[1]}", "{\"request_latency\":[2,1]}", "{\"request_latency\":[]}", "{\"request_latency\":[\"a\"]}" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fixture x;
        jv *v = NULL;
        fixture_init(&x, "abc");
        REQUIRE_OK(jv_parse(bad[i], strlen(bad[i]), &v));
        x.o.histogram_buckets = v;
        CHECK_ERR(api_check_request(&x.o, "/tokenize", "{\"prompt\":\"x\"}", 14), ST_INVALID, "custom-histogram-buckets");
        jv_free(v);
        fixture_stop(&x);
    }
}

/* ---- clients that leave ---- */
static int dial(fixture *x)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)api_port(x->api)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) return -1;
    return fd;
}

static void post(int fd, const char *body)
{
    char req[512];
    int n = snprintf(req, sizeof req, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    if (write(fd, req, (size_t)n) != n) printf("  short write\n");
}

static bool wait_idle(fixture *x, double seconds)
{
    double end = clock_now() + seconds;
    engine_stats s;
    do {
        engine_get_stats(x->e, &s);
        if (s.n_running == 0 && s.n_waiting == 0 && s.finished[FINISH_ABORT] + s.finished[FINISH_STOP] + s.finished[FINISH_LENGTH] > 0) return true;
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    } while (clock_now() < end);
    return false;
}

TEST(a_client_that_leaves_cancels)
{
    static const char *const bodies[] = { LONG_BODY, "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":200}" };
    for (int k = 0; k < 2; k++) {
        fixture x;
        char c[64];
        engine_stats s;
        fixture_init(&x, "abcdefgh");
        x.dev.delay_us = 20000;
        REQUIRE(fixture_start(&x));
        int fd = dial(&x);
        post(fd, bodies[k]);
        if (k == 0) CHECK(read(fd, c, sizeof c) > 0);
        else
            do engine_get_stats(x.e, &s); while (s.n_running == 0);
        close(fd);
        CHECK(wait_idle(&x, 2)); /* alone it would take four seconds */
        engine_get_stats(x.e, &s);
        CHECK_INT(s.finished[FINISH_ABORT], 1);
        fixture_stop(&x);
    }
}

TEST(limits_are_503)
{
    fixture x;
    jv *v;
    fixture_init(&x, "abcdefgh");
    x.eo.max_num_seqs = 1;
    x.eo.max_num_queued_reqs = 1;
    x.dev.delay_us = 3000;
    REQUIRE(fixture_start(&x));
    int code = ask(&x, "/v1/completions", "{\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"e\"],\"temperature\":0,\"max_tokens\":20}", &v);
    CHECK_INT(code, 503);
    CHECK_STR(DIG_STR(v, "error.type"), "Service Unavailable");
    jv_free(v);
    CHECK(wait_idle(&x, 2)); /* those that were submitted are aborted */
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"a\",\"temperature\":0,\"max_tokens\":2}", &v), 200);
    jv_free(v);
    fixture_stop(&x);
}

TEST(a_broken_device)
{
    for (int stream = 0; stream < 2; stream++) {
        fixture x;
        int code;
        fixture_init(&x, "abcdefgh");
        x.dev.fail_at = 4;
        REQUIRE(fixture_start(&x));
        char *text = ask_text(&x, "/v1/completions", stream ? LONG_BODY : "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":100}", &code);
        CHECK_INT(code, stream ? 200 : 500);
        CHECK(strstr(text, "\"type\":\"InternalServerError\"") != NULL);
        if (stream) CHECK(strcmp(text + strlen(text) - 14, "data: [DONE]\n\n") == 0);
        mem_free(text);
        text = ask_text(&x, "/health", NULL, &code);
        CHECK_INT(code, 503);
        mem_free(text);
        fixture_stop(&x);
    }
}

static void *close_soon(void *arg)
{
    fixture *x = arg;
    nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
    api_close(x->api, 0);
    return NULL;
}

TEST(shutdown_answers_what_is_open)
{
    for (int stream = 0; stream < 2; stream++) {
        fixture x;
        pthread_t t;
        int code;
        fixture_init(&x, "abcdefgh");
        x.dev.delay_us = 10000;
        REQUIRE(fixture_start(&x));
        pthread_create(&t, NULL, close_soon, &x);
        char *text = ask_text(&x, "/v1/completions", stream ? LONG_BODY : "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":200}", &code);
        pthread_join(t, NULL);
        CHECK_INT(code, 200);
        CHECK(strstr(text, "\"finish_reason\":\"abort\"") != NULL);
        mem_free(text);
        engine_stop(x.e, 0);
        api_free(x.api);
        x.api = NULL;
        x.e = NULL;
        fixture_stop(&x);
    }
}

TEST(keep_alive_comments)
{
    fixture x;
    int code;
    fixture_init(&x, "abcdefgh");
    x.dev.delay_us = 150000;
    x.o.sse_keep_alive_s = 0.05;
    REQUIRE(fixture_start(&x));
    char *sse = ask_text(&x, "/v1/completions", "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":3,\"stream\":true}", &code);
    CHECK(strstr(sse, ": keep-alive\n\n") != NULL);
    mem_free(sse);
    fixture_stop(&x);
}

TEST(many_at_once)
{
    enum { N = 24 };
    fixture x;
    int fds[N];
    engine_stats s;
    fixture_init(&x, "abcdefgh");
    x.o.load_tracking = true;
    REQUIRE(fixture_start(&x));
    for (int i = 0; i < N; i++) {
        fds[i] = dial(&x);
        post(fds[i], i % 3 ? LONG_BODY : "{\"prompt\":[\"x\",\"yy\"],\"n\":2,\"max_tokens\":50,\"seed\":5,\"ignore_eos\":true}");
    }
    for (int i = 0; i < N; i += 2) close(fds[i]); /* half of them leave */
    for (int i = 1; i < N; i += 2) {
        char c[4096];
        size_t total = 0;
        ssize_t n;
        shutdown(fds[i], SHUT_WR);
        while ((n = read(fds[i], c, sizeof c)) > 0) total += (size_t)n;
        (void)total;
        close(fds[i]);
    }
    CHECK(wait_idle(&x, 5));
    engine_get_stats(x.e, &s);
    CHECK_INT(s.n_running, 0);
    CHECK(engine_check_kv(x.e));
    fixture_stop(&x);
}

TEST(nothing_is_leaked)
{
    int64_t live = 0;
    for (int round = 0; round < 2; round++) {
        fixture x;
        jv *v;
        int code;
        fixture_init(&x, "abcdefgh");
        REQUIRE(fixture_start(&x));
        ask(&x, "/v1/completions", "{\"prompt\":[\"x\",\"yy\"],\"n\":2,\"max_tokens\":5,\"logprobs\":2,\"echo\":true,\"stop\":[\"e\"]}", &v);
        jv_free(v);
        mem_free(ask_text(&x, "/v1/completions", LONG_BODY, &code));
        ask(&x, "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":5,\"logprobs\":true,\"top_logprobs\":2}", &v);
        jv_free(v);
        mem_free(ask_text(&x, "/metrics", NULL, &code));
        fixture_stop(&x);
        if (round) CHECK_INT(mem_live(), live);
        live = mem_live();
    }
}

TEST_MAIN
