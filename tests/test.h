/* A small test harness: TEST(name) { CHECK(...); } and TEST_MAIN at the end.
 * Prints one line per failure and ends with "N passed, N failed[, N skipped]". */
#ifndef SYSTOLIC_TESTS_TEST_H
#define SYSTOLIC_TESTS_TEST_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

typedef struct test_case { const char *name; void (*fn)(void); struct test_case *next; } test_case;
static test_case *test_list;
static int test_n_failed, test_n_passed, test_n_skipped, test_cur_failed, test_cur_skipped;

#define TEST(id)                                                                   \
    static void test_##id(void);                                                   \
    __attribute__((constructor)) static void test_reg_##id(void)                   \
    {                                                                              \
        static test_case t = { #id, test_##id, NULL };                             \
        test_case **p = &test_list;                                                \
        while (*p) p = &(*p)->next;                                                \
        *p = &t;                                                                   \
    }                                                                              \
    static void test_##id(void)

#define FAIL(...) do { test_cur_failed = 1; printf("  %s:%d: ", __FILE__, __LINE__); printf(__VA_ARGS__); printf("\n"); } while (0)
/* CHECK goes on after a failure; REQUIRE leaves the test. */
#define CHECK(cond) do { if (!(cond)) FAIL("%s is false", #cond); } while (0)
#define REQUIRE(cond) do { if (!(cond)) { FAIL("%s is false", #cond); return; } } while (0)
#define CHECK_OK(expr) do { status st_ = (expr); if (st_ != ST_OK) FAIL("%s: %s (%s)", #expr, status_name(st_), err_msg()); } while (0)
#define REQUIRE_OK(expr) do { status st_ = (expr); if (st_ != ST_OK) { FAIL("%s: %s (%s)", #expr, status_name(st_), err_msg()); return; } } while (0)
/* `open_call` with its first, second, ... allocation failing until none does: always ST_NOMEM or success, never a leak. `close_call`
 * undoes a success. Needs base/mem.h and tests/test.h. */
#define CHECK_EVERY_ALLOCATION(open_call, close_call)                                                                             \
    do {                                                                                                                          \
        const int64_t live_ = mem_live();                                                                                         \
        for (uint64_t n_ = 1;; n_++) {                                                                                            \
            mem_fail_at(n_);                                                                                                      \
            const status got_ = (open_call);                                                                                      \
            const int hit_ = mem_failed();                                                                                        \
            mem_fail_at(0);                                                                                                       \
            if (got_ == ST_OK) close_call;                                                                                        \
            CHECK_INT(mem_live(), live_);                                                                                         \
            if (!hit_) {                                                                                                          \
                CHECK_OK(got_);                                                                                                   \
                break;                                                                                                            \
            }                                                                                                                     \
            if (got_ != ST_NOMEM) FAIL("allocation %llu: %s (%s)", (unsigned long long)n_, status_name(got_), err_msg());         \
        }                                                                                                                         \
    } while (0)
/* The call must fail with this code, and its message must contain `text`. */
#define CHECK_ERR(expr, code, text) do { err_clear(); status st_ = (expr); if (st_ != (code) || !strstr(err_msg(), text)) FAIL("%s: got %s (%s), wanted %s (..%s..)", #expr, status_name(st_), err_msg(), status_name(code), text); } while (0)
#define CHECK_INT(got, want) do { long long g_ = (long long)(got), w_ = (long long)(want); if (g_ != w_) FAIL("%s = %lld, wanted %lld", #got, g_, w_); } while (0)
#define CHECK_STR(got, want) do { const char *g_ = (got), *w_ = (want); if (!g_ || strcmp(g_, w_) != 0) FAIL("%s = \"%s\", wanted \"%s\"", #got, g_ ? g_ : "(null)", w_); } while (0)
#define CHECK_NEAR(got, want, tol) do { double g_ = (double)(got), w_ = (double)(want); if (!(fabs(g_ - w_) <= (tol))) FAIL("%s = %.9g, wanted %.9g within %g", #got, g_, w_, (double)(tol)); } while (0)
#define SKIP(...) do { test_cur_skipped = 1; printf("  skipped: "); printf(__VA_ARGS__); printf("\n"); return; } while (0)

/* Test data: ../shared (or $SYSTOLIC_SHARED), which may not be there, else the part of it that is in tests/. NULL when absent: tests then SKIP. */
static inline const char *test_shared(const char *rel)
{
    static char path[4096];
    const char *root = getenv("SYSTOLIC_SHARED");
    const char *const roots[] = { root ? root : "../shared", "tests" };
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", roots[i], rel);
        FILE *f = fopen(path, "r");
        if (!f) continue;
        fclose(f);
        return path;
    }
    return NULL;
}

static int test_main(int argc, char **argv)
{
    for (test_case *t = test_list; t; t = t->next) {
        if (argc > 1 && !strstr(t->name, argv[1])) continue;
        test_cur_failed = test_cur_skipped = 0;
        t->fn();
        if (test_cur_failed) {
            test_n_failed++;
            printf("FAIL %s\n", t->name);
        } else if (test_cur_skipped) {
            test_n_skipped++;
        } else {
            test_n_passed++;
        }
        fflush(stdout);
    }
    printf("%s: %d passed, %d failed", strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0], test_n_passed, test_n_failed);
    if (test_n_skipped) printf(", %d skipped", test_n_skipped);
    printf("\n");
    return test_n_failed != 0;
}

#define TEST_MAIN int main(int argc, char **argv) { return test_main(argc, argv); }

#endif
