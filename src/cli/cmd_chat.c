/* `systolic chat` and `systolic complete`: talk to a running server, as vLLM's commands of these names do. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cli/client.h"
#include "cli/command.h"

#define COMMON_FLAGS(g) \
    { "url", NULL, g, FLAG_STR, FLAG_YES, "http://localhost:8000/v1", NULL, NULL, "Base URL of the server's API." }, \
    { "model-name", NULL, g, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Model to use; the first of /v1/models by default." }, \
    { "api-key", NULL, g, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "API key; OPENAI_API_KEY otherwise." }, \
    { "quick", "-q", g, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Send this one message, print the answer, end." }, \
    { "stats", NULL, g, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Print time to first token and tokens per second after each answer." }, \
    { "max-tokens", NULL, g, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Most tokens per answer." }, \
    { "temperature", NULL, g, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "Sampling temperature; the server's default otherwise." }

static const flag_def chat_defs[] = {
    COMMON_FLAGS("Chat"),
    { "system-prompt", NULL, "Chat", FLAG_STR, FLAG_YES, NULL, NULL, NULL, "System message that opens the conversation." },
};
static const flag_def complete_defs[] = { COMMON_FLAGS("Complete") };
static const flag_set chat_flags = { "systolic chat", "chats with a running server", chat_defs, sizeof chat_defs / sizeof *chat_defs, NULL, NULL, false };
static const flag_set complete_flags = { "systolic complete", "completes text with a running server", complete_defs, sizeof complete_defs / sizeof *complete_defs, NULL, NULL, false };

typedef struct session {
    const flags *f;
    client *c;
    char *model;
    jv *messages;          /* chat: the conversation so far */
    buf answer;            /* text of the answer being read */
    double sent_s, first_s, last_s;
    int64_t n_tokens;      /* as the server's usage says */
    status broken;         /* of a chunk that could not be read */
} session;

/* Prints the text of a chunk and keeps it. */
static bool on_event(void *arg, const char *json, size_t n, double at)
{
    session *s = arg;
    jv *v = NULL;
    s->broken = jv_parse(json, n, &v);
    if (s->broken != ST_OK) return false;
    const jv *choice = jv_at(jv_get(v, "choices"), 0), *delta = jv_get(choice, "delta");
    const char *text = s->messages ? jv_get_str(delta, "content", NULL) : jv_get_str(choice, "text", NULL);
    if (s->messages && !text) text = jv_get_str(delta, "reasoning", NULL);
    if (text && *text) {
        if (s->first_s == 0) s->first_s = at;
        s->last_s = at;
        fputs(text, stdout);
        fflush(stdout);
        if (jv_get_str(delta, "content", NULL) || !s->messages) buf_str(&s->answer, text);
    }
    s->n_tokens = jv_get_i64(jv_get(v, "usage"), "completion_tokens", s->n_tokens);
    jv_free(v);
    return true;
}

static status add_message(session *s, const char *role, const char *text)
{
    jv *m = jv_new_obj();
    status st = jv_set(m, "role", jv_new_str(role, strlen(role)));
    if (st == ST_OK) st = jv_set(m, "content", jv_new_str(text, strlen(text)));
    if (st != ST_OK) {
        jv_free(m);
        return st;
    }
    return jv_push(s->messages, m);
}

static void request_body(const session *s, const char *prompt, buf *out)
{
    jw w = jw_to(out);
    jw_obj(&w);
    jw_key(&w, "model");
    jw_str(&w, s->model);
    if (s->messages) {
        jw_key(&w, "messages");
        jw_value(&w, s->messages);
    } else {
        jw_key(&w, "prompt");
        jw_str(&w, prompt);
    }
    jw_key(&w, "stream");
    jw_bool(&w, true);
    jw_key(&w, "stream_options");
    jw_raw(&w, "{\"include_usage\":true}");
    if (flags_given(s->f, "max-tokens")) {
        jw_key(&w, "max_tokens");
        jw_i64(&w, flags_i64(s->f, "max-tokens", 16));
    }
    if (flags_given(s->f, "temperature")) {
        jw_key(&w, "temperature");
        jw_f64(&w, flags_f64(s->f, "temperature", 1));
    }
    jw_end_obj(&w);
}

