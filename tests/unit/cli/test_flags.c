/* cli: the flag parser and config files. */
#include "tests/test.h"

#include "base/mem.h"
#include "cli/flags.h"
#include "cli/serve.h"

static status parse(const char *line, flags **f)
{
    static char text[1024];
    char *argv[64];
    int argc = 0;
    snprintf(text, sizeof text, "%s", line);
    for (char *p = strtok(text, " "); p && argc < 64; p = strtok(NULL, " ")) argv[argc++] = p;
    return flags_parse(&serve_flags, argc, argv, f);
}

TEST(spellings)
{
    flags *f = NULL;
    REQUIRE_OK(parse("org/model --max_model_len=25.6k --max-num-batched-tokens 2K --no-enable-prefix-caching --enforce_eager -tp 1 -O3 --served-model-name a b --port 0 "
                     "--hf-overrides.a.b 1 --hf-overrides.c x --hf-overrides.l+ 1,2 --hf-overrides.l+=[3] --gpu-memory-utilization .5", &f));
    CHECK_STR(flags_str(f, "model"), "org/model");
    CHECK_INT(flags_i64(f, "max-model-len", 0), 25600);
    CHECK_INT(flags_i64(f, "max-num-batched-tokens", 0), 2048);
    CHECK(!flags_bool(f, "enable-prefix-caching", true));
    CHECK(flags_bool(f, "enable-chunked-prefill", true)); /* absent: the asker's default */
    CHECK(flags_bool(f, "enforce-eager", false));
    int n;
    const char *const *names = flags_list(f, "served-model-name", &n);
    CHECK_INT(n, 2);
    CHECK_STR(names[1], "b");
    CHECK(names[2] == NULL);
    buf b = {0};
    jw w = jw_to(&b);
    jw_value(&w, flags_json(f, "hf-overrides"));
    CHECK_STR(buf_cstr(&b), "{\"a\":{\"b\":1},\"c\":\"x\",\"l\":[1,2,3]}");
    buf_free(&b);
    CHECK_NEAR(flags_f64(f, "gpu-memory-utilization", 0), 0.5, 0);
    CHECK_STR(flags_str(f, "dtype"), "auto");
    CHECK(!flags_given(f, "dtype"));
    flags_free(f);
}

TEST(more_spellings)
{
    flags *f = NULL;
    REQUIRE_OK(parse("--model m --device-memory-utilization 0.7 --max-model-len auto --allowed-origins [\"*\"] --override-generation-config {\"temperature\":0.5} --seed -5 --async-scheduling tag", &f));
    CHECK_STR(flags_str(f, "model"), "tag"); /* the positional wins */
    CHECK_NEAR(flags_f64(f, "gpu-memory-utilization", 0), 0.7, 0);
    CHECK_INT(flags_i64(f, "max-model-len", 0), -1);
    CHECK_STR(flags_list(f, "allowed-origins", NULL)[0], "*");
    CHECK_INT(flags_i64(f, "seed", 0), -5);
    CHECK_NEAR(jv_get_f64(flags_json(f, "override-generation-config"), "temperature", 0), 0.5, 0);
    flags_free(f);
    REQUIRE_OK(parse("--max-model-len -1 --help=Frontend --disable-log-stats=true", &f));
    CHECK_INT(flags_i64(f, "max-model-len", 0), -1);
    CHECK_STR(flags_help(f), "Frontend");
    CHECK(flags_bool(f, "disable-log-stats", false));
    flags_free(f);
}

