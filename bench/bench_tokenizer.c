/* Times one tokenizer on one text, and checks one against a golden file.
 *   bench_tokenizer time DIR TEXT [REPEAT]   seconds to load, then MB/s of each repeat, one thread
 *   bench_tokenizer ids DIR TEXT             the ids, one per line (for comparing with another implementation)
 *   bench_tokenizer serve DIR                reads JSON lines {"text": ..} or {"ids": [..]} and answers in kind */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "text/tokenizer.h"

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, err_msg());
    return 1;
}

static status read_text(const char *path, buf *out)
{
    FILE *f = fopen(path, "rb");
    if (!f) return err_errno("cannot open %s", path);
    char chunk[65536];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;) buf_append(out, chunk, n);
    fclose(f);
    return buf_status(out);
}

/* Answers on stdout: {"ids", "ids_special"} for a text, {"decode", "decode_skip", "stream"} for ids, {"error"} otherwise. */
static status answer(const tokenizer *t, const jv *q, jw *w)
{
    const jv *text = jv_get(q, "text"), *list = jv_get(q, "ids");
    i32vec ids = {0};
    buf b = {0};
    detok *d = NULL;
    status st = ST_OK;
    jw_obj(w);
    for (int special = 0; text && special < 2; special++) {
        ids.len = 0;
        TRY_OUT(tokenizer_encode(t, jv_str(text, ""), jv_len(text), special, &ids));
        jw_key(w, special ? "ids_special" : "ids");
        jw_arr(w);
        for (size_t i = 0; i < ids.len; i++) jw_i64(w, ids.data[i]);
        jw_end_arr(w);
    }
    for (size_t i = 0; i < jv_len(list); i++) i32vec_push(&ids, (int32_t)jv_i64(jv_at(list, i), -1));
    for (int skip = 0; list && skip < 2; skip++) {
        buf_clear(&b);
        TRY_OUT(tokenizer_decode(t, ids.data, ids.len, skip, &b));
        jw_key(w, skip ? "decode_skip" : "decode");
        jw_strn(w, buf_cstr(&b), b.len);
    }
    if (list) {
        buf_clear(&b);
        TRY_OUT(detok_new(t, NULL, 0, false, true, &d));
        for (size_t i = 0; i < ids.len; i++) TRY_OUT(detok_push(d, ids.data[i], &b));
        TRY_OUT(detok_flush(d, &b));
        jw_key(w, "stream");
        jw_strn(w, buf_cstr(&b), b.len);
    }
    jw_end_obj(w);
out:
    detok_free(d);
    i32vec_free(&ids);
    buf_free(&b);
    return st;
}

static int serve(const tokenizer *t)
{
    char *line = NULL;
    size_t cap = 0;
    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 0;) {
        jv *q = NULL;
        buf out = {0};
        jw w = jw_to(&out);
        status st = jv_parse(line, (size_t)n, &q);
        if (st == ST_OK) st = answer(t, q, &w);
        if (st != ST_OK) {
            buf_clear(&out);
            w = jw_to(&out);
            jw_obj(&w);
            jw_key(&w, "error");
            jw_str(&w, err_msg());
            jw_end_obj(&w);
        }
        puts(buf_cstr(&out));
        fflush(stdout);
        buf_free(&out);
        jv_free(q);
    }
    free(line);
    return 0;
}

static int time_it(const tokenizer *t, double load, const buf *text, int repeat)
{
    printf("load %.4f\n", load);
    for (int i = 0; i < repeat; i++) {
        i32vec ids = {0};
        double from = clock_now();
        if (tokenizer_encode(t, buf_cstr(text), text->len, false, &ids) != ST_OK) return fail("encode");
        double s = clock_now() - from;
        buf back = {0};
        from = clock_now();
        if (tokenizer_decode(t, ids.data, ids.len, false, &back) != ST_OK) return fail("decode");
        printf("encode %.4f s %.2f MB/s, %zu ids; decode %.4f s\n", s, (double)text->len / 1e6 / s, ids.len, clock_now() - from);
        fflush(stdout);
        buf_free(&back);
        i32vec_free(&ids);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s time DIR TEXT [REPEAT] | ids DIR TEXT | serve DIR\n", argv[0]);
        return 2;
    }
    tokenizer *t;
    double from = clock_now();
    if (tokenizer_load_dir(argv[2], &t) != ST_OK) return fail(argv[2]);
    double load = clock_now() - from;
    buf text = {0};
    int rc = 0;
    if (argc > 3 && read_text(argv[3], &text) != ST_OK) rc = fail(argv[3]);
    else if (strcmp(argv[1], "serve") == 0) rc = serve(t);
    else if (strcmp(argv[1], "time") == 0) rc = time_it(t, load, &text, argc > 4 ? atoi(argv[4]) : 3);
    else {
        i32vec ids = {0};
        if (tokenizer_encode(t, buf_cstr(&text), text.len, false, &ids) != ST_OK) rc = fail("encode");
        for (size_t i = 0; i < ids.len; i++) printf("%d\n", ids.data[i]);
        i32vec_free(&ids);
    }
    buf_free(&text);
    tokenizer_free(t);
    return rc;
}
