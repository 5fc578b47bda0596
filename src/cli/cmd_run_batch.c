/* `systolic run-batch`: answers a file of OpenAI batch requests. The requests go through the very API that `serve` offers, on
 * a private Unix socket, so that every check, default and error is the server's. Answers keep the order of the input. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fetch.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "cli/serve.h"

#define G "Batch"
static const flag_def own[] = {
    { "input-file", "-i", G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "File or http(s) URL of requests, one JSON object per line." },
    { "output-file", "-o", G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "File for the answers, or - for standard output." },
    { "output-tmp-dir", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Where the answers are written before they are moved to their place." },
    { "max-inflight", NULL, G, FLAG_INT, FLAG_YES, "256", NULL, NULL, "Most requests at once." },
    { "response-role", NULL, G, FLAG_STR, FLAG_YES, "assistant", NULL, NULL, "Role of answers." },
    { "enable-metrics", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Serve /metrics meanwhile." },
    { "max-num-queued-reqs", NULL, G, FLAG_INT, FLAG_NOT_YET, NULL, NULL, NULL, "A batch is never turned away." },
    { "max-num-queued-tokens", NULL, G, FLAG_INT, FLAG_NOT_YET, NULL, NULL, NULL, "A batch is never turned away." },
    { "api-key", NULL, G, FLAG_LIST, FLAG_NOT_YET, NULL, NULL, NULL, "There is no server to guard." },
};
#undef G

typedef struct batch_run {
    const flags *f;
    char *text;                   /* the whole input */
    char **lines; size_t n;       /* in `text` */
    char **answers;               /* [n] */
    char socket_path[128];
    pthread_mutex_t mu;
    size_t next, n_done, n_errors;
    bool nomem;
} batch_run;

/* ---- input ---- */

static status read_input(const char *from, buf *out)
{
    if (strncmp(from, "http://", 7) == 0 || strncmp(from, "https://", 8) == 0) {
        fetch *h = NULL;
        fetch_response r = {0};
        fetch_options o = { .max_redirects = -1, .max_bytes = (size_t)1 << 30 };
        TRY(fetch_open(&h));
        status st = fetch_run(h, from, &o, &r);
        if (st == ST_OK && r.code != 200) st = err_set(ST_IO, "%s: HTTP %d", from, r.code);
        if (st == ST_OK) buf_append(out, buf_cstr(&r.body), r.body.len);
        fetch_response_free(&r);
        fetch_close(h);
        return st == ST_OK ? buf_status(out) : st;
    }
    FILE *f = strcmp(from, "-") == 0 ? stdin : fopen(from, "r");
    if (!f) return err_errno("cannot open %s", from);
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0) buf_append(out, chunk, n);
    status st = ferror(f) ? err_errno("cannot read %s", from) : buf_status(out);
    if (f != stdin) fclose(f);
    return st;
}

static status split_lines(batch_run *b)
{
    size_t cap = 1;
    for (const char *p = b->text; *p; p++) cap += *p == '\n';
    b->lines = mem_calloc(cap, sizeof *b->lines);
    b->answers = mem_calloc(cap, sizeof *b->answers);
    if (!b->lines || !b->answers) return err_nomem();
    char *at = b->text;
    for (char *line; (line = strsep(&at, "\n"));)
        if (line[strspn(line, " \t\r")]) b->lines[b->n++] = line;
    return b->n ? ST_OK : err_set(ST_INVALID, "the input file holds no request");
}

/* ---- one request ---- */

static void write_answer(const char *custom_id, int code, const char *body, size_t n, const char *error, buf *out)
{
    char id[33];
    jw w = jw_to(out);
    jw_obj(&w);
    random_hex(id, 32);
    jw_key(&w, "id");
    buf text = {0};
    buf_printf(&text, "vllm-%s", id);
    jw_str(&w, buf_cstr(&text));
    jw_key(&w, "custom_id"), jw_str(&w, custom_id);
    jw_key(&w, "response");
    if (body) {
        random_hex(id, 32);
        buf_clear(&text);
        buf_printf(&text, "vllm-batch-%s", id);
        jw_obj(&w);
        jw_key(&w, "status_code"), jw_i64(&w, code);
        jw_key(&w, "request_id"), jw_str(&w, buf_cstr(&text));
        jw_key(&w, "body");
        buf_append(out, body, n); /* the API's own JSON */
        w.after_key = false;
        jw_end_obj(&w);
    } else {
        jw_null(&w);
    }
    jw_key(&w, "error");
    if (error) jw_str(&w, error);
    else jw_null(&w);
    jw_end_obj(&w);
    buf_free(&text);
}

