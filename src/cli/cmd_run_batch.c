/* `systolic run-batch`: answers a file of OpenAI batch requests. The requests go through the very API that `serve` offers, on
 * a private Unix socket, so that every check, default and error is the server's. Answers keep the order of the input. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fetch.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/serve.h"

#define G "Batch"
static const flag_def own[] = {
    { "input-file", "-i", G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "File or http(s) URL of requests, one JSON object per line." },
    { "output-file", "-o", G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "File for the answers, - for standard output, or an http(s) URL that takes a PUT." },
    { "output-tmp-dir", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Where the answers are written before they are moved to their place." },
    { "max-inflight", NULL, G, FLAG_INT, FLAG_YES, "256", NULL, NULL, "Most requests at once." },
    { "response-role", NULL, G, FLAG_STR, FLAG_YES, "assistant", NULL, NULL, "Role of answers." },
    { "enable-metrics", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Serve /metrics meanwhile." },
    { "max-num-queued-reqs", NULL, G, FLAG_INT, FLAG_NOT_YET, NULL, NULL, NULL, "A batch is never turned away." },
    { "max-num-queued-tokens", NULL, G, FLAG_INT, FLAG_NOT_YET, NULL, NULL, NULL, "A batch is never turned away." },
    { "api-key", NULL, G, FLAG_LIST, FLAG_NOT_YET, NULL, NULL, NULL, "There is no server to guard." },
};
#undef G

typedef struct batch_line { const char *text; size_t no; } batch_line;
typedef struct batch_run {
    const flags *f;
    char *text;                   /* the whole input */
    batch_line *lines; size_t n;  /* in `text`, blank ones left out */
    char **answers;               /* [n] */
    char socket_path[128];
    pthread_mutex_t mu;
    size_t next, n_done, n_errors;
    bool nomem;
    FILE *out;                    /* NULL: a URL */
    char tmp[4096];               /* where `out` writes until it is renamed; "" = in place */
} batch_run;

/* The file and the socket that a signal must not leave behind; set before handlers are installed. */
static batch_run *interrupted;

static void on_signal(int sig)
{
    int saved = errno;
    if (interrupted->tmp[0]) unlink(interrupted->tmp);
    if (interrupted->socket_path[0]) unlink(interrupted->socket_path);
    signal(sig, SIG_DFL);
    raise(sig); /* ends the process as the signal would have, when this returns */
    errno = saved;
}

static bool is_url(const char *s) { return strncmp(s, "http://", 7) == 0 || strncmp(s, "https://", 8) == 0; }

/* ---- input ---- */

