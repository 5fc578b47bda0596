/* api: /v1/completions against a scripted model. */
#include "tests/test.h"

#include "tests/unit/api/fixture.h"

TEST(plain)
{
    fixture x;
    jv *v;
    fixture_init(&x, "abcdefgh");
    REQUIRE(fixture_start(&x));
    CHECK_INT(ask(&x, "/v1/completions", "{\"model\":\"tiny\",\"prompt\":\"xyz\",\"max_tokens\":5,\"temperature\":0}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.text"), "cdefg");
    CHECK_STR(DIG_STR(v, "choices.0.finish_reason"), "length");
    CHECK(jv_is(dig(v, "choices.0.stop_reason"), JV_NULL));
    CHECK(jv_is(dig(v, "choices.0.logprobs"), JV_NULL));
    CHECK_STR(DIG_STR(v, "object"), "text_completion");
    CHECK_STR(DIG_STR(v, "model"), "tiny");
    CHECK_STR(DIG_STR(v, "system_fingerprint"), "fp");
    CHECK(strncmp(DIG_STR(v, "id"), "cmpl-", 5) == 0 && strlen(DIG_STR(v, "id")) == 37);
    CHECK_INT(DIG_INT(v, "usage.prompt_tokens"), 3);
    CHECK_INT(DIG_INT(v, "usage.completion_tokens"), 5);
    CHECK_INT(DIG_INT(v, "usage.total_tokens"), 8);
    CHECK(jv_is(dig(v, "usage.prompt_tokens_details"), JV_NULL));
    jv_free(v);
    /* token ids; model omitted; null is absent: 16 tokens */
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":[120,121,122],\"max_tokens\":null,\"temperature\":0,\"return_token_ids\":true}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.text"), "cdefghabcdefghab");
    CHECK_INT(jv_len(dig(v, "choices.0.token_ids")), 16);
    CHECK_INT(DIG_INT(v, "choices.0.prompt_token_ids.0"), 120);
    jv_free(v);
    /* prompt-major order of choices */
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":[\"x\",\"xy\"],\"n\":2,\"max_tokens\":2,\"temperature\":1,\"seed\":1,\"logit_bias\":{\"97\":100},\"top_k\":1}", &v), 200);
    CHECK_INT(jv_len(dig(v, "choices")), 4);
    for (int i = 0; i < 4; i++) CHECK_INT(jv_get_i64(jv_at(dig(v, "choices"), (size_t)i), "index", -1), i);
    CHECK_STR(DIG_STR(v, "choices.3.text"), "aa");
    CHECK_INT(DIG_INT(v, "usage.prompt_tokens"), 3); /* each prompt once */
    CHECK_INT(DIG_INT(v, "usage.completion_tokens"), 8);
    jv_free(v);
    fixture_stop(&x);
}

TEST(eos_and_stop_ids)
{
    fixture x;
    jv *v;
    fixture_init(&x, "ab~defg^ij");
    REQUIRE(fixture_start(&x));
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"x\",\"temperature\":0,\"return_token_ids\":true}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.text"), "ab");
    CHECK_STR(DIG_STR(v, "choices.0.finish_reason"), "stop");
    CHECK(jv_is(dig(v, "choices.0.stop_reason"), JV_NULL));
    CHECK_INT(jv_len(dig(v, "choices.0.token_ids")), 3); /* eos counts */
    CHECK_INT(DIG_INT(v, "usage.completion_tokens"), 3);
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"x\",\"temperature\":0,\"ignore_eos\":true,\"stop_token_ids\":[258]}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.text"), "abdefg"); /* specials are skipped */
    CHECK_INT(DIG_INT(v, "choices.0.stop_reason"), STOP_ID);
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"x\",\"temperature\":0,\"ignore_eos\":true,\"stop_token_ids\":[258],\"skip_special_tokens\":false,\"include_stop_str_in_output\":true}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.text"), "ab<eos>defg<stop>");
    jv_free(v);
    fixture_stop(&x);
}