static status post(const batch_run *b, fetch *h, const jv *line, buf *out)
{
    const char *id = jv_get_str(line, "custom_id", NULL), *method = jv_get_str(line, "method", NULL), *url = jv_get_str(line, "url", NULL);
    if (!id) return err_set(ST_INVALID, "\"custom_id\" must be a string");
    if (!method || strcmp(method, "POST") != 0) return err_set(ST_INVALID, "\"method\" must be \"POST\"");
    if (!url || url[0] != '/') return err_set(ST_INVALID, "\"url\" must be a path such as /v1/chat/completions");
    if (!jv_is(jv_get(line, "body"), JV_OBJ)) return err_set(ST_INVALID, "\"body\" must be an object");
    if (strcmp(url, "/v1/chat/completions") != 0) {
        buf why = {0};
        buf_printf(&why, "URL %s was used. Supported endpoints: /v1/chat/completions", url);
        write_answer(id, 400, NULL, 0, buf_cstr(&why), out);
        buf_free(&why);
        return ST_OK;
    }
    if (jv_get_bool(jv_get(line, "body"), "stream", false)) {
        write_answer(id, 400, NULL, 0, "Streaming is not supported in batches", out);
        return ST_OK;
    }
    buf body = {0}, full = {0};
    jw w = jw_to(&body);
    jw_value(&w, jv_get(line, "body"));
    buf_printf(&full, "http://localhost%s", url);
    static const char *const headers[] = { "Content-Type: application/json", NULL };
    fetch_options o = { .headers = headers, .body = buf_cstr(&body), .body_len = body.len, .unix_socket = b->socket_path, .stall_timeout_s = -1 };
    fetch_response r = {0};
    status st = body.failed || full.failed ? err_nomem() : fetch_run(h, full.data, &o, &r);
    if (st == ST_OK) write_answer(id, r.code, buf_cstr(&r.body), r.body.len, r.code == 200 ? NULL : buf_cstr(&r.body), out);
    fetch_response_free(&r);
    buf_free(&body);
    buf_free(&full);
    return st;
}

static void answer_line(batch_run *b, fetch *h, size_t i)
{
    jv *line = NULL;
    buf out = {0};
    status st = jv_parse(b->lines[i], strlen(b->lines[i]), &line);
    if (st == ST_OK) st = post(b, h, line, &out);
    bool bad = st != ST_OK;
    if (bad) {
        buf_clear(&out);
        buf why = {0};
        buf_printf(&why, "line %zu: %s", i + 1, err_msg());
        write_answer(jv_get_str(line, "custom_id", NULL), 400, NULL, 0, buf_cstr(&why), &out);
        buf_free(&why);
    }
    b->answers[i] = buf_take(&out);
    buf_free(&out);
    jv_free(line);
    pthread_mutex_lock(&b->mu);
    b->n_done++;
    b->n_errors += bad || (b->answers[i] && !strstr(b->answers[i], "\"status_code\":200"));
    b->nomem |= !b->answers[i];
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%zu of %zu requests", b->n_done, b->n);
    pthread_mutex_unlock(&b->mu);
}

static void *worker(void *arg)
{
    batch_run *b = arg;
    fetch *h = NULL;
    if (fetch_open(&h) != ST_OK) return NULL;
    for (;;) {
        pthread_mutex_lock(&b->mu);
        size_t i = b->next < b->n ? b->next++ : b->n;
        pthread_mutex_unlock(&b->mu);
        if (i == b->n) break;
        answer_line(b, h, i);
    }
    fetch_close(h);
    return NULL;
}

