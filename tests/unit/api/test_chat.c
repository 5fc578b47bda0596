/* api: /v1/chat/completions, /tokenize and /detokenize. */
#include "tests/test.h"

#include "tests/unit/api/fixture.h"

#define USER "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

TEST(plain)
{
    fixture x;
    jv *v;
    fixture_init(&x, "abcdefgh");
    REQUIRE(fixture_start(&x));
    /* "[user]hi\n[assistant]" is 20 tokens: the answer starts at script[19 % 8] */
    CHECK_INT(ask(&x, "/v1/chat/completions", "{" USER ",\"temperature\":0,\"max_completion_tokens\":3,\"max_tokens\":9,\"return_prompt_text\":true,\"return_token_ids\":true}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.message.content"), "def");
    CHECK_STR(DIG_STR(v, "choices.0.message.role"), "assistant");
    CHECK(jv_is(dig(v, "choices.0.message.reasoning"), JV_NULL));
    CHECK(dig(v, "choices.0.message.tool_calls") == NULL); /* omitted when empty */
    CHECK_STR(DIG_STR(v, "object"), "chat.completion");
    CHECK_STR(DIG_STR(v, "prompt_text"), "[user]hi\n[assistant]");
    CHECK_INT(jv_len(dig(v, "prompt_token_ids")), 20);
    CHECK_INT(jv_len(dig(v, "choices.0.token_ids")), 3);
    CHECK(strncmp(DIG_STR(v, "id"), "chatcmpl-", 9) == 0);
    jv_free(v);
    /* without max_tokens: the rest of the context */
    CHECK_INT(ask(&x, "/v1/chat/completions", "{" USER ",\"temperature\":0}", &v), 200);
    CHECK_INT(DIG_INT(v, "usage.completion_tokens"), MAX_LEN - 20);
    jv_free(v);
    fixture_stop(&x);
}

/* An answer in the harmony format: ( start, < channel, > message, ) end, ~ return, ! call. It begins after 19 tokens. */
static const harmony_marks marks = { { '(', '<', ';', '>', ')', EOS, '!' } };

static void harmony_script(fixture *x, const char *answer)
{
    char turned[65] = "";
    size_t n = strlen(answer);
    for (size_t i = 0; i < n; i++) turned[(19 + i) % n] = answer[i];
    fixture_init(x, turned);
    x->o.harmony = &marks;
}

#define ASK "{" USER ",\"temperature\":0,\"max_tokens\":60"