TEST(stop_strings)
{
    fixture x;
    jv *v;
    fixture_init(&x, "one two three four ");
    REQUIRE(fixture_start(&x));
    static const struct { const char *extra, *text, *reason; int tokens; } cases[] = {
        { "\"stop\":\"two\"", "ne ", "two", 6 },
        { "\"stop\":[\"zzz\",\"three\",\"two thr\"]", "ne ", "two thr", 10 },  /* completes first */
        { "\"stop\":[\"thr\",\"two\"],\"include_stop_str_in_output\":true", "ne two", "two", 6 },
        { "\"stop\":\"wo\",\"min_tokens\":7", "ne two three four one t", "wo", 25 }, /* not before */
        { "\"stop\":\"e\"", "n", "e", 2 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[300];
        snprintf(body, sizeof body, "{\"prompt\":\"xx\",\"temperature\":0,\"max_tokens\":40,%s}", cases[i].extra);
        CHECK_INT(ask(&x, "/v1/completions", body, &v), 200);
        CHECK_STR(DIG_STR(v, "choices.0.text"), cases[i].text);
        CHECK_STR(DIG_STR(v, "choices.0.stop_reason"), cases[i].reason);
        CHECK_STR(DIG_STR(v, "choices.0.finish_reason"), "stop");
        CHECK_INT(DIG_INT(v, "usage.completion_tokens"), cases[i].tokens);
        jv_free(v);
    }
    fixture_stop(&x);
}

/* The texts of all chunks of a completion stream, and the number of events. */
static void collect(const char *sse, buf *text, buf *pieces, int *n)
{
    *n = 0;
    for (const char *p = sse; (p = strstr(p, "data: ")) != NULL;) {
        p += 6;
        size_t len = strcspn(p, "\n");
        jv *v = NULL;
        ++*n;
        if (strncmp(p, "[DONE]", 6) != 0 && jv_parse(p, len, &v) == ST_OK) {
            const char *s = jv_str(dig(v, "choices.0.text"), "");
            buf_str(text, s);
            buf_printf(pieces, "%s|", s);
        }
        jv_free(v);
        p += len;
    }
}

TEST(stream_holds_back_stop_strings)
{
    fixture x;
    int code, n;
    fixture_init(&x, "abcdefgh");
    REQUIRE(fixture_start(&x));
    buf text = {0}, pieces = {0};
    char *sse = ask_text(&x, "/v1/completions", "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":12,\"stream\":true,\"stop\":[\"fgX\"],\"stream_options\":{\"include_usage\":true}}", &code);
    CHECK_INT(code, 200);
    collect(sse, &text, &pieces, &n);
    CHECK_STR(buf_cstr(&text), "abcdefghabcd");
    CHECK(strncmp(buf_cstr(&pieces), "||a|b|c|", 8) == 0); /* always two characters behind */
    CHECK_INT(n, 14); /* 12 chunks, usage, [DONE] */
    CHECK(strstr(sse, "\"choices\":[],") != NULL);
    CHECK(strstr(sse, "\"usage\":{\"prompt_tokens\":1,\"total_tokens\":13,\"completion_tokens\":12}") != NULL);
    CHECK(strcmp(sse + strlen(sse) - 14, "data: [DONE]\n\n") == 0);
    mem_free(sse);
    buf_clear(&text);
    buf_clear(&pieces);
    sse = ask_text(&x, "/v1/completions", "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":12,\"stream\":true,\"stop\":[\"def\"]}", &code);
    collect(sse, &text, &pieces, &n);
    CHECK_STR(buf_cstr(&text), "abc");
    CHECK(strstr(sse, "\"stop_reason\":\"def\"") != NULL);
    CHECK(strstr(sse, "usage") == NULL);
    mem_free(sse);
    buf_free(&text);
    buf_free(&pieces);
    fixture_stop(&x);
}

TEST(stream_interval_and_utf8)
{
    fixture x;
    int code, n;
    fixture_init(&x, "\xE2\x82\xAC" "a\xF0\x9F\x98\x80z");
    REQUIRE(fixture_start(&x));
    buf text = {0}, pieces = {0};
    char *sse = ask_text(&x, "/v1/completions", "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":9,\"stream\":true}", &code);
    collect(sse, &text, &pieces, &n);
    CHECK_STR(buf_cstr(&pieces), "||\xE2\x82\xAC|a||||\xF0\x9F\x98\x80|z|");
    mem_free(sse);
    buf_clear(&text);
    buf_clear(&pieces);
    sse = ask_text(&x, "/v1/completions", "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":9,\"stream\":true,\"stream_interval\":4}", &code);
    collect(sse, &text, &pieces, &n);
    CHECK_STR(buf_cstr(&text), "\xE2\x82\xAC" "a\xF0\x9F\x98\x80z");
    CHECK_INT(n, 4); /* the first token at once, 4, 4 with the end, [DONE] */
    mem_free(sse);
    buf_free(&text);
    buf_free(&pieces);
    fixture_stop(&x);
}

TEST(logprobs_and_echo)
{
    fixture x;
    jv *v;
    fixture_init(&x, "abcdefgh");
    REQUIRE(fixture_start(&x));
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"xy\",\"temperature\":0,\"max_tokens\":2,\"logprobs\":2}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.logprobs.tokens.0"), "b");
    CHECK_INT(jv_len(dig(v, "choices.0.logprobs.tokens")), 2);
    CHECK_INT(DIG_INT(v, "choices.0.logprobs.text_offset.1"), 1);
    CHECK_INT(jv_len(dig(v, "choices.0.logprobs.top_logprobs.0")), 2); /* the token is among the best two */
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"xy\",\"temperature\":0,\"max_tokens\":2,\"logprobs\":0,\"echo\":true}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.text"), "xybc");
    CHECK_INT(jv_len(dig(v, "choices.0.logprobs.tokens")), 4);
    CHECK(jv_is(dig(v, "choices.0.logprobs.token_logprobs.0"), JV_NULL));
    CHECK(jv_is(dig(v, "choices.0.logprobs.top_logprobs.0"), JV_NULL));
    CHECK_INT(jv_len(dig(v, "choices.0.logprobs.top_logprobs.2")), 1);
    CHECK_INT(DIG_INT(v, "choices.0.logprobs.text_offset.3"), 3);
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"xy\",\"temperature\":0,\"max_tokens\":0,\"echo\":true,\"logprobs\":1}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.text"), "xy");
    CHECK_INT(jv_len(dig(v, "choices.0.logprobs.tokens")), 2);
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"xy\",\"temperature\":0,\"max_tokens\":1,\"prompt_logprobs\":1}", &v), 200);
    CHECK(jv_is(dig(v, "choices.0.prompt_logprobs.0"), JV_NULL));
    CHECK_STR(DIG_STR(v, "choices.0.prompt_logprobs.1.121.decoded_token"), "y");
    CHECK(dig(v, "choices.0.prompt_logprobs.1.121.rank") != NULL);
    CHECK_INT(DIG_INT(v, "choices.0.prompt_logprobs.1.97.rank"), 1);
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":[120],\"temperature\":0,\"max_tokens\":1,\"logprobs\":1,\"return_tokens_as_token_ids\":true}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.logprobs.tokens.0"), "token_id:97");
    jv_free(v);
    fixture_stop(&x);
}