static status read_input(const char *from, buf *out)
{
    if (is_url(from)) {
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
    size_t no = 0;
    for (char *line; (line = strsep(&at, "\n"));) {
        no++;
        if (line[strspn(line, " \t\r")]) b->lines[b->n++] = (batch_line){ line, no };
    }
    return b->n ? ST_OK : err_set(ST_INVALID, "the input file holds no request");
}

/* ---- one request ---- */

/* A line of the output as vLLM writes it: an answer of the API that is an error goes to "error" whole, and "body" is null then. */
static void write_answer(const char *custom_id, int code, const char *body, const char *error_json, const char *error, buf *out)
{
    char hex[33], id[64];
    jw w = jw_to(out);
    jw_obj(&w);
    random_hex(hex, 32);
    snprintf(id, sizeof id, "vllm-%s", hex);
    jw_key(&w, "id"), jw_str(&w, id);
    jw_key(&w, "custom_id"), jw_str(&w, custom_id);
    jw_key(&w, "response"), jw_obj(&w);
    random_hex(hex, 32);
    snprintf(id, sizeof id, "vllm-batch-%s", hex);
    jw_key(&w, "status_code"), jw_i64(&w, code);
    jw_key(&w, "request_id"), jw_str(&w, id);
    jw_key(&w, "body");
    if (body) jw_raw(&w, body);
    else jw_null(&w);
    jw_end_obj(&w);
    jw_key(&w, "error");
    if (error_json) jw_raw(&w, error_json);
    else jw_str(&w, error);
    jw_end_obj(&w);
}

/* What is wrong with a line before it is sent: a status and its message. */
static status check_line(const jv *line)
{
    const jv *body = jv_get(line, "body");
    const char *method = jv_get_str(line, "method", NULL), *url = jv_get_str(line, "url", NULL);
    if (!jv_get_str(line, "custom_id", NULL)) return err_set(ST_INVALID, "\"custom_id\" must be a string");
    if (!method || strcmp(method, "POST") != 0) return err_set(ST_INVALID, "\"method\" must be \"POST\"");
    if (!url || url[0] != '/') return err_set(ST_INVALID, "\"url\" must be a path such as /v1/chat/completions");
    if (!jv_is(body, JV_OBJ)) return err_set(ST_INVALID, "\"body\" must be an object");
    if (strcmp(url, "/v1/embeddings") == 0) return err_set(ST_UNSUPPORTED, "The model does not support Embeddings API");
    if (strcmp(url, "/v1/chat/completions") != 0) return err_set(ST_UNSUPPORTED, "URL %s was used. Supported endpoints: /v1/chat/completions", url);
    if (jv_get_bool(body, "stream", false)) return err_set(ST_INVALID, "Request must not be sent in stream mode");
    return ST_OK;
}

/* *code is the API's, 500 when it gave none. */
static status post(const batch_run *b, fetch *h, const jv *line, int *code, buf *out)
{
    static const char *const headers[] = { "Content-Type: application/json", NULL };
    buf body = {0};
    jw w = jw_to(&body);
    jw_value(&w, jv_get(line, "body"));
    fetch_options o = { .headers = headers, .body = buf_cstr(&body), .body_len = body.len, .unix_socket = b->socket_path, .stall_timeout_s = -1 };
    fetch_response r = {0};
    *code = 500;
    status st = body.failed ? err_nomem() : fetch_run(h, "http://localhost/v1/chat/completions", &o, &r);
    if (st == ST_OK) {
        const char *text = buf_cstr(&r.body);
        *code = r.code;
        write_answer(jv_get_str(line, "custom_id", NULL), r.code, r.code == 200 ? text : NULL, r.code == 200 ? NULL : text, NULL, out);
    }
    fetch_response_free(&r);
    buf_free(&body);
    return st;
}

static void answer_line(batch_run *b, fetch *h, size_t i)
{
    jv *line = NULL;
    buf out = {0};
    int code = 400;
    status st = jv_parse(b->lines[i].text, strlen(b->lines[i].text), &line);
    if (st == ST_OK) st = check_line(line);
    if (st == ST_OK) st = post(b, h, line, &code, &out);
    if (st != ST_OK) {
        const char *id = jv_get_str(line, "custom_id", NULL);
        if (!id) st = err_wrap(st, "line %zu", b->lines[i].no); /* nothing else tells whose it is */
        buf_clear(&out);
        write_answer(id, code, NULL, NULL, err_msg(), &out);
    }
    b->answers[i] = buf_take(&out);
    buf_free(&out);
    jv_free(line);
    pthread_mutex_lock(&b->mu);
    b->n_done++;
    b->n_errors += code != 200;
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
    size_t most = (size_t)flags_i64(b->f, "max-inflight", 256), n = most < b->n ? most : b->n, started = 0;
    pthread_t *th = mem_array(n, sizeof *th);
    if (!th) return err_nomem();
    while (started < n && pthread_create(&th[started], NULL, worker, b) == 0) started++;
    for (size_t i = 0; i < started; i++) pthread_join(th[i], NULL);
    mem_free(th);
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\n");
    return b->nomem || b->n_done < b->n ? err_nomem() : ST_OK;
}

/* ---- output: opened before the model is loaded, so that a wrong path is told at once; written beside its place and then
 * renamed, so that a full disk leaves no half file under the name asked for ---- */

static status open_output(batch_run *b, const char *to)
{
    const char *tmp_dir = flags_str(b->f, "output-tmp-dir"), *base = strrchr(to, '/');
    struct stat st;
    if (is_url(to)) return ST_OK;
    if (strcmp(to, "-") == 0) {
        b->out = stdout;
        return ST_OK;
    }
    /* Devices, pipes and links must stay what they are; a directory fails here. */
    bool in_place = lstat(to, &st) == 0 && !S_ISREG(st.st_mode);
    if (!in_place) {
        int n = tmp_dir ? snprintf(b->tmp, sizeof b->tmp, "%s/%s.part", tmp_dir, base ? base + 1 : to) : snprintf(b->tmp, sizeof b->tmp, "%s.part", to);
        if (n < 0 || (size_t)n >= sizeof b->tmp) {
            b->tmp[0] = 0;
            return err_set(ST_INVALID, "the output path is too long");
        }
    }
    b->out = fopen(in_place ? to : b->tmp, "w");
    if (b->out) return ST_OK;
    status failed = err_errno("cannot write %s", in_place ? to : b->tmp);
    b->tmp[0] = 0; /* whatever is there is not ours */
    return failed;
}

static status write_lines(const batch_run *b, FILE *f, const char *name)
{
    for (size_t i = 0; i < b->n; i++)
        if (fputs(b->answers[i], f) == EOF || fputc('\n', f) == EOF) return err_errno("cannot write %s", name);
    return fflush(f) == 0 ? ST_OK : err_errno("cannot write %s", name);
}

static status close_output(batch_run *b, const char *name)
{
    FILE *f = b->out;
    b->out = NULL;
    return !f || f == stdout || fclose(f) == 0 ? ST_OK : err_errno("cannot write %s", name);
}

static status put_lines(const batch_run *b, const char *url)
{
    buf all = {0};
    fetch *h = NULL;
    fetch_response r = {0};
    for (size_t i = 0; i < b->n; i++) {
        buf_str(&all, b->answers[i]);
        buf_char(&all, '\n');
    }
    status st = buf_status(&all);
    if (st == ST_OK) st = fetch_open(&h);
    fetch_options o = { .method = "PUT", .body = buf_cstr(&all), .body_len = all.len, .max_redirects = -1 };
    if (st == ST_OK) st = fetch_run(h, url, &o, &r);
    if (st == ST_OK && (r.code < 200 || r.code > 299)) st = err_set(ST_IO, "PUT %s: HTTP %d", url, r.code);
    fetch_response_free(&r);
    fetch_close(h);
    buf_free(&all);
    return st;
}

static status write_output(batch_run *b, const char *to)
{
    if (!b->out) return put_lines(b, to);
    const char *name = b->out == stdout ? "standard output" : b->tmp[0] ? b->tmp : to;
    TRY(write_lines(b, b->out, name));
    TRY(close_output(b, name));
    if (!b->tmp[0]) return ST_OK;
    if (rename(b->tmp, to) == 0) {
        b->tmp[0] = 0;
        return ST_OK;
    }
    if (errno != EXDEV) return err_errno("cannot rename %s to %s", b->tmp, to);
    /* --output-tmp-dir is on another file system. */
    b->out = fopen(to, "w");
    if (!b->out) return err_errno("cannot write %s", to);
    TRY(write_lines(b, b->out, to));
    return close_output(b, to);
}

static status run(batch_run *b)
{
    const char *to = flags_str(b->f, "output-file");
    buf text = {0};
    status st = read_input(flags_str(b->f, "input-file"), &text);
    if (st == ST_OK && text.len && memchr(text.data, 0, text.len)) st = err_set(ST_INVALID, "the input file holds a NUL byte");
    b->text = st == ST_OK ? buf_take(&text) : NULL;
    buf_free(&text);
    TRY(st);
    if (!b->text) return err_nomem();
    TRY(split_lines(b));
    char hex[17];
    random_hex(hex, 16);
    interrupted = b;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    TRY(open_output(b, to));
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

static status check_flags(const flags *f)
{
    if (!flags_str(f, "input-file") || !flags_str(f, "output-file")) return err_set(ST_INVALID, "the following arguments are required: -i/--input-file, -o/--output-file");
    return flags_check_range(f, "max-inflight", 1, 65536);
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
        if (check_flags(f) != ST_OK) {
            command_failed(&set);
            rc = COMMAND_USAGE;
        } else if (run(&b) != ST_OK) {
            rc = command_failed(&set);
        }
        if (b.out && b.out != stdout) fclose(b.out);
        if (b.tmp[0]) unlink(b.tmp);
        for (size_t i = 0; i < b.n; i++) mem_free(b.answers[i]);
        mem_free(b.answers);
        mem_free(b.lines);
        mem_free(b.text);
        flags_free(f);
    }
    mem_free(table);
    return rc;
}