static status answer_all(batch_run *b)
{
    int64_t most = flags_i64(b->f, "max-inflight", 256);
    size_t n = most < 1 ? 1 : (size_t)most < b->n ? (size_t)most : b->n, started = 0;
    pthread_t *th = mem_array(n, sizeof *th);
    if (!th) return err_nomem();
    while (started < n && pthread_create(&th[started], NULL, worker, b) == 0) started++;
    for (size_t i = 0; i < started; i++) pthread_join(th[i], NULL);
    mem_free(th);
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\n");
    return b->nomem || b->n_done < b->n ? err_nomem() : ST_OK;
}

/* ---- output: beside its place, then renamed, so that a full disk leaves no half file under the name asked for ---- */

static status write_lines(const batch_run *b, FILE *f, const char *name)
{
    for (size_t i = 0; i < b->n; i++)
        if (fputs(b->answers[i], f) == EOF || fputc('\n', f) == EOF) return err_errno("cannot write %s", name);
    return fflush(f) == 0 ? ST_OK : err_errno("cannot write %s", name);
}

static status write_output(const batch_run *b, const char *to)
{
    if (strcmp(to, "-") == 0) return write_lines(b, stdout, "standard output");
    const char *tmp_dir = flags_str(b->f, "output-tmp-dir"), *base = strrchr(to, '/');
    char tmp[4096];
    int n = tmp_dir ? snprintf(tmp, sizeof tmp, "%s/%s.part", tmp_dir, base ? base + 1 : to) : snprintf(tmp, sizeof tmp, "%s.part", to);
    if (n < 0 || (size_t)n >= sizeof tmp) return err_set(ST_INVALID, "output path is too long");
    FILE *f = fopen(tmp, "w");
    if (!f) return err_errno("cannot write %s", tmp);
    status st = write_lines(b, f, tmp);
    if (fclose(f) != 0 && st == ST_OK) st = err_errno("cannot write %s", tmp);
    if (st == ST_OK && rename(tmp, to) != 0) st = err_errno("cannot rename %s to %s", tmp, to);
    if (st != ST_OK) unlink(tmp);
    return st;
}

static status run(batch_run *b)
{
    const char *from = flags_str(b->f, "input-file"), *to = flags_str(b->f, "output-file");
    if (!from || !to) return err_set(ST_INVALID, "both -i INPUT and -o OUTPUT are needed");
    buf text = {0};
    status st = read_input(from, &text);
    b->text = st == ST_OK ? buf_take(&text) : NULL;
    buf_free(&text);
    TRY(st);
    if (!b->text) return err_nomem();
    TRY(split_lines(b));
    char hex[17];
    random_hex(hex, 16);
    snprintf(b->socket_path, sizeof b->socket_path, "/tmp/systolic-batch-%s.sock", hex);
    serving *s = NULL;
    TRY(serving_open(b->f, b->socket_path, &s));
    st = answer_all(b);
    serving_close(s, 0);
    TRY(st);
    TRY(write_output(b, to));
    log_info("%zu requests answered, %zu of them with an error", b->n, b->n_errors);
    return ST_OK;
}

int run_batch_main(int argc, char **argv)
{
    flag_set set = { .prog = "systolic run-batch", .summary = "Answers a file of OpenAI batch requests.", .config = true };
    flag_def *table = NULL;
    flags *f;
    int rc;
    if (serve_flags_with(own, sizeof own / sizeof *own, true, &table, &set.n_defs) != ST_OK) return command_failed(&set);
    set.defs = table;
    if (command_flags(&set, argc, argv, &f, &rc)) {
        batch_run b = { .f = f, .mu = PTHREAD_MUTEX_INITIALIZER };
        if (run(&b) != ST_OK) rc = command_failed(&set);
        for (size_t i = 0; i < b.n; i++) mem_free(b.answers[i]);
        mem_free(b.answers);
        mem_free(b.lines);
        mem_free(b.text);
        flags_free(f);
    }
    mem_free(table);
    return rc;
}