TEST(streamed_echo_with_logprobs)
{
    fixture x;
    int code, n;
    fixture_init(&x, "abcdefgh");
    REQUIRE(fixture_start(&x));
    buf text = {0}, pieces = {0};
    char *sse = ask_text(&x, "/v1/completions", "{\"prompt\":\"xy\",\"temperature\":0,\"max_tokens\":2,\"stream\":true,\"echo\":true,\"logprobs\":0,\"return_token_ids\":true}", &code);
    collect(sse, &text, &pieces, &n);
    CHECK_STR(buf_cstr(&pieces), "xyb|c|");
    CHECK(strstr(sse, "\"tokens\":[\"x\",\"y\",\"b\"]") != NULL);
    CHECK(strstr(sse, "\"text_offset\":[3]") != NULL);
    CHECK(strstr(sse, "\"prompt_token_ids\":[120,121],\"token_ids\":[98]") != NULL);
    mem_free(sse);
    buf_free(&text);
    buf_free(&pieces);
    fixture_stop(&x);
}

TEST(without_a_tokenizer)
{
    fixture x;
    jv *v;
    fixture_init(&x, "abcdefgh");
    x.o.tok = NULL;
    x.o.max_logprobs = -1;
    REQUIRE(fixture_start(&x));
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":[1,2],\"temperature\":0,\"max_tokens\":3,\"return_token_ids\":true,\"prompt_logprobs\":-1,\"detokenize\":false,\"echo\":true}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.text"), "");
    CHECK_INT(DIG_INT(v, "choices.0.token_ids.0"), 'b');
    CHECK_INT(jv_len(dig(v, "choices.0.prompt_logprobs.1")), VOCAB);
    CHECK(jv_is(dig(v, "choices.0.prompt_logprobs.1.5.decoded_token"), JV_NULL));
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"text\"}", &v), 400);
    CHECK(strstr(DIG_STR(v, "error.message"), "skip_tokenizer_init") != NULL);
    jv_free(v);
    CHECK_INT(ask(&x, "/tokenize", "{\"prompt\":\"text\"}", &v), 400);
    jv_free(v);
    CHECK_INT(ask(&x, "/detokenize", "{\"tokens\":[1]}", &v), 400);
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", &v), 400);
    jv_free(v);
    fixture_stop(&x);
}

