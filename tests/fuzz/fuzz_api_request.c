// layer: api
/* Request bodies of every route up to where they would be submitted: no crash, no leak, an error message with every refusal.
 * The first byte picks the route. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/server.h"
#include "base/log.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char spec[] =
    "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":null,"
    "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"u\",\"fuse_unk\":true,\"byte_fallback\":false,\"merges\":[],\"vocab\":{\"u\":0,\"a\":1,\"b\":2,\" \":3,\"c\":4}}}";
static const char chat[] = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ m.tool_calls }}{% endfor %}{{ tools }}{% if add_generation_prompt %}[a]{% endif %}";

static api_options o;

static void set_up(void)
{
    static const char *const names[] = { "m" };
    jv *v = NULL;
    tokenizer *tok = NULL;
    jinja *t = NULL;
    log_set_level(LOG_ERROR);
    if (jv_parse(spec, sizeof spec - 1, &v) != ST_OK || tokenizer_new(v, NULL, &tok) != ST_OK || jinja_parse(chat, sizeof chat - 1, &t) != ST_OK) {
        fprintf(stderr, "%s\n", err_msg());
        abort();
    }
    jv_free(v);
    o = (api_options){ .served_names = { names, 1 }, .model_root = "m", .vocab_size = 5, .max_model_len = 64, .max_logprobs = 20, .tok = tok, .chat_template = t,
                       .trust_request_chat_template = true, .eos_id = 0 };
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const paths[] = { "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize" };
    if (!o.tok) set_up();
    if (size == 0) return 0;
    int64_t live = mem_live();
    err_clear();
    status st = api_check_request(&o, paths[data[0] % 4], (const char *)data + 1, size - 1);
    if (st != ST_OK && !*err_msg()) abort();
    if (mem_live() != live) abort();
    return 0;
}
