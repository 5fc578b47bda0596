/* A whole server, its client and benchmark prompts when memory runs out: one allocation after the other fails, anywhere in the process.
 * What fails says so, and nothing leaks. */
#include "tests/test.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/bench_data.h"
#include "cli/bench_stats.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/serve.h"

#ifdef SYSTOLIC_SANITIZED
enum { STRIDE = 7 }; /* starting a server is slow here: every seventh allocation; the run without sanitizers fails each */
#else
enum { STRIDE = 1 };
#endif

static flags *f;
static char socket_path[64], base_url[128];

static status parse_flags(void)
{
    char *argv[] = { "models/systolic-tiny", "--max-model-len", "64", "--num-gpu-blocks-override", "20", "--threads", "1", "--load-format", "dummy" };
    int pid = (int)getpid();
    snprintf(socket_path, sizeof socket_path, "/tmp/systolic-memory-%d.sock", pid);
    snprintf(base_url, sizeof base_url, "http+unix://%%2Ftmp%%2Fsystolic-memory-%d.sock", pid);
    log_set_level(LOG_ERROR + 1);
    return flags_parse(&serve_flags, (int)(sizeof argv / sizeof *argv), argv, &f);
}

static void free_flags(void)
{
    flags_free(f);
    log_set_level(LOG_INFO);
}

/* One more start and stop first: libraries keep what they made for their first use. */
static void warm_up(void)
{
    serving *s = NULL;
    REQUIRE_OK(serving_open(f, socket_path, &s));
    serving_close(s, 0);
}

TEST(out_of_memory_while_starting)
{
    REQUIRE_OK(parse_flags());
    warm_up();
    int64_t live = mem_live();
    uint64_t n = 1;
    int n_ok = 0;
    for (;; n += STRIDE) {
        serving *s = NULL;
        err_clear();
        mem_fail_at(n);
        status st = serving_open(f, socket_path, &s);
        int hit = mem_failed();
        mem_fail_at(0);
        if (st == ST_OK) serving_close(s, 0);
        if (mem_live() != live) FAIL("allocation %llu: %lld blocks leak", (unsigned long long)n, (long long)(mem_live() - live));
        if (!hit) break;
        if (st == ST_OK) n_ok++;
        else if (!*err_msg()) FAIL("allocation %llu: %s without a message", (unsigned long long)n, status_name(st));
        if (st != ST_OK && st != ST_NOMEM) printf("  allocation %llu: %s: %s\n", (unsigned long long)n, status_name(st), err_msg());
    }
    printf("  %llu allocations failed, %d of them without harm\n", (unsigned long long)n - 1, n_ok);
    CHECK(n > 300);
    free_flags();
}

static bool on_event(void *arg, const char *json, size_t n, double at)
{
    (void)json, (void)n, (void)at;
    ++*(int *)arg;
    return true;
}

static status talk(void)
{
    client_options o = { .base_url = base_url, .api_key = "k", .timeout_s = 20 };
    client *c = NULL;
    jv *v = NULL;
    char *model = NULL;
    int n_events = 0;
    TRY(client_open(&o, &c));
    status st = client_first_model(c, &model);
    if (st == ST_OK) st = client_json(c, "/v1/completions", "{\"prompt\": \"The\", \"max_tokens\": 2}", &v);
    if (st == ST_OK) st = client_stream(c, "/v1/completions", "{\"prompt\": \"The\", \"max_tokens\": 2, \"stream\": true}", on_event, &n_events);
    jv_free(v);
    mem_free(model);
    client_close(c);
    return st;
}

/* Both ends share the heap, so a failure may hit either: the client gets an answer or says what went wrong, and the server lives on. */
TEST(out_of_memory_while_talking)
{
    REQUIRE_OK(parse_flags());
    serving *s = NULL;
    int64_t live = mem_live();
    REQUIRE_OK(serving_open(f, socket_path, &s));
    CHECK_OK(talk());
    for (uint64_t n = 1;; n += STRIDE) {
        err_clear();
        mem_fail_at(n);
        status st = talk();
        int hit = mem_failed();
        mem_fail_at(0);
        if (st != ST_OK && !*err_msg()) FAIL("allocation %llu: %s without a message", (unsigned long long)n, status_name(st));
        if (!hit) {
            CHECK_INT(st, ST_OK);
            CHECK(n > 100);
            break;
        }
    }
    CHECK_OK(talk());
    serving_close(s, 0);
    if (mem_live() != live) FAIL("%lld blocks leak", (long long)(mem_live() - live));
    free_flags();
}

static void check_prompts(const bench_data_options *o, const tokenizer *tok)
{
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        bench_prompt *p = NULL;
        size_t n_prompts = 0;
        err_clear();
        mem_fail_at(n);
        status st = bench_data_make(o, tok, &p, &n_prompts);
        int hit = mem_failed();
        mem_fail_at(0);
        if (st == ST_OK) bench_data_free(p, n_prompts);
        if (mem_live() != live) FAIL("%s, allocation %llu: %lld blocks leak", o->dataset, (unsigned long long)n, (long long)(mem_live() - live));
        if (st != (hit ? ST_NOMEM : ST_OK)) FAIL("%s, allocation %llu: %s (%s)", o->dataset, (unsigned long long)n, status_name(st), err_msg());
        if (!hit) break;
    }
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    REQUIRE(file);
    fputs(text, file);
    fclose(file);
}

