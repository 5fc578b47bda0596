/* Normalizers: a flattened chain, each step reading one buffer and writing the other. Steps that would change nothing
 * hand their input on, so plain text is usually not copied at all. */
#include <string.h>

#include "base/utf8.h"
#include "text/tok_int.h"

/* ---- loading ---- */

static status decode_base64(arena *a, const char *s, size_t n, unsigned char **out, size_t *n_out)
{
    unsigned char *p = arena_alloc(a, n / 4 * 3 + 4);
    if (!p) return err_nomem();
    uint32_t acc = 0;
    int bits = 0;
    size_t k = 0;
    for (size_t i = 0; i < n && s[i] != '='; i++) {
        char c = s[i];
        int v = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
        if (v < 0) return err_set(ST_INVALID, "tokenizer.json: normalizer: precompiled_charsmap is not base64 at character %zu", i);
        acc = acc << 6 | (uint32_t)v;
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        p[k++] = (unsigned char)(acc >> bits);
        acc &= (1u << bits) - 1;
    }
    *out = p;
    *n_out = k;
    return ST_OK;
}

/* sentencepiece's compiled map: bytes of the trie, the trie (a double array), strings with NULs between. */
static status load_charsmap(tokenizer *t, const jv *spec, normalizer *x)
{
    const jv *v = jv_get(spec, "precompiled_charsmap");
    if (!jv_is(v, JV_STR)) return err_set(ST_INVALID, "tokenizer.json: normalizer: precompiled_charsmap is %s, wanted a string", jv_kind_name(jv_type(v)));
    unsigned char *blob;
    size_t n = 0;
    TRY(decode_base64(&t->mem, jv_str(v, ""), jv_len(v), &blob, &n));
    uint32_t bytes = 0;
    if (n >= 4) bytes = (uint32_t)blob[0] | (uint32_t)blob[1] << 8 | (uint32_t)blob[2] << 16 | (uint32_t)blob[3] << 24;
    if (n < 4 || bytes > n - 4 || bytes % 4) return err_set(ST_INVALID, "tokenizer.json: normalizer: precompiled_charsmap of %zu bytes does not hold its trie of %u", n, bytes);
    uint32_t *units = arena_alloc(&t->mem, bytes + 4);
    if (!units) return err_nomem();
    for (uint32_t i = 0; i < bytes / 4; i++) {
        const unsigned char *p = blob + 4 + i * 4;
        units[i] = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    }
    x->units = units;
    x->n_units = bytes / 4;
    x->strings = (const char *)blob + 4 + bytes;
    x->strings_len = n - 4 - bytes;
    if (!utf8_valid(x->strings, x->strings_len)) return err_set(ST_INVALID, "tokenizer.json: normalizer: precompiled_charsmap has strings that are not UTF-8");
    return ST_OK;
}

static status load_bert(const jv *spec, normalizer *x)
{
    TRY(tok_get_bool(spec, "normalizer", "clean_text", true, &x->clean));
    TRY(tok_get_bool(spec, "normalizer", "handle_chinese_chars", true, &x->chinese));
    TRY(tok_get_bool(spec, "normalizer", "lowercase", true, &x->lowercase));
    return tok_get_bool(spec, "normalizer", "strip_accents", x->lowercase, &x->strip_accents);
}