TEST(harmony)
{
    static const struct { const char *script, *body, *reasoning, *content; } cases[] = {
        { "<analysis>let me see)(assistant<final>42~", "}", "let me see", "42" },
        { "<analysis>one)(x<analysis>two)(x<final>a)(x<final>b~", "}", "one\ntwo", "a\nb" },
        { "<analysis>hm)(assistant<final>42~", ",\"include_reasoning\":false}", NULL, "42" },
        { "<final>42~", "}", NULL, "42" },
        { "<commentary>first,)(assistant<final>42~", "}", NULL, "first,\n42" },
        { "<commentary to=f ;json>[1]~", "}", NULL, "[1]" },
        { "<analysis>endless~", "}", "endless", NULL },
        { "no message at all~", "}", NULL, "no message at all" },
        { "<analysis>s)(assistant<final>ab.cd~", ",\"stop\":\".\"}", "s", "ab" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture x;
        jv *v;
        char body[512];
        harmony_script(&x, cases[i].script);
        REQUIRE(fixture_start(&x));
        snprintf(body, sizeof body, ASK "%s", cases[i].body);
        CHECK_INT(ask(&x, "/v1/chat/completions", body, &v), 200);
        CHECK_STR(jv_str(dig(v, "choices.0.message.reasoning"), "none"), cases[i].reasoning ? cases[i].reasoning : "none");
        CHECK_STR(jv_str(dig(v, "choices.0.message.reasoning_content"), "none"), cases[i].reasoning ? cases[i].reasoning : "none");
        CHECK_STR(jv_str(dig(v, "choices.0.message.content"), "none"), cases[i].content ? cases[i].content : "none");
        if (i == 0) CHECK_INT(DIG_INT(v, "usage.completion_tokens_details.reasoning_tokens"), 11);   /* with the mark that ends it */
        jv_free(v);
        fixture_stop(&x);
    }
}

TEST(harmony_needs_every_mark)
{
    harmony_marks found;
    tokenizer *t = byte_tokenizer();
    CHECK(!harmony_find_marks(NULL, &found) && !harmony_find_marks(t, &found));
    tokenizer_free(t);
    const char *real = test_shared("realdata/tokenizers/gpt-oss/tokenizer.json");
    if (!real) SKIP("no ../shared/realdata");
    char dir[4096];
    snprintf(dir, sizeof dir, "%s", real);
    *strrchr(dir, '/') = 0;
    REQUIRE_OK(tokenizer_load_dir(dir, &t));
    CHECK(harmony_find_marks(t, &found));
    CHECK_INT(found.id[HARMONY_RETURN], 200002);
    CHECK_INT(found.id[HARMONY_CALL], 200012);
    tokenizer_free(t);
}

TEST(harmony_in_a_stream)
{
    fixture x;
    int code;
    harmony_script(&x, "<analysis>see)(assistant<final>42~");
    REQUIRE(fixture_start(&x));
    char *sse = ask_text(&x, "/v1/chat/completions", ASK ",\"stream\":true}", &code);
    CHECK_INT(code, 200);
    const char *see = strstr(sse, "\"delta\":{\"reasoning\":\"s\",\"reasoning_content\":\"s\"}"), *four = strstr(sse, "\"delta\":{\"content\":\"4\"}");
    CHECK(see && four && see < four);
    CHECK(!strstr(sse, "analysis") && !strstr(sse, "final\""));
    mem_free(sse);
    fixture_stop(&x);
}

TEST(logprobs)
{
    fixture x;
    jv *v;
    fixture_init(&x, "abcdefgh");
    REQUIRE(fixture_start(&x));
    CHECK_INT(ask(&x, "/v1/chat/completions", "{" USER ",\"temperature\":0,\"max_tokens\":2,\"logprobs\":true,\"top_logprobs\":2}", &v), 200);
    CHECK_STR(DIG_STR(v, "choices.0.logprobs.content.0.token"), "d");
    CHECK_INT(DIG_INT(v, "choices.0.logprobs.content.0.bytes.0"), 'd');
    CHECK_INT(jv_len(dig(v, "choices.0.logprobs.content.0.top_logprobs")), 2);
    CHECK_STR(DIG_STR(v, "choices.0.logprobs.content.0.top_logprobs.0.token"), "d");
    jv_free(v);
    CHECK_INT(ask(&x, "/v1/chat/completions", "{" USER ",\"temperature\":0,\"max_tokens\":2,\"logprobs\":true}", &v), 200);
    CHECK_INT(jv_len(dig(v, "choices.0.logprobs.content")), 2);
    CHECK_INT(jv_len(dig(v, "choices.0.logprobs.content.0.top_logprobs")), 0);
    jv_free(v);
    fixture_stop(&x);
}

TEST(stream)
{
    fixture x;
    int code;
    fixture_init(&x, "abcdefgh");
    x.o.per_request_metrics = true;
    REQUIRE(fixture_start(&x));
    char *sse = ask_text(&x, "/v1/chat/completions", "{" USER ",\"temperature\":0,\"max_tokens\":2,\"stream\":true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}}", &code);
    CHECK_INT(code, 200);
    const char *role = strstr(sse, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}");
    const char *first = strstr(sse, "\"delta\":{\"content\":\"d\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}");
    const char *last = strstr(sse, "\"delta\":{\"content\":\"e\"},\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null,\"token_ids\":null}");
    const char *use = strstr(sse, "\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"total_tokens\":22,\"completion_tokens\":2},\"metrics\":{\"time_to_first_token_ms\":");
    REQUIRE(role && first && last && use);
    CHECK(role < first && first < last && last < use);
    CHECK(strstr(sse, "\"usage\":{\"prompt_tokens\":20,\"total_tokens\":21,\"completion_tokens\":1}") != NULL);
    CHECK(strstr(last, "\"system_fingerprint\":\"fp\"") != NULL);
    CHECK(strcmp(sse + strlen(sse) - 14, "data: [DONE]\n\n") == 0);
    mem_free(sse);
    fixture_stop(&x);
}

TEST(two_streams_have_two_openings)
{
    fixture x;
    int code, roles = 0, ends = 0;
    fixture_init(&x, "abcdefgh");
    REQUIRE(fixture_start(&x));
    char *sse = ask_text(&x, "/v1/chat/completions", "{" USER ",\"n\":2,\"seed\":3,\"top_k\":1,\"max_tokens\":3,\"stream\":true}", &code);
    for (const char *p = sse; (p = strstr(p, "\"role\"")); p++) roles++;
    for (const char *p = sse; (p = strstr(p, "\"finish_reason\":\"length\"")); p++) ends++;
    CHECK_INT(roles, 2);
    CHECK_INT(ends, 2);
    mem_free(sse);
    fixture_stop(&x);
}

TEST(echo_and_continuation)
{
    fixture x;
    jv *v;
    fixture_init(&x, "abcdefgh");
    REQUIRE(fixture_start(&x));
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"The answer \"}],\"add_generation_prompt\":false,"
                               "\"continue_final_message\":true,\"echo\":true,\"temperature\":0,\"max_tokens\":1,\"return_prompt_text\":true}";
    CHECK_INT(ask(&x, "/v1/chat/completions", body, &v), 200);
    CHECK_STR(DIG_STR(v, "prompt_text"), "[user]q\n[assistant]The answer ");
    CHECK(strncmp(DIG_STR(v, "choices.0.message.content"), "The answer ", 11) == 0);
    CHECK_INT(strlen(DIG_STR(v, "choices.0.message.content")), 12);
    jv_free(v);
    fixture_stop(&x);
}

TEST(bad_requests)
{
    static const struct { const char *body, *param, *message; } cases[] = {
        { "{}", "body.messages", "Field required" },
        { "{\"messages\":3}", "body.messages", "valid list" },
        { "{\"messages\":[3]}", "body.messages", "valid dictionary" },
        { "{\"messages\":[{\"content\":\"x\"}]}", "messages", "'role'" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":5}]}", "messages", "string or a list" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"x\"}}]}]}", "messages", "takes no image input" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"weird\"}]}]}", "messages", "Unknown part type" },
        { "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}]}", "messages", "not JSON" },
        { "{" USER ",\"top_logprobs\":2}", "top_logprobs", "logprobs" },
        { "{" USER ",\"tools\":[]}", "tools", "empty" },
        { "{" USER ",\"tool_choice\":\"auto\"}", "tool_choice", "`tools` must be set" },
        { "{" USER ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}", "tool_choice", "--enable-auto-tool-choice and --tool-call-parser" },
        { "{" USER ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"required\"}", "tool_choice", "--tool-call-parser" },
        { "{" USER ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}}", "tool_choice", "does not match" },
        { "{" USER ",\"chat_template\":\"x\"}", "chat_template", "--trust-request-chat-template" },
        { "{" USER ",\"continue_final_message\":true}", "add_generation_prompt", "Cannot set both" },
        { "{\"messages\":[{\"role\":\"user\"}],\"continue_final_message\":true,\"add_generation_prompt\":false}", "continue_final_message", "does not appear" },
        { "{\"messages\":[],\"continue_final_message\":true,\"add_generation_prompt\":false}", "continue_final_message", "does not appear" },
        { "{\"messages\":[],\"add_generation_prompt\":false}", "prompt", "empty" },
        { "{" USER ",\"mm_processor_kwargs\":{}}", "mm_processor_kwargs", "--trust-request-mm-kwargs" },
        { "{" USER ",\"media_io_kwargs\":{}}", "media_io_kwargs", "--trust-request-mm-kwargs" },
        { "{" USER ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}", "response_format", "not supported yet" },
        { "{" USER ",\"chat_template_kwargs\":{\"bad\":\"luck\"}}", "messages", "no luck" },
    };
    fixture x;
    fixture_init(&x, "abc");
    REQUIRE(fixture_start(&x));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        jv *v;
        int code = ask(&x, "/v1/chat/completions", cases[i].body, &v);
        if (code != 400 || strcmp(jv_str(dig(v, "error.param"), ""), cases[i].param) != 0 || !strstr(DIG_STR(v, "error.message"), cases[i].message))
            FAIL("%s: %d %s %s", cases[i].body, code, jv_str(dig(v, "error.param"), ""), DIG_STR(v, "error.message"));
        jv_free(v);
    }
    fixture_stop(&x);
}