/* A body and what of the error must be there. */
TEST(bad_requests)
{
    static const struct { const char *body, *type, *param, *message; int code; } cases[] = {
        { "{", "Bad Request", "body", "JSON decode error", 400 },
        { "[]", "Bad Request", "body", "1 validation error:", 400 },
        { "{}", "Bad Request", "prompt", "Either prompt or prompt_embeds", 400 },
        { "{\"prompt\":\"\"}", "Bad Request", "prompt", "non-empty", 400 },
        { "{\"prompt\":\"x\",\"temperature\":\"hot\"}", "Bad Request", "body.temperature", "1 validation error:\n  {'type': 'float_parsing', 'loc': ('body', 'temperature')", 400 },
        { "{\"prompt\":\"x\",\"max_tokens\":1.5,\"n\":[]}", "Bad Request", "body.max_tokens", "2 validation errors:", 400 },
        { "{\"prompt\":\"x\",\"model\":\"nope\"}", "NotFoundError", "model", "The model `nope` does not exist.", 404 },
        { "{\"prompt\":\"x\",\"temperature\":-1}", "BadRequestError", "temperature", "must be non-negative, got -1.0", 400 },
        { "{\"prompt\":\"x\",\"temperature\":2.5}", "BadRequestError", "temperature", "2.5", 400 },
        { "{\"prompt\":\"x\",\"top_p\":0}", "BadRequestError", "top_p", "(0, 1]", 400 },
        { "{\"prompt\":\"x\",\"top_k\":-2}", "BadRequestError", "top_k", "-2", 400 },
        { "{\"prompt\":\"x\",\"min_p\":1.5}", "BadRequestError", "min_p", "[0, 1]", 400 },
        { "{\"prompt\":\"x\",\"n\":0}", "BadRequestError", "n", "at least 1", 400 },
        { "{\"prompt\":\"x\",\"n\":2,\"temperature\":0}", "BadRequestError", "n", "greedy", 400 },
        { "{\"prompt\":\"x\",\"max_tokens\":0}", "BadRequestError", "max_tokens", "at least 1", 400 },
        { "{\"prompt\":\"x\",\"max_tokens\":300}", "BadRequestError", "max_tokens", "256", 400 },
        { "{\"prompt\":\"x\",\"min_tokens\":17}", "BadRequestError", "min_tokens", "less than or equal", 400 },
        { "{\"prompt\":\"x\",\"logprobs\":21}", "BadRequestError", "logprobs", "max allowed: 20", 400 },
        { "{\"prompt\":\"x\",\"logprobs\":-1}", "BadRequestError", "logprobs", "max allowed: 20", 400 },
        { "{\"prompt\":\"x\",\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", "BadRequestError", "stop", "at most 4", 400 },
        { "{\"prompt\":\"x\",\"stop\":\"\"}", "BadRequestError", "stop", "empty", 400 },
        { "{\"prompt\":\"x\",\"stop\":3}", "Bad Request", "body.stop", "2 validation errors", 400 },
        { "{\"prompt\":\"x\",\"stream_options\":{}}", "Bad Request", "stream_options", "stream=True", 400 },
        { "{\"prompt\":\"x\",\"prompt_logprobs\":1,\"stream\":true}", "Bad Request", "prompt_logprobs", "stream=True", 400 },
        { "{\"prompt\":[5,260]}", "BadRequestError", "prompt", "260 is out of vocabulary", 400 },
        { "{\"prompt\":[-1]}", "BadRequestError", "prompt", "out of vocabulary", 400 },
        { "{\"prompt\":[[]]}", "BadRequestError", "prompt", "empty", 400 },
        { "{\"prompt\":[1,\"a\"]}", "Bad Request", "body.prompt", "valid integer", 400 },
        { "{\"prompt\":\"x\",\"logit_bias\":{\"9999\":1}}", "BadRequestError", "logit_bias", "9999", 400 },
        { "{\"prompt\":\"x\",\"allowed_token_ids\":[]}", "BadRequestError", "allowed_token_ids", "empty", 400 },
        { "{\"prompt\":\"x\",\"bad_words\":[\"\"]}", "BadRequestError", "bad_words", "empty", 400 },
        { "{\"prompt\":\"x\",\"suffix\":\"y\"}", "BadRequestError", "suffix", "suffix", 400 },
        { "{\"prompt\":\"x\",\"response_format\":{\"type\":\"json_object\"}}", "BadRequestError", "response_format", "not supported yet", 400 },
        { "{\"prompt\":\"x\",\"structured_outputs\":{\"regex\":\"a\"}}", "BadRequestError", "structured_outputs", "not supported yet", 400 },
        { "{\"prompt\":\"x\",\"truncate_prompt_tokens\":-2}", "Bad Request", "body.truncate_prompt_tokens", "greater than or equal to -1", 400 },
        { "{\"prompt\":\"x\",\"truncate_prompt_tokens\":257}", "BadRequestError", "truncate_prompt_tokens", "max_model_len", 400 },
        { "{\"prompt\":\"x\",\"cache_salt\":\"a/b\"}", "Bad Request", "cache_salt", "cache_salt", 400 },
        { "{\"prompt\":\"x\",\"use_beam_search\":true}", "BadRequestError", "use_beam_search", "not supported", 400 },
        { "{\"prompt\":\"x\",\"detokenize\":false,\"stop\":\"a\"}", "BadRequestError", "stop", "detokenize", 400 },
    };
    fixture x;
    fixture_init(&x, "abc");
    REQUIRE(fixture_start(&x));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        jv *v;
        int code = ask(&x, "/v1/completions", cases[i].body, &v);
        if (code != cases[i].code || strcmp(DIG_STR(v, "error.type"), cases[i].type) != 0 || strcmp(jv_str(dig(v, "error.param"), ""), cases[i].param) != 0 ||
            !strstr(DIG_STR(v, "error.message"), cases[i].message) || DIG_INT(v, "error.code") != code)
            FAIL("%s: %d %s %s %s", cases[i].body, code, DIG_STR(v, "error.type"), jv_str(dig(v, "error.param"), ""), DIG_STR(v, "error.message"));
        jv_free(v);
    }
    fixture_stop(&x);
}

