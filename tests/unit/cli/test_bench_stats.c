/* Benchmark figures: numpy's percentiles, vLLM's labels and keys, failed requests left out. */
#include "tests/test.h"

#include "base/json.h"
#include "base/mem.h"
#include "cli/bench_stats.h"

TEST(percentiles_are_numpys)
{
    double x[] = { 4, 1, 3, 2 };
    CHECK_NEAR(bench_percentile(x, 4, 50), 2.5, 1e-12);
    CHECK_NEAR(bench_percentile(x, 4, 99), 3.97, 1e-12);
    CHECK_NEAR(bench_percentile(x, 4, 100), 4, 0);
    CHECK_NEAR(bench_percentile(x, 0, 50), 0, 0);
    CHECK_NEAR(bench_std(x, 4), 1.118033988749895, 1e-12);
}

TEST(report_has_vllms_lines_and_keys)
{
    double gaps[] = { 0.02, 0.04 };
    char failed[] = "refused";
    bench_request r[] = {
        { .prompt_len = 10, .output_len = 3, .sent_s = 1, .first_s = 1.1, .last_s = 1.16, .itl = gaps, .n_itl = 2 },
        { .prompt_len = 7, .error = failed },
        { .prompt_len = 20, .output_len = 1, .sent_s = 1, .first_s = 1.3, .last_s = 1.3 },
    };
    const char *metrics[] = { "ttft", "tpot", "itl", "e2el" };
    double ps[] = { 99, 99.9 };
    bench_report_options o = { .metrics = metrics, .n_metrics = 4, .percentiles = ps, .n_percentiles = 2, .request_rate = INFINITY, .max_concurrency = 2,
                               .goodput = { .ttft_ms = 200 } };
    buf text = {0}, json = {0};
    jw w = jw_to(&json);
    jw_obj(&w);
    REQUIRE_OK(bench_report(r, 3, 2.0, &o, &text, &w));
    jw_end_obj(&w);
    static const char *const lines[] = {
        "============ Serving Benchmark Result ============\n", "Successful requests:                     2         \n", "Failed requests:                         1         \n",
        "Total input tokens:                      30        \n", "Total generated tokens:                  4         \n",
        "Request throughput (req/s):              1.00      \n", "Request goodput (req/s):                 0.50      \n",
        "Mean TTFT (ms):                          200.00    \n", "Median TPOT (ms):                        30.00     \n", "P99 ITL (ms):                            39.80     \n", "P99.9 E2EL (ms):",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(buf_cstr(&text), lines[i])) FAIL("missing: %s in\n%s", lines[i], buf_cstr(&text));
    jv *v = NULL;
    REQUIRE_OK(jv_parse(buf_cstr(&json), json.len, &v));
    CHECK_INT(jv_get_i64(v, "completed", 0), 2);
    CHECK_INT(jv_get_i64(v, "failed", 0), 1);
    CHECK_NEAR(jv_get_f64(v, "mean_tpot_ms", 0), 30, 1e-6);
    CHECK_NEAR(jv_get_f64(v, "p99_itl_ms", 0), 39.8, 1e-6);
    jv_free(v);
    buf_free(&text);
    buf_free(&json);
}

TEST_MAIN