TEST(tool_definitions_reach_the_template)
{
    fixture x;
    jv *v;
    fixture_init(&x, "abc");
    REQUIRE(fixture_start(&x));
    CHECK_INT(ask(&x, "/v1/chat/completions", "{" USER ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"none\",\"max_tokens\":1,\"return_prompt_text\":true}", &v), 200);
    CHECK_STR(DIG_STR(v, "prompt_text"), "[user]hi\nT1[assistant]");
    jv_free(v);
    fixture_stop(&x);
}

TEST(parts_are_joined_for_a_string_template)
{
    fixture x;
    jv *v;
    fixture_init(&x, "abc");
    REQUIRE(fixture_start(&x));
    CHECK_INT(ask(&x, "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"text\":\"b\"}]},{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"c\"}],"
                                               "\"max_tokens\":1,\"return_prompt_text\":true}", &v), 200);
    CHECK_STR(DIG_STR(v, "prompt_text"), "[user]a\nb\n[tool]c\n[assistant]");
    jv_free(v);
    fixture_stop(&x);
}

TEST(tokenize)
{
    fixture x;
    jv *v;
    fixture_init(&x, "abc");
    x.o.trust_request_chat_template = true;
    REQUIRE(fixture_start(&x));
    CHECK_INT(ask(&x, "/tokenize", "{\"model\":\"other\",\"prompt\":\"h\xC3\xA9 <eos>\",\"return_token_strs\":true}", &v), 200);
    CHECK_INT(DIG_INT(v, "count"), 5);
    CHECK_INT(DIG_INT(v, "max_model_len"), MAX_LEN);
    CHECK_INT(DIG_INT(v, "tokens.4"), EOS);
    CHECK_STR(DIG_STR(v, "token_strs.3"), "\xC4\xA0"); /* how a space is written in the vocabulary */
    jv_free(v);
    CHECK_INT(ask(&x, "/tokenize", "{" USER "}", &v), 200); /* add_generation_prompt is the default */
    CHECK_INT(DIG_INT(v, "count"), 20);
    CHECK(jv_is(dig(v, "token_strs"), JV_NULL));
    jv_free(v);
    CHECK_INT(ask(&x, "/tokenize", "{" USER ",\"chat_template\":\"{{ messages[0].content }}{{ k }}\",\"chat_template_kwargs\":{\"k\":\"!\"}}", &v), 200);
    CHECK_INT(DIG_INT(v, "count"), 3);
    jv_free(v);
    CHECK_INT(ask(&x, "/tokenize", "{" USER ",\"chat_template\":\"{{ \"}", &v), 400);
    jv_free(v);
    CHECK_INT(ask(&x, "/tokenize", "{}", &v), 400);
    CHECK_STR(DIG_STR(v, "error.param"), "body.prompt");
    jv_free(v);
    CHECK_INT(ask(&x, "/detokenize", "{\"tokens\":[104,195,169,256]}", &v), 200);
    CHECK_STR(DIG_STR(v, "prompt"), "h\xC3\xA9<eos>");
    jv_free(v);
    CHECK_INT(ask(&x, "/detokenize", "{\"tokens\":[1,999999999999]}", &v), 400);
    jv_free(v);
    fixture_stop(&x);
}

TEST_MAIN