TEST(context_length)
{
    fixture x;
    jv *v;
    char body[4096], ids[2048] = "1";
    fixture_init(&x, "abc");
    REQUIRE(fixture_start(&x));
    for (int i = 1; i < MAX_LEN; i++) strcat(ids, ",1");
    snprintf(body, sizeof body, "{\"prompt\":[%s],\"temperature\":0}", ids);
    CHECK_INT(ask(&x, "/v1/completions", body, &v), 400);
    CHECK_STR(DIG_STR(v, "error.param"), "input_tokens");
    CHECK(strstr(DIG_STR(v, "error.message"), "maximum context length is 256 tokens") != NULL);
    jv_free(v);
    snprintf(body, sizeof body, "{\"prompt\":[%s],\"temperature\":0,\"truncate_prompt_tokens\":250,\"max_tokens\":100}", ids);
    CHECK_INT(ask(&x, "/v1/completions", body, &v), 200);
    CHECK_INT(DIG_INT(v, "usage.prompt_tokens"), 250);
    CHECK_INT(DIG_INT(v, "usage.completion_tokens"), 6); /* what is left of the context */
    jv_free(v);
    snprintf(body, sizeof body, "{\"prompt\":[%s],\"temperature\":0,\"truncate_prompt_tokens\":-1}", ids);
    CHECK_INT(ask(&x, "/v1/completions", body, &v), 200);
    CHECK_INT(DIG_INT(v, "usage.completion_tokens"), 1);
    jv_free(v);
    snprintf(body, sizeof body, "{\"prompt\":[7,8,9],\"temperature\":0,\"truncate_prompt_tokens\":2,\"truncation_side\":\"right\",\"return_token_ids\":true,\"max_tokens\":1}");
    CHECK_INT(ask(&x, "/v1/completions", body, &v), 200);
    CHECK_INT(DIG_INT(v, "choices.0.prompt_token_ids.0"), 7);
    jv_free(v);
    fixture_stop(&x);
}