TEST(refusals)
{
    static const struct { const char *line, *message; status st; } cases[] = {
        { "--nope", "unrecognized arguments: --nope", ST_INVALID },
        { "--max-modle-len 5", "did you mean --max-model-len?", ST_INVALID },
        { "--port", "--port: expected one argument", ST_INVALID },
        { "--port x", "--port: 'x' is not an integer", ST_INVALID },
        { "--port 1.5K", "powers of 1024", ST_INVALID },
        { "--port 80zz", "not an integer", ST_INVALID },
        { "--served-model-name --port 1", "at least one argument", ST_INVALID },
        { "--dtype int7", "invalid choice: 'int7' (choose from 'auto', 'half'", ST_INVALID },
        { "--load-format tensorizer", "--load-format tensorizer is not supported yet", ST_UNSUPPORTED },
        { "--pipeline-parallel-size 2", "--pipeline-parallel-size 2 is not supported yet", ST_UNSUPPORTED },
        { "-q quark", "--quantization quark is not supported yet", ST_UNSUPPORTED },
        { "--enable-lora", "--enable-lora is not supported yet", ST_UNSUPPORTED },
        { "--speculative-config {\"method\":\"ngram\"}", "--speculative-config is not supported yet", ST_UNSUPPORTED },
        { "--speculative-config.method ngram", "--speculative-config is not supported yet", ST_UNSUPPORTED },
        { "--reasoning-parser qwen3", "not supported yet", ST_UNSUPPORTED },
        { "--enable-auto-tool-choice", "not supported yet", ST_UNSUPPORTED },
        { "--lora-modules a=b", "--lora-modules a=b is not supported yet", ST_UNSUPPORTED },
        { "--hf-overrides {", "--hf-overrides: value is not JSON", ST_INVALID },
        { "--hf-overrides 5", "expected a JSON object", ST_INVALID },
        { "--port.x 5", "takes no dotted keys", ST_INVALID },
        { "--no-port", "unrecognized", ST_INVALID },
        { "a b", "unrecognized arguments: b (one model_tag is expected)", ST_INVALID },
        { "-x", "unrecognized arguments: -x", ST_INVALID },
        { "--watermark nan", "not a number", ST_INVALID },
        { "--config", "--config: expected one argument", ST_INVALID },
        { "--config /nonexistent.yaml", "cannot open", ST_NOT_FOUND },
        { "--config /etc/passwd", "yaml", ST_INVALID },
        { "--enforce-eager=maybe", "expected true or false", ST_INVALID },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        flags *f = NULL;
        CHECK_ERR(parse(cases[i].line, &f), cases[i].st, cases[i].message);
        if (f) flags_free(f);
    }
}

TEST(defaults_of_what_is_missing_are_fine)
{
    flags *f = NULL;
    REQUIRE_OK(parse("--tensor-parallel-size 1 --pipeline_parallel_size=1 --no-enable-lora --cpu-offload-gb 0.0 --worker-cls auto --speculative-config null --all2all-backend pplx", &f));
    flags_free(f);
}

TEST(integers)
{
    static const struct { const char *text; int64_t want; } good[] = {
        { "4096", 4096 }, { "25.6k", 25600 }, { "1m", 1000000 }, { "2g", 2000000000 }, { "1t", 1000000000000 }, { "1K", 1024 }, { "4M", 4 << 20 }, { "1G", 1 << 30 }, { "1T", 1LL << 40 }, { "-1", -1 },
    };
    static const char *const bad[] = { "", "k", "1.5", "1.5K", "1kk", "0x10", "1e400", "99999999999999999999", "9999999T", "inf", "nan" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int64_t v = 0;
        CHECK_OK(flags_parse_int(good[i].text, &v));
        CHECK_INT(v, good[i].want);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int64_t v;
        if (flags_parse_int(bad[i], &v) == ST_OK) FAIL("'%s' is %lld", bad[i], (long long)v);
    }
}

