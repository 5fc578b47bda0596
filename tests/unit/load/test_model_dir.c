/* load: the small files of a model directory. */
#include "tests/test.h"

#include "base/mem.h"
#include "load/model_dir.h"
#include "tests/unit/load/tmpdir.h"

static const char *fresh(void)
{
    const char *dir = tmpdir_new();
    tmpdir_text("config.json", "{\"model_type\":\"llama\",\"hidden_size\":64}");
    return dir;
}

TEST(config_alone_is_enough)
{
    model_dir *d = NULL;
    const char *dir = fresh();
    REQUIRE_OK(model_dir_open(dir, &d));
    CHECK_STR(d->path, dir);
    CHECK_STR(jv_get_str(d->config, "model_type", ""), "llama");
    CHECK(!d->generation_config && !d->tokenizer_config && !d->preprocessor_config && !d->template_source);
    CHECK(!model_dir_template(d, NULL));
    model_dir_free(d);
}

TEST(templates_and_their_order)
{
    model_dir *d = NULL;
    const char *dir = fresh();
    tmpdir_text("tokenizer_config.json", "{\"chat_template\":\"from tokenizer\"}");
    REQUIRE_OK(model_dir_open(dir, &d));
    CHECK_STR(model_dir_template(d, NULL), "from tokenizer");
    CHECK_STR(d->template_source, "tokenizer_config.json");
    model_dir_free(d);

    tmpdir_text("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"default\",\"template\":\"D\"},{\"name\":\"tool_use\",\"template\":\"T\"}]}");
    REQUIRE_OK(model_dir_open(dir, &d));
    CHECK_STR(model_dir_template(d, "default"), "D");
    CHECK_STR(model_dir_template(d, "tool_use"), "T");
    CHECK(!model_dir_template(d, "rag"));
    model_dir_free(d);

    tmpdir_text("chat_template.json", "{\"chat_template\":\"from json\"}");
    REQUIRE_OK(model_dir_open(dir, &d));
    CHECK_STR(model_dir_template(d, NULL), "from json");
    CHECK(!model_dir_template(d, "tool_use"));
    model_dir_free(d);

    tmpdir_text("chat_template.jinja", "from jinja \xe2\x82\xac");
    mkdir(tmpdir_at("additional_chat_templates"), 0700);
    tmpdir_text("additional_chat_templates/tool_use.jinja", "more");
    tmpdir_text("additional_chat_templates/README", "no");
    REQUIRE_OK(model_dir_open(dir, &d));
    CHECK_STR(model_dir_template(d, NULL), "from jinja \xe2\x82\xac");
    CHECK_STR(model_dir_template(d, "tool_use"), "more");
    CHECK_INT(d->n_templates, 2);
    CHECK_STR(d->template_source, "chat_template.jinja");
    model_dir_free(d);

    tmpdir_text("chat_template.jinja", "");
    REQUIRE_OK(model_dir_open(dir, &d));
    CHECK_STR(model_dir_template(d, NULL), "");
    model_dir_free(d);
}

TEST(a_null_template_is_none)
{
    model_dir *d = NULL;
    const char *dir = fresh();
    tmpdir_text("tokenizer_config.json", "{\"chat_template\":null}");
    REQUIRE_OK(model_dir_open(dir, &d));
    CHECK_INT(d->n_templates, 0);
    model_dir_free(d);
}

TEST(refuses)
{
    static const struct { const char *file, *text; status st; const char *want; } bad[] = {
        { "config.json", "{\"a\":", ST_INVALID, "config.json: invalid JSON" },
        { "config.json", "[]", ST_INVALID, "config.json must hold a JSON object, not a list" },
        { "generation_config.json", "3", ST_INVALID, "generation_config.json must hold a JSON object, not an integer" },
        { "tokenizer_config.json", "{\"chat_template\":3}", ST_INVALID, "tokenizer_config.json: chat_template must be a string or a list, not an integer" },
        { "tokenizer_config.json", "{\"chat_template\":[{\"name\":\"x\"}]}", ST_INVALID, "chat_template[0] must be an object" },
        { "tokenizer_config.json", "{\"chat_template\":[{\"name\":\"x\",\"template\":\"a\"},{\"name\":\"x\",\"template\":\"b\"}]}", ST_INVALID, "\"x\" twice" },
        { "tokenizer_config.json", "{\"chat_template\":\"a\\u0000b\"}", ST_INVALID, "NUL" },
        { "chat_template.json", "\"x\"", ST_INVALID, "chat_template.json must hold" },
        { "chat_template.jinja", "\xff", ST_INVALID, "chat_template.jinja is not UTF-8" },
    };
    model_dir *d = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *dir = fresh();
        tmpdir_text(bad[i].file, bad[i].text);
        CHECK_ERR(model_dir_open(dir, &d), bad[i].st, bad[i].want);
    }
}

TEST(refuses_directories_that_are_none)
{
    model_dir *d = NULL;
    const char *dir = tmpdir_new();
    CHECK_ERR(model_dir_open(dir, &d), ST_NOT_FOUND, "has no config.json");
    CHECK_ERR(model_dir_open(tmpdir_at("none"), &d), ST_NOT_FOUND, "none: No such file");
    tmpdir_text("params.json", "{}");
    CHECK_ERR(model_dir_open(dir, &d), ST_UNSUPPORTED, "params.json");
    CHECK_ERR(model_dir_open(tmpdir_at("params.json"), &d), ST_INVALID, "not a directory");
    if (symlink("gone", tmpdir_at("config.json")) == 0) CHECK_ERR(model_dir_open(dir, &d), ST_NOT_FOUND, "config.json: No such file");
    fresh();
    if (mkfifo(tmpdir_at("chat_template.jinja"), 0600) == 0) CHECK_ERR(model_dir_open(tmpdir_path, &d), ST_INVALID, "not a regular file");
    char *big = malloc(2 << 20);
    REQUIRE(big);
    memset(big, ' ', 2 << 20);
    fresh();
    tmpdir_write("config.json", big, 2 << 20);
    free(big);
    CHECK_ERR(model_dir_open(tmpdir_path, &d), ST_LIMIT, "larger than 1048576 bytes");
}

TEST(golden_directories_open)
{
    const char *path = test_shared("goldens/llama_sharded/config.json");
    if (!path) SKIP("no goldens");
    char dir[4096];
    snprintf(dir, sizeof dir, "%.*s", (int)(strlen(path) - strlen("/config.json")), path);
    model_dir *d = NULL;
    REQUIRE_OK(model_dir_open(dir, &d));
    CHECK_STR(jv_get_str(d->config, "model_type", ""), "llama");
    model_dir_free(d);
}

TEST(out_of_memory_is_a_status)
{
    const char *dir = fresh();
    tmpdir_text("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"default\",\"template\":\"D\"}]}");
    for (int jinja = 0; jinja < 2; jinja++) {
        if (jinja) {
            tmpdir_text("chat_template.jinja", "J");
            mkdir(tmpdir_at("additional_chat_templates"), 0700);
            tmpdir_text("additional_chat_templates/rag.jinja", "R");
        }
        model_dir *d = NULL;
        CHECK_EVERY_ALLOCATION(model_dir_open(dir, &d), model_dir_free(d));
    }
}

TEST_MAIN