static status load_one(tokenizer *t, const jv *spec, const char *type)
{
    static const struct { const char *name; norm_kind kind; } names[] = {
        { "NFC", NORM_NFC }, { "NFD", NORM_NFD }, { "NFKC", NORM_NFKC }, { "NFKD", NORM_NFKD }, { "Lowercase", NORM_LOWER },
        { "Strip", NORM_STRIP }, { "StripAccents", NORM_STRIP_ACCENTS }, { "Replace", NORM_REPLACE }, { "Prepend", NORM_PREPEND },
        { "BertNormalizer", NORM_BERT }, { "Nmt", NORM_NMT }, { "Precompiled", NORM_CHARSMAP }, { "ByteLevel", NORM_BYTE_LEVEL },
    };
    size_t k = 0, n = sizeof names / sizeof *names;
    while (k < n && strcmp(names[k].name, type) != 0) k++;
    if (k == n) return err_set(ST_UNSUPPORTED, "tokenizer.json: normalizer type \"%s\" is not known", type);
    normalizer *x = &t->norms[t->n_norms++];
    x->kind = names[k].kind;
    switch (x->kind) {
    case NORM_STRIP:
        TRY(tok_get_bool(spec, "normalizer", "strip_left", true, &x->left));
        return tok_get_bool(spec, "normalizer", "strip_right", true, &x->right);
    case NORM_REPLACE:
        TRY(tok_get_str(&t->mem, spec, "normalizer", "content", true, &x->text));
        return pattern_new(&t->mem, jv_get(spec, "pattern"), "normalizer", &x->pat);
    case NORM_PREPEND: return tok_get_str(&t->mem, spec, "normalizer", "prepend", true, &x->text);
    case NORM_BERT: return load_bert(spec, x);
    case NORM_CHARSMAP: return load_charsmap(t, spec, x);
    default: return ST_OK;
    }
}

enum { MAX_NORMS = 64 };

static status load(tokenizer *t, const jv *spec, int depth)
{
    if (!spec || jv_is(spec, JV_NULL)) return ST_OK;
    const char *type = jv_get_str(spec, "type", NULL);
    if (!type) return err_set(ST_INVALID, "tokenizer.json: normalizer has no type");
    if (strcmp(type, "Sequence") != 0) {
        if (t->n_norms == MAX_NORMS) return err_set(ST_LIMIT, "tokenizer.json: normalizer has more than %d steps", MAX_NORMS);
        return load_one(t, spec, type);
    }
    const jv *list = jv_get(spec, "normalizers");
    if (!jv_is(list, JV_ARR)) return err_set(ST_INVALID, "tokenizer.json: normalizer: normalizers is %s, wanted a list", jv_kind_name(jv_type(list)));
    if (depth > 16) return err_set(ST_LIMIT, "tokenizer.json: normalizer is nested too deeply");
    for (size_t i = 0; i < jv_len(list); i++) TRY(load(t, jv_at(list, i), depth + 1));
    return ST_OK;
}

status norm_load(tokenizer *t, const jv *spec)
{
    t->norms = arena_calloc(&t->mem, MAX_NORMS, sizeof *t->norms);
    if (!t->norms) return err_nomem();
    return load(t, spec, 0);
}

/* ---- steps: read p, append to b; zero follows the bytes that come from the start of the text ---- */

static bool ascii(piece p)
{
    for (size_t i = 0; i < p.n; i++)
        if ((unsigned char)p.s[i] >= 0x80) return false;
    return true;
}

/* Maps every character to itself, another, several or none. */
static status map_chars(piece p, buf *b, size_t *zero, void (*map)(const normalizer *, uint32_t, buf *), const normalizer *x)
{
    *zero = 0;
    for (size_t i = 0; i < p.n;) {
        bool from_zero = i < p.zero;
        map(x, uni_next(p.s, &i), b);
        if (from_zero) *zero = b->len;
    }
    return buf_status(b);
}

static void map_lower(const normalizer *x, uint32_t c, buf *b) { (void)x; uni_lower(b, c); }

static void map_nmt(const normalizer *x, uint32_t c, buf *b)
{
    (void)x;
    if ((c >= 1 && c <= 8) || c == 11 || (c >= 14 && c <= 31) || c == 0x7F || c == 0x8F || c == 0x9F) return;
    if (c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 ||
        c == 0x2581 || c == 0xFEFF || c == 0xFFFD)
        c = ' ';
    buf_utf8(b, c);
}

static void map_strip_accents(const normalizer *x, uint32_t c, buf *b)
{
    (void)x;
    if (!uni_is_mark_9(c)) buf_utf8(b, c);
}