TEST(config_files)
{
    static const char text[] = "---\n# a comment\nmodel: org/m  # another\nport: 9000\nserved-model-name:\n  - a\n  - 'b c'\nenable-prefix-caching: false\n"
                               "hf-overrides: {\"x\": 1}\nstop: ~\nhost: \"::1\"\nlist: [1, 'a, b']\nurl: http://x:1/#frag\n\"quoted\": it's\n";
    config_file c = {0};
    REQUIRE_OK(config_file_parse(text, sizeof text - 1, &c));
    CHECK_INT(c.n, 10);
    CHECK_STR(c.entries[0].values[0], "org/m");
    CHECK_INT(c.entries[2].n_values, 2);
    CHECK_STR(c.entries[2].values[1], "b c");
    CHECK_STR(c.entries[4].values[0], "{\"x\": 1}");
    CHECK_INT(c.entries[5].n_values, 0);
    CHECK_STR(c.entries[6].values[0], "::1");
    CHECK_STR(c.entries[7].values[1], "a, b");
    CHECK_STR(c.entries[8].values[0], "http://x:1/#frag");
    CHECK_STR(c.entries[9].key, "quoted");
    CHECK_STR(c.entries[9].values[0], "it's");
    CHECK_INT(c.entries[9].line, 14);
    config_file_free(&c);
    static const struct { const char *text, *message; } bad[] = {
        { "a: 1\na: 2\n", "line 2: 'a' was given on line 1" }, { "a:\n  b: 1\n", "line 2: nested" }, { "just text\n", "expected 'flag: value'" }, { "- a\n", "without a key" },
        { "a: &x 1\n", "anchors" }, { "a: |\n", "anchors" }, { "a: [1\n", "must end on its line" }, { "a: 'x\n", "must end with its quote" }, { "\ta: 1\n", "tabs" }, { "a: [1,,2]\n", "empty element" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK_ERR(config_file_parse(bad[i].text, strlen(bad[i].text), &c), ST_INVALID, bad[i].message);
}

TEST(the_command_line_wins_over_the_file)
{
    flags *f = NULL;
    char path[] = "/tmp/systolic-test-XXXXXX.yaml", line[200];
    int fd = mkstemps(path, 5);
    REQUIRE(fd >= 0);
    FILE *file = fdopen(fd, "w");
    fputs("model: org/m\nport: 9000\nseed: 7\nenforce-eager: true\nserved_model_name: [x, y]\n", file);
    fclose(file);
    snprintf(line, sizeof line, "--port 9001 --config %s", path);
    REQUIRE_OK(parse(line, &f));
    CHECK_STR(flags_str(f, "model"), "org/m");
    CHECK_INT(flags_i64(f, "port", 0), 9001);
    CHECK_INT(flags_i64(f, "seed", 0), 7);
    CHECK(flags_bool(f, "enforce-eager", false));
    CHECK_STR(flags_list(f, "served-model-name", NULL)[1], "y");
    flags_free(f);
    file = fopen(path, "w");
    fputs("port: 9000\n\nbogus: 1\n", file);
    fclose(file);
    CHECK_ERR(parse(line, &f), ST_INVALID, "line 3: unrecognized arguments: --bogus");
    remove(path);
}

TEST(help)
{
    static const struct { const char *what, *has, *has_not; } cases[] = {
        { "", "--max-model-len", NULL }, { "listgroup", "SchedulerConfig", "--" }, { "cacheconfig", "--block-size", "--port" },
        { "max-model-len", "--max-model-len", "--port" }, { "max_model_len", "--max-model-len", "--port" }, { "ssl", "--ssl-keyfile", "--model" }, { "markdown", "| `--port`", NULL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        buf b = {0};
        CHECK_OK(flags_write_help(&serve_flags, cases[i].what, &b));
        if (!strstr(buf_cstr(&b), cases[i].has)) FAIL("--help=%s lacks %s", cases[i].what, cases[i].has);
        if (cases[i].has_not && strstr(buf_cstr(&b), cases[i].has_not)) FAIL("--help=%s has %s", cases[i].what, cases[i].has_not);
        buf_free(&b);
    }
    buf b = {0};
    CHECK_ERR(flags_write_help(&serve_flags, "zzzz", &b), ST_NOT_FOUND, "zzzz");
    buf_free(&b);
}

TEST(the_table_is_consistent)
{
    for (int i = 0; i < serve_flags.n_defs; i++) {
        const flag_def *d = &serve_flags.defs[i];
        for (int k = 0; k < i; k++)
            if (strcmp(d->name, serve_flags.defs[k].name) == 0) FAIL("--%s is there twice", d->name);
        if (!d->help || !*d->help) FAIL("--%s has no help", d->name);
        int64_t v;
        if (d->kind == FLAG_INT && d->def && flags_parse_int(d->def, &v) != ST_OK) FAIL("--%s: default %s", d->name, d->def);
    }
}

TEST(out_of_memory_is_a_status)
{
    static const char line[] = "org/model --hf-overrides.a.b 1 --hf-overrides.l+ 1,2 --served-model-name a b --port 5 --allowed-origins [\"x\"] --override-generation-config {\"temperature\":1}";
    static const char yaml[] = "a: 1\nb:\n - x\n - \"y\"\nc: [1, 2]\nd: {}\n";
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        flags *f = NULL;
        mem_fail_at(n);
        status st = parse(line, &f);
        int hit = mem_failed();
        mem_fail_at(0);
        if (st == ST_OK) flags_free(f);
        CHECK_INT(mem_live(), live);
        if (!hit) break;
        CHECK(st != ST_OK);
    }
    for (uint64_t n = 1;; n++) {
        config_file c = {0};
        mem_fail_at(n);
        status st = config_file_parse(yaml, sizeof yaml - 1, &c);
        int hit = mem_failed();
        mem_fail_at(0);
        if (st == ST_OK) config_file_free(&c);
        CHECK_INT(mem_live(), live);
        if (!hit) break;
        CHECK_INT(st, ST_NOMEM);
    }
}

TEST_MAIN