TEST(out_of_memory_while_making_prompts)
{
    tokenizer *tok = NULL;
    char path[64];
    REQUIRE_OK(tokenizer_load_dir("models/systolic-tiny", &tok));
    log_set_level(LOG_ERROR + 1);
    snprintf(path, sizeof path, "/tmp/systolic-memory-%d.json", (int)getpid());
    check_prompts(&(bench_data_options){ .dataset = "random", .n_prompts = 3, .input_len = 20, .output_len = 4, .prefix_len = 30, .vocab_size = 100 }, NULL);
    check_prompts(&(bench_data_options){ .dataset = "random", .n_prompts = 3, .input_len = 20, .output_len = 4, .prefix_len = 30 }, tok);
    check_prompts(&(bench_data_options){ .dataset = "prefix_repetition", .n_prompts = 3, .repeat_prefix_len = 20, .repeat_suffix_len = 10, .repeat_prefixes = 2 }, tok);
    write_file(path, "{\"prompt\": \"Once upon a time\", \"output_tokens\": 3}\n\n{\"prompt\": \"there was\"}\n");
    check_prompts(&(bench_data_options){ .dataset = "custom", .path = path, .n_prompts = 2 }, tok);
    write_file(path, "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n1,m,20,5,25,x\n2,m,0,0,0,x\n3,m,9,5,14,x\n");
    check_prompts(&(bench_data_options){ .dataset = "burstgpt", .path = path, .n_prompts = 2 }, tok);
    write_file(path, "[{\"conversations\": [{\"value\": \"How is the weather where you live?\"}, {\"value\": \"It has been raining since this morning.\"}]}]");
    check_prompts(&(bench_data_options){ .dataset = "sharegpt", .path = path, .n_prompts = 2 }, tok);
    unlink(path);
    tokenizer_free(tok);
    log_set_level(LOG_INFO);
}

TEST(out_of_memory_while_reporting)
{
    double gaps[] = { 0.02, 0.04 }, ps[] = { 99 };
    const char *metrics[] = { "ttft", "tpot", "itl", "e2el" };
    bench_request r = { .prompt_len = 10, .output_len = 3, .sent_s = 1, .first_s = 1.1, .last_s = 1.16, .itl = gaps, .n_itl = 2 };
    bench_report_options o = { .metrics = metrics, .n_metrics = 4, .percentiles = ps, .n_percentiles = 1, .request_rate = INFINITY };
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        buf text = {0}, json = {0};
        jw w = jw_to(&json);
        mem_fail_at(n);
        jw_obj(&w);
        status st = bench_report(&r, 1, 2.0, &o, &text, &w);
        jw_end_obj(&w);
        int hit = mem_failed();
        mem_fail_at(0);
        if (st == ST_OK) st = buf_status(&text);
        if (st == ST_OK) st = buf_status(&json);
        CHECK_INT(st, hit ? ST_NOMEM : ST_OK);
        buf_free(&text);
        buf_free(&json);
        CHECK_INT(mem_live(), live);
        if (!hit) break;
    }
}

/* Runs a command as the program would, its messages dropped. */
static int quiet(int (*command)(int, char **), char **argv)
{
    int argc = 0, null = open("/dev/null", O_WRONLY), out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
    while (argv[argc]) argc++;
    fflush(stdout);
    dup2(null, STDOUT_FILENO), dup2(null, STDERR_FILENO);
    int rc = command(argc, argv);
    fflush(stdout);
    dup2(out, STDOUT_FILENO), dup2(err, STDERR_FILENO);
    close(null), close(out), close(err);
    return rc;
}

static void check_command(int (*command)(int, char **), char **argv)
{
    log_set_level(LOG_ERROR + 1);
    CHECK_INT(quiet(command, argv), 0);
    int64_t live = mem_live();
    int n_ok = 0;
    uint64_t n = 1;
    for (;; n += STRIDE) {
        mem_fail_at(n);
        int rc = quiet(command, argv), hit = mem_failed();
        mem_fail_at(0);
        if (mem_live() != live) FAIL("%s, allocation %llu: %lld blocks leak", argv[0], (unsigned long long)n, (long long)(mem_live() - live));
        if (rc < 0 || rc > 2) FAIL("%s, allocation %llu: exit status %d", argv[0], (unsigned long long)n, rc);
        n_ok += hit && rc == 0;
        if (hit) continue;
        CHECK_INT(rc, 0);
        break;
    }
    printf("  %s: %llu allocations failed, %d of them without harm\n", argv[0], (unsigned long long)n - 1, n_ok);
    log_set_level(LOG_INFO);
}

#define TINY "--model", "models/systolic-tiny", "--max-model-len", "64", "--num-gpu-blocks-override", "20", "--threads", "1", "--load-format", "dummy"

TEST(out_of_memory_in_commands)
{
    char in[64], out[64];
    snprintf(in, sizeof in, "/tmp/systolic-memory-%d.in", (int)getpid());
    snprintf(out, sizeof out, "/tmp/systolic-memory-%d.out", (int)getpid());
    write_file(in, "{\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], \"max_tokens\": 2}}\n{\n");
    check_command(run_batch_main, (char *[]){ "-i", in, "-o", out, TINY, NULL });
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    check_command(bench_main, (char *[]){ "throughput", "--num-prompts", "2", "--input-len", "9", "--output-len", "3", TINY, NULL });
    check_command(bench_main, (char *[]){ "latency", "--batch-size", "2", "--num-iters-warmup", "1", "--num-iters", "1", "--input-len", "9", "--output-len", "3", TINY, NULL });
    unlink(in);
    unlink(out);
}

TEST_MAIN
