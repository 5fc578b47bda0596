#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/tok_regex.h"

#include <pcre2.h>

#include "base/mem.h"
#include "text/tok_unicode.h"

/* A pattern that needs more steps than this for one match is hostile: real ones take a few dozen. */
enum { MATCH_LIMIT = 5000000, HEAP_LIMIT_KIB = 64 * 1024, JIT_STACK_MAX = 1 << 20 };

struct regex { pcre2_code *code; bool jit; };
struct regex_scratch { pcre2_match_data *data; pcre2_match_context *ctx; pcre2_jit_stack *stack; };

static void *pcre_alloc(PCRE2_SIZE n, void *arg) { (void)arg; return mem_alloc(n); }
static void pcre_free(void *p, void *arg) { (void)arg; mem_free(p); }

static status compile(const char *pattern, size_t n, pcre2_general_context *g, regex *r)
{
    pcre2_compile_context *cc = pcre2_compile_context_create(g);
    if (!cc) return err_nomem();
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(cc, 200);
    int code = 0;
    PCRE2_SIZE at = 0;
    r->code = pcre2_compile((PCRE2_SPTR)pattern, n, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &at, cc);
    pcre2_compile_context_free(cc);
    if (!r->code) {
        if (code == PCRE2_ERROR_NOMEMORY || code == 121 /* heap */ ) return err_nomem();
        char msg[200];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)msg, sizeof msg);
        return err_set(ST_INVALID, "bad regular expression: %s", msg);
    }
    mem_clear_oom();
    r->jit = pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE) == 0;
    return mem_oom() ? err_nomem() : ST_OK; /* without executable memory the interpreter does */
}

status regex_new(const char *pattern, size_t n, regex **out)
{
    buf translated = {0};
    regex *r = mem_calloc(1, sizeof *r);
    pcre2_general_context *g = pcre2_general_context_create(pcre_alloc, pcre_free, NULL);
    status st = r && g ? ST_OK : err_nomem();
    if (st == ST_OK) st = regex_translate(pattern, n, &translated);
    if (st == ST_OK) st = compile(buf_cstr(&translated), translated.len, g, r);
    pcre2_general_context_free(g);
    buf_free(&translated);
    if (st != ST_OK) {
        regex_free(r);
        return st;
    }
    *out = r;
    return ST_OK;
}

void regex_free(regex *r)
{
    if (!r) return;
    pcre2_code_free(r->code);
    mem_free(r);
}

status regex_scratch_new(regex_scratch **out)
{
    regex_scratch *s = mem_calloc(1, sizeof *s);
    pcre2_general_context *g = pcre2_general_context_create(pcre_alloc, pcre_free, NULL);
    if (s && g) {
        s->data = pcre2_match_data_create(1, g); /* only the whole match is wanted */
        s->ctx = pcre2_match_context_create(g);
        s->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK_MAX, g);
    }
    pcre2_general_context_free(g);
    if (!s || !s->data || !s->ctx || !s->stack) {
        regex_scratch_free(s);
        return err_nomem();
    }
    pcre2_set_match_limit(s->ctx, MATCH_LIMIT);
    pcre2_set_heap_limit(s->ctx, HEAP_LIMIT_KIB);
    pcre2_jit_stack_assign(s->ctx, NULL, s->stack);
    *out = s;
    return ST_OK;
}

void regex_scratch_free(regex_scratch *s)
{
    if (!s) return;
    pcre2_match_data_free(s->data);
    pcre2_match_context_free(s->ctx);
    pcre2_jit_stack_free(s->stack);
    mem_free(s);
}

static status match(const regex *r, regex_scratch *x, const char *s, size_t n, size_t pos, bool *found, size_t *from, size_t *to)
{
    int rc = r->jit ? pcre2_jit_match(r->code, (PCRE2_SPTR)s, n, pos, PCRE2_NO_UTF_CHECK, x->data, x->ctx) : PCRE2_ERROR_JIT_STACKLIMIT;
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(r->code, (PCRE2_SPTR)s, n, pos, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, x->data, x->ctx);
    *found = rc >= 0;
    if (rc >= 0) {
        const PCRE2_SIZE *o = pcre2_get_ovector_pointer(x->data);
        *from = o[0] < o[1] ? o[0] : o[1]; /* \K in a lookahead can put the start behind the end */
        *to = o[1];
        return ST_OK;
    }
    if (rc == PCRE2_ERROR_NOMATCH) return ST_OK;
    if (rc == PCRE2_ERROR_NOMEMORY) return err_nomem();
    if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_RECURSELOOP)
        return err_set(ST_LIMIT, "a regular expression of the tokenizer takes too long on this text (match limit)");
    return err_set(ST_INTERNAL, "regular expression match failed with PCRE2 error %d", rc);
}

status regex_next(const regex *r, regex_scratch *scratch, const char *s, size_t n, regex_iter *it,
                  bool *found, size_t *from, size_t *to)
{
    for (;;) {
        *found = false;
        if (it->pos > n) return ST_OK;
        TRY(match(r, scratch, s, n, it->pos, found, from, to));
        if (!*found) {
            it->pos = n + 1;
            return ST_OK;
        }
        if (*from == *to && it->any && it->last_end == *to) {
            if (it->pos < n) uni_next(s, &it->pos);
            else it->pos = n + 1;
            continue;
        }
        it->pos = it->last_end = *to;
        it->any = true;
        return ST_OK;
    }
}