static void print_stats(const session *s)
{
    if (s->first_s == 0 || !flags_bool(s->f, "stats", false)) return;
    double ttft = s->first_s - s->sent_s, rest = s->last_s - s->first_s;
    printf("(%lld tokens, first after %.0f ms", (long long)s->n_tokens, ttft * 1e3);
    if (s->n_tokens > 1 && rest > 0) printf(", then %.1f tokens/s", (double)(s->n_tokens - 1) / rest);
    printf(")\n");
}

/* One question and its answer, printed as it arrives. */
static status ask(session *s, const char *text)
{
    buf body = {0};
    if (s->messages) TRY(add_message(s, "user", text));
    request_body(s, text, &body);
    status st = buf_status(&body);
    buf_clear(&s->answer);
    s->first_s = s->last_s = 0;
    s->n_tokens = 0;
    s->broken = ST_OK;
    s->sent_s = clock_now();
    if (st == ST_OK) st = client_stream(s->c, s->messages ? "/v1/chat/completions" : "/v1/completions", body.data, on_event, s);
    if (st == ST_OK && s->broken != ST_OK) st = err_set(s->broken, "the server sent a chunk that is no JSON");
    printf("\n");
    buf_free(&body);
    if (st != ST_OK) return st;
    print_stats(s);
    if (s->messages) TRY(add_message(s, "assistant", buf_cstr(&s->answer)));
    return ST_OK;
}

/* Lines from standard input until it ends. A failed request is reported and the talk goes on. */
static status repl(session *s, const flag_set *set)
{
    buf line = {0};
    status st = ST_OK;
    for (;;) {
        printf("> ");
        fflush(stdout);
        buf_clear(&line);
        int c;
        while ((c = getchar()) != EOF && c != '\n') buf_char(&line, (char)c);
        TRY_OUT(buf_status(&line));
        if (c == EOF && line.len == 0) break;
        if (line.len == 0) continue;
        if (ask(s, buf_cstr(&line)) != ST_OK) {
            command_failed(set);
            /* The unanswered question is taken back, so that roles keep alternating. */
            if (s->messages && jv_len(s->messages) > 0 && strcmp(jv_get_str(jv_at(s->messages, jv_len(s->messages) - 1), "role", ""), "user") == 0)
                jv_pop(s->messages);
        }
    }
    printf("\n");
out:
    buf_free(&line);
    return st;
}

static status talk(session *s, const flag_set *set, bool chat)
{
    client_options co = { .base_url = flags_str(s->f, "url"), .api_key = flags_str(s->f, "api-key") };
    TRY(client_open(&co, &s->c));
    const char *name = flags_str(s->f, "model-name");
    if (name) {
        s->model = mem_strdup(name);
        if (!s->model) return err_nomem();
    } else {
        TRY(client_first_model(s->c, &s->model));
    }
    if (chat) {
        s->messages = jv_new_arr();
        if (!s->messages) return err_nomem();
        const char *system = flags_str(s->f, "system-prompt");
        if (system) TRY(add_message(s, "system", system));
    }
    const char *quick = flags_str(s->f, "quick");
    if (quick) return ask(s, quick);
    printf("Using model: %s\n%s\n", s->model, chat ? "Please enter a message for the chat model (Ctrl-D ends):" : "Please enter prompt to complete (Ctrl-D ends):");
    return repl(s, set);
}

static int run(const flag_set *set, bool chat, int argc, char **argv)
{
    flags *f;
    int rc;
    if (!command_flags(set, argc, argv, &f, &rc)) return rc;
    session s = { .f = f };
    if (talk(&s, set, chat) != ST_OK) rc = command_failed(set);
    client_close(s.c);
    mem_free(s.model);
    jv_free(s.messages);
    buf_free(&s.answer);
    flags_free(f);
    return rc;
}

int chat_main(int argc, char **argv) { return run(&chat_flags, true, argc, argv); }
int complete_main(int argc, char **argv) { return run(&complete_flags, false, argc, argv); }