TEST(generation_config_gives_defaults)
{
    fixture x;
    jv *v, *d = NULL;
    const char *text = "{\"temperature\":0.0,\"max_tokens\":3}";
    static const int32_t extra[] = { 'f' };
    fixture_init(&x, "abcdefgh");
    REQUIRE_OK(jv_parse(text, strlen(text), &d));
    x.o.default_sampling = d;
    x.o.extra_eos = extra;
    x.o.n_extra_eos = 1;
    REQUIRE(fixture_start(&x));
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"x\"}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.text"), "abc");
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":10}", &v), 200); /* the request wins */
    CHECK_STR(DIG_STR(v, "choices.0.text"), "abcde");
    CHECK_INT(DIG_INT(v, "choices.0.stop_reason"), 'f');
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":10,\"ignore_eos\":true}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.text"), "abcdefghab");
    jv_free(v);
    fixture_stop(&x);
    jv_free(d);
}

TEST(out_of_memory_is_an_answer)
{
    fixture x;
    fixture_init(&x, "abc");
    static const struct { const char *path, *body; } cases[] = {
        { "/v1/completions", "{\"prompt\":[\"abc\",\"d\"],\"n\":2,\"stop\":[\"x\"],\"bad_words\":[\"bad\"],\"logit_bias\":{\"5\":1},\"stop_token_ids\":[1,2],\"echo\":true,\"logprobs\":1}" },
        { "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]},{\"role\":\"assistant\",\"content\":null,\"reasoning\":\"r\",\"tool_calls\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}]}]}" },
        { "/tokenize", "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}" },
        { "/detokenize", "{\"tokens\":[1,2]}" },
        { "/v1/completions", "{\"prompt\":3,\"temperature\":\"x\"}" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status want = i == 4 ? ST_INVALID : ST_OK;
        CHECK_INT(api_check_request(&x.o, cases[i].path, cases[i].body, strlen(cases[i].body)), want);
        int64_t live = mem_live();
        for (uint64_t n = 1;; n++) {
            mem_fail_at(n);
            status st = api_check_request(&x.o, cases[i].path, cases[i].body, strlen(cases[i].body));
            int hit = mem_failed();
            mem_fail_at(0);
            CHECK_INT(mem_live(), live);
            if (!hit) break;
            if (st == ST_OK && want == ST_OK) continue; /* a failure that only shortened an error text or a log line */
            CHECK(st == ST_NOMEM || st == ST_INVALID);
        }
    }
    fixture_stop(&x);
}

TEST_MAIN