static bool chinese(uint32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

/* BertNormalizer's first two steps in one: clean, then spaces around CJK ideographs. */
static void map_bert(const normalizer *x, uint32_t c, buf *b)
{
    if (x->clean) {
        bool keep = c == '\t' || c == '\n' || c == '\r' || !uni_is_control_8(c);
        if (c == 0xFFFD || !keep) return;
        if (uni_is_space(c)) c = ' ';
    }
    bool pad = x->chinese && chinese(c);
    if (pad) buf_char(b, ' ');
    buf_utf8(b, c);
    if (pad) buf_char(b, ' ');
}

static void map_strip_nonspacing(const normalizer *x, uint32_t c, buf *b)
{
    (void)x;
    if (!uni_is_nonspacing_8(c)) buf_utf8(b, c);
}

static status strip(const normalizer *x, piece p, piece *out)
{
    size_t from = 0, to = p.n;
    while (x->left && from < to) {
        size_t j = from;
        if (!uni_is_space(uni_next(p.s, &j))) break;
        from = j;
    }
    while (x->right && to > from) {
        size_t i = uni_back(p.s, to), j = i;
        if (!uni_is_space(uni_next(p.s, &j))) break;
        to = i;
    }
    *out = (piece){ p.s + from, to - from, p.zero > from ? p.zero - from : 0 };
    return ST_OK;
}

static status replace(enc *e, const normalizer *x, piece p, buf *b, size_t *zero)
{
    pattern_iter it = {0};
    size_t done = 0, from, to;
    *zero = 0;
    for (bool found;; done = to) {
        TRY(pattern_next(&x->pat, e, p.s, p.n, &it, &found, &from, &to));
        if (!found) break;
        buf_append(b, p.s + done, from - done);
        if (p.zero > done) *zero = b->len - (from > p.zero ? from - p.zero : 0);
        buf_append(b, x->text.s, x->text.n);
        if (to > 0 && to - 1 < p.zero) *zero = b->len; /* the replacement stands where the match ended */
    }
    buf_append(b, p.s + done, p.n - done);
    if (p.zero > done) *zero = b->len - (p.n - p.zero);
    return buf_status(b);
}

/* ---- the compiled map ---- */

/* The replacement for the shortest prefix of s that the trie holds; false if there is none. */
static bool charsmap_find(const normalizer *x, const char *s, size_t n, span *out)
{
    if (x->n_units == 0) return false;
    uint32_t u = x->units[0];
    size_t at = (size_t)(u >> 10) << ((u & 1u << 9) >> 6);
    for (size_t i = 0; i < n && s[i]; i++) {
        at ^= (unsigned char)s[i];
        if (at >= x->n_units) return false;
        u = x->units[at];
        if ((u & (1u << 31 | 0xFF)) != (unsigned char)s[i]) return false;
        at ^= (size_t)(u >> 10) << ((u & 1u << 9) >> 6);
        if (!(u >> 8 & 1)) continue;
        if (at >= x->n_units) return false;
        size_t from = x->units[at] & 0x7FFFFFFF;
        if (from > x->strings_len) return false;
        const char *end = memchr(x->strings + from, 0, x->strings_len - from);
        *out = (span){ x->strings + from, end ? (size_t)(end - x->strings) - from : x->strings_len - from };
        /* A hostile map may point into the middle of a character. */
        return out->n == 0 || ((unsigned char)out->s[0] & 0xC0) != 0x80;
    }
    return false;
}

static size_t cluster_end(const char *s, size_t n, size_t i)
{
    int32_t state = 0;
    uint32_t a = uni_next(s, &i);
    while (i < n) {
        size_t j = i;
        uint32_t b = uni_next(s, &j);
        if (uni_grapheme_break(a, b, &state)) break;
        a = b;
        i = j;
    }
    return i;
}

/* Grapheme clusters of up to five bytes are looked up as a whole first, as the package does. */
static status charsmap(const normalizer *x, piece p, buf *b, size_t *zero)
{
    span r;
    *zero = 0;
    for (size_t i = 0, end; i < p.n; i = end) {
        bool from_zero = i < p.zero;
        unsigned char c = (unsigned char)p.s[i];
        bool lone = c < 0x80 && c != '\r' && i + 1 < p.n && (unsigned char)p.s[i + 1] < 0x80;
        end = lone ? i + 1 : cluster_end(p.s, p.n, i);
        if (end - i < 6 && charsmap_find(x, p.s + i, end - i, &r)) {
            buf_append(b, r.s, r.n);
        } else {
            for (size_t j = i, k; j < end; j = k) {
                k = j;
                uni_next(p.s, &k);
                if (charsmap_find(x, p.s + j, k - j, &r)) buf_append(b, r.s, r.n);
                else buf_append(b, p.s + j, k - j);
            }
        }
        if (from_zero) *zero = b->len;
    }
    return buf_status(b);
}

/* ---- the chain ---- */

static status form(uni_form f, piece p, buf *b, piece *out)
{
    if (uni_is_normal(f, p.s, p.n)) {
        *out = p;
        return ST_OK;
    }
    TRY(uni_normalize(f, p.s, p.n, b));
    size_t first = 0;
    if (b->len) uni_next(b->data, &first);
    *out = (piece){ buf_cstr(b), b->len, p.zero ? first : 0 };
    return ST_OK;
}

typedef struct chain { enc *e; piece p; int which; } chain;

/* The buffer that does not hold the current text. */
static buf *other(chain *c)
{
    c->which ^= 1;
    buf *b = &c->e->norm[c->which];
    buf_clear(b);
    return b;
}

static void take(chain *c, size_t zero)
{
    buf *b = &c->e->norm[c->which];
    c->p = (piece){ buf_cstr(b), b->len, zero };
}

static status bert(chain *c, const normalizer *x)
{
    size_t zero;
    if (x->clean || x->chinese) {
        TRY(map_chars(c->p, other(c), &zero, map_bert, x));
        take(c, zero);
    }
    if (x->strip_accents && !ascii(c->p)) {
        TRY(form(UNI_NFD, c->p, other(c), &c->p));
        if (c->p.s != buf_cstr(&c->e->norm[c->which])) c->which ^= 1;
        TRY(map_chars(c->p, other(c), &zero, map_strip_nonspacing, x));
        take(c, zero);
    }
    if (x->lowercase) {
        TRY(map_chars(c->p, other(c), &zero, map_lower, x));
        take(c, zero);
    }
    return ST_OK;
}

static status prepend(chain *c, const normalizer *x)
{
    if (c->p.n == 0) return ST_OK;
    piece p = c->p;
    buf *b = other(c);
    buf_append(b, x->text.s, x->text.n);
    buf_append(b, p.s, p.n);
    take(c, p.zero ? p.zero + x->text.n : 0);
    return buf_status(b);
}

static status byte_level(chain *c)
{
    piece p = c->p;
    buf *b = other(c);
    size_t zero = 0;
    bytes_to_symbols(p.s, p.zero < p.n ? p.zero : p.n, b);
    zero = b->len;
    if (p.zero < p.n) bytes_to_symbols(p.s + p.zero, p.n - p.zero, b);
    take(c, zero);
    return buf_status(b);
}

static status step(chain *c, const normalizer *x)
{
    size_t zero = 0;
    piece p = c->p;
    switch (x->kind) {
    case NORM_NFC: case NORM_NFD: case NORM_NFKC: case NORM_NFKD:
        TRY(form((uni_form)(x->kind - NORM_NFC), p, other(c), &c->p));
        if (c->p.s == p.s) c->which ^= 1; /* nothing was written */
        return ST_OK;
    case NORM_STRIP: return strip(x, p, &c->p);
    case NORM_PREPEND: return prepend(c, x);
    case NORM_BERT: return bert(c, x);
    case NORM_BYTE_LEVEL: return byte_level(c);
    case NORM_LOWER: TRY(map_chars(p, other(c), &zero, map_lower, x)); break;
    case NORM_STRIP_ACCENTS: TRY(map_chars(p, other(c), &zero, map_strip_accents, x)); break;
    case NORM_NMT: TRY(map_chars(p, other(c), &zero, map_nmt, x)); break;
    case NORM_REPLACE: TRY(replace(c->e, x, p, other(c), &zero)); break;
    case NORM_CHARSMAP: TRY(charsmap(x, p, other(c), &zero)); break;
    }
    take(c, zero);
    return ST_OK;
}

status norm_run(enc *e, piece in, piece *out)
{
    chain c = { e, in, 0 };
    for (size_t i = 0; i < e->t->n_norms; i++) TRY(step(&c, &e->t->norms[i]));
    *out = c.p;
    return ST_OK;
}
