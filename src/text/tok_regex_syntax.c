/* Oniguruma's Ruby syntax, rewritten for PCRE2. What differs in patterns that occur:
 *   \s \w \d \h \b and their opposites: other sets (spelled out here);   \v: a vertical tab
 *   x{2,3}+ is a repeat of a repeat, not possessive;   {,3} is {0,3};   x{2}? is (?:x{2})?
 *   (?m) is PCRE2's (?s);   [a[bc]] and [a&&b] are set union and intersection
 *   \p{Letter}, \p{^L}, \p{Han} (the script, not script extensions) and POSIX names as properties
 *   \uHHHH;   unknown escapes are literal letters. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "text/tok_regex.h"
#include "text/tok_unicode.h"

typedef struct tr { const char *p, *end, *start; buf *out; size_t atom; bool has_atom; int depth; } tr;

#define SPACE_SET "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WORD_SET "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define WORD_ALONE WORD_SET "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}" /* outside brackets \\w has these too: an old table, but so it is */
#define HEX_SET "0-9A-Fa-f"

static status bad(const tr *t, const char *what)
{
    return err_set(ST_INVALID, "bad regular expression: %s at position %zu", what, (size_t)(t->p - t->start));
}

/* The set of a one-letter class, NULL if it is none. */
static const char *class_set(char c)
{
    switch (c) {
    case 's': case 'S': return SPACE_SET;
    case 'w': case 'W': return WORD_SET;
    case 'd': case 'D': return "\\p{Nd}";
    case 'h': case 'H': return HEX_SET;
    default: return NULL;
    }
}

/* Appends elements of a class, and the code points of their categories that the library may be too old for. */
static void put_set(buf *out, const char *elements)
{
    static const struct { const char *name; uint32_t mask; } cats[] = {
        { "\\p{L}", UM_L }, { "\\p{Lu}", UM(UC_LU) }, { "\\p{Ll}", UM(UC_LL) }, { "\\p{Lt}", UM(UC_LT) }, { "\\p{Lm}", UM(UC_LM) }, { "\\p{Lo}", UM(UC_LO) },
        { "\\p{M}", UM_M }, { "\\p{Mn}", UM(UC_MN) }, { "\\p{Mc}", UM(UC_MC) }, { "\\p{N}", UM_N }, { "\\p{Nd}", UM(UC_ND) }, { "\\p{Nl}", UM(UC_NL) }, { "\\p{No}", UM(UC_NO) },
        { "\\p{P}", UM_P }, { "\\p{Po}", UM(UC_PO) }, { "\\p{Pd}", UM(UC_PD) }, { "\\p{S}", UM_S }, { "\\p{Sm}", UM(UC_SM) }, { "\\p{So}", UM(UC_SO) }, { "\\p{Sc}", UM(UC_SC) },
        { "\\p{Cf}", UM(UC_CF) }, { "\\p{Alphabetic}", UM_L | UM(UC_NL) }, { "\\p{Lowercase}", UM(UC_LL) }, { "\\p{Uppercase}", UM(UC_LU) },
    };
    uint32_t mask = 0;
    for (size_t i = 0; i < sizeof cats / sizeof *cats; i++)
        if (strstr(elements, cats[i].name)) mask |= cats[i].mask;
    buf_str(out, elements);
    if (mask) uni_recent_ranges(mask, false, out);
    if (strstr(elements, "\\p{sc:han}")) uni_recent_ranges(UM_L, true, out);
}

/* ---- properties ---- */

static const char *const property_names[][2] = {
    { "letter", "L" }, { "uppercaseletter", "Lu" }, { "lowercaseletter", "Ll" }, { "titlecaseletter", "Lt" }, { "modifierletter", "Lm" },
    { "otherletter", "Lo" }, { "mark", "M" }, { "combiningmark", "M" }, { "nonspacingmark", "Mn" }, { "spacingmark", "Mc" }, { "enclosingmark", "Me" },
    { "number", "N" }, { "decimalnumber", "Nd" }, { "letternumber", "Nl" }, { "othernumber", "No" }, { "punctuation", "P" },
    { "connectorpunctuation", "Pc" }, { "dashpunctuation", "Pd" }, { "openpunctuation", "Ps" }, { "closepunctuation", "Pe" },
    { "initialpunctuation", "Pi" }, { "finalpunctuation", "Pf" }, { "otherpunctuation", "Po" }, { "symbol", "S" }, { "mathsymbol", "Sm" },
    { "currencysymbol", "Sc" }, { "modifiersymbol", "Sk" }, { "othersymbol", "So" }, { "separator", "Z" }, { "spaceseparator", "Zs" },
    { "lineseparator", "Zl" }, { "paragraphseparator", "Zp" }, { "other", "C" }, { "control", "Cc" }, { "cntrl", "Cc" }, { "format", "Cf" },
    { "surrogate", "Cs" }, { "privateuse", "Co" }, { "unassigned", "Cn" }, { "digit", "Nd" }, { "any", "Any" },
};
/* POSIX names and others that are sets here. */
static const char *const property_sets[][2] = {
    { "space", SPACE_SET }, { "whitespace", SPACE_SET }, { "word", WORD_SET }, { "xdigit", HEX_SET }, { "blank", "\\t\\p{Zs}" }, { "ascii", "\\x{0}-\\x{7f}" },
    { "alpha", "\\p{Alphabetic}" }, { "upper", "\\p{Uppercase}" }, { "lower", "\\p{Lowercase}" }, { "alnum", "\\p{Alphabetic}\\p{Nd}" },
    { "punct", "\\p{P}" }, { "assigned", "\\P{Cn}" },
};
/* Properties of PCRE2 that are not scripts, besides categories: they keep their name. */
static const char *const binary_names[] = {
    "alphabetic", "uppercase", "lowercase", "math", "emoji", "emojipresentation", "emojimodifier", "emojimodifierbase", "emojicomponent",
    "extendedpictographic", "ideographic", "unifiedideograph", "dash", "hexdigit", "asciihexdigit", "diacritic", "cased", "caseignorable",
    "quotationmark", "whitespace", "variationselector", "regionalindicator", "joincontrol", "idstart", "idcontinue", "xidstart", "xidcontinue",
    "extender", "graphemebase", "graphemeextend", "terminalpunctuation", "sentenceterminal", "radical", "patternsyntax", "patternwhitespace",
    "noncharactercodepoint", "logicalorderexception", "softdotted", "defaultignorablecodepoint", "bidicontrol", "deprecated",
};

static bool listed(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], name) == 0) return true;
    return false;
}

/* \p{..} at t->p, which is behind the p: its elements for a class, and whether they are negated. */
static status property(tr *t, bool negated, buf *set, bool *negative)
{
    if (t->p >= t->end || *t->p != '{') return bad(t, "\\p without {");
    const char *close = memchr(t->p, '}', (size_t)(t->end - t->p));
    char name[64];
    size_t n = 0;
    if (!close) return bad(t, "\\p{ without }");
    for (const char *p = t->p + 1; p < close && n + 1 < sizeof name; p++) {
        if (*p == '^' && n == 0) negated = !negated;
        else if (*p != ' ' && *p != '_' && *p != '-') name[n++] = (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
    }
    name[n] = 0;
    t->p = close + 1;
    *negative = negated;
    for (size_t i = 0; i < sizeof property_sets / sizeof *property_sets; i++)
        if (strcmp(name, property_sets[i][0]) == 0) {
            buf_str(set, property_sets[i][1]);
            return ST_OK;
        }
    const char *mapped = NULL;
    for (size_t i = 0; i < sizeof property_names / sizeof *property_names && !mapped; i++)
        if (strcmp(name, property_names[i][0]) == 0) mapped = property_names[i][1];
    if (mapped) buf_printf(set, "\\p{%s}", mapped);
    else if (n <= 2 && n > 0) buf_printf(set, "\\p{%c%.1s}", name[0] - 32, name + 1);
    else if (listed(name, binary_names, sizeof binary_names / sizeof *binary_names)) buf_printf(set, "\\p{%s}", name);
    else buf_printf(set, "\\p{sc:%s}", name);
    return ST_OK;
}

/* ---- classes ---- */

/* A class is built as alternatives, each one character long: a plain set of elements, and sub-expressions. */
typedef struct cls { buf set, alts; } cls;

static void cls_free(cls *c)
{
    buf_free(&c->set);
    buf_free(&c->alts);
}

static void cls_alt(cls *c, const char *s, size_t n)
{
    if (c->alts.len) buf_char(&c->alts, '|');
    buf_append(&c->alts, s, n);
}

static void cls_set(cls *c, const char *elements, bool negated)
{
    if (!negated) {
        put_set(&c->set, elements);
        return;
    }
    if (c->alts.len) buf_char(&c->alts, '|');
    buf_str(&c->alts, "[^");
    put_set(&c->alts, elements);
    buf_char(&c->alts, ']');
}

/* Writes the class as an expression for one character. */
static void cls_write(const cls *c, bool negated, buf *out)
{
    if (c->alts.len == 0) {
        if (c->set.len == 0) buf_str(out, negated ? "(?s:.)" : "(?!)");
        else buf_printf(out, "[%s%s]", negated ? "^" : "", buf_cstr(&c->set));
        return;
    }
    buf_str(out, negated ? "(?:(?!" : "(?:");
    if (c->set.len) buf_printf(out, "[%s]|", buf_cstr(&c->set));
    buf_append(out, c->alts.data, c->alts.len);
    buf_str(out, negated ? ")(?s:.))" : ")");
}

static status class_at(tr *t, buf *out);

/* "[:alpha:]" at t->p inside a class. */
static bool posix(tr *t, cls *c)
{
    static const char *const names[] = { "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "xdigit", "word" };
    const char *p = t->p + 2;
    bool negated = p < t->end && *p == '^';
    p += negated;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i]);
        if ((size_t)(t->end - p) < n + 2 || memcmp(p, names[i], n) != 0 || p[n] != ':' || p[n + 1] != ']') continue;
        t->p = p + n + 2;
        for (size_t k = 0; k < sizeof property_sets / sizeof *property_sets; k++)
            if (strcmp(names[i], property_sets[k][0]) == 0) {
                cls_set(c, property_sets[k][1], negated);
                return true;
            }
        char s[32];
        snprintf(s, sizeof s, "[:%s:]", names[i]);
        cls_set(c, s, negated);
        return true;
    }
    return false;
}

static void hex_element(tr *t, buf *out, int max)
{
    buf_str(out, "\\x{");
    int k = 0;
    for (; k < max && t->p < t->end && strchr("0123456789abcdefABCDEF", *t->p) && *t->p; k++) buf_char(out, *t->p++);
    if (k == 0) buf_char(out, '0');
    buf_char(out, '}');
}

/* \x \u and octal numbers at t->p (behind the backslash): as \x{..}. */
static bool number_escape(tr *t, buf *out)
{
    char c = *t->p;
    if (c == 'x' && t->p + 1 < t->end && t->p[1] == '{') {
        t->p++;
        const char *close = memchr(t->p, '}', (size_t)(t->end - t->p));
        if (!close) return false;
        buf_str(out, "\\x");
        buf_append(out, t->p, (size_t)(close + 1 - t->p));
        t->p = close + 1;
        return true;
    }
    if (c != 'x' && c != 'u') return false;
    t->p++;
    hex_element(t, out, c == 'x' ? 2 : 4);
    return true;
}

static status class_escape(tr *t, cls *c)
{
    t->p++;
    if (t->p >= t->end) return bad(t, "a backslash at the end");
    char ch = *t->p;
    const char *set = class_set(ch);
    if (set) {
        t->p++;
        cls_set(c, set, ch >= 'A' && ch <= 'Z');
        return ST_OK;
    }
    if (ch == 'p' || ch == 'P') {
        buf s = {0};
        bool negative;
        t->p++;
        status st = property(t, ch == 'P', &s, &negative);
        if (st == ST_OK) cls_set(c, buf_cstr(&s), negative);
        buf_free(&s);
        return st;
    }
    if (number_escape(t, &c->set)) return ST_OK;
    t->p++;
    if (ch == 'v') buf_str(&c->set, "\\x{b}");
    else if (ch && strchr("abefnrt0", ch)) buf_printf(&c->set, ch == 'b' ? "\\x{8}" : ch == '0' ? "\\x{0}" : "\\%c", ch);
    else if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || (unsigned char)ch >= 0x80) buf_char(&c->set, ch);
    else buf_printf(&c->set, "\\%c", ch);
    return ST_OK;
}

/* Elements up to "]" or "&&" (not consumed). */
static status class_items(tr *t, cls *c)
{
    bool first = true, after_set = false;
    for (; t->p < t->end; first = false) {
        char ch = *t->p;
        bool dash = ch == '-' && after_set; /* not a range: what is before it is a set */
        after_set = false;
        if (ch == ']' && !first) return ST_OK;
        if (ch == '&' && t->p + 1 < t->end && t->p[1] == '&') return ST_OK;
        if (ch == '\\') {
            after_set = t->p + 1 < t->end && (class_set(t->p[1]) || t->p[1] == 'p' || t->p[1] == 'P');
            TRY(class_escape(t, c));
        } else if (ch == '[' && t->p + 1 < t->end && t->p[1] == ':' && posix(t, c)) {
            after_set = true;
        } else if (ch == '[') {
            buf sub = {0};
            status st = class_at(t, &sub);
            if (st == ST_OK) cls_alt(c, buf_cstr(&sub), sub.len);
            buf_free(&sub);
            TRY(st);
        } else {
            if (ch == ']' || ch == '^' || dash) buf_char(&c->set, '\\');
            if (ch == 0) buf_str(&c->set, "\\x{0}");
            else buf_char(&c->set, ch);
            t->p++;
        }
    }
    return bad(t, "a character class without ]");
}

/* A bracketed class at t->p, with what it intersects. */
static status class_at(tr *t, buf *out)
{
    if (++t->depth > 50) return err_set(ST_LIMIT, "bad regular expression: character classes are nested too deeply");
    t->p++;
    bool negated = t->p < t->end && *t->p == '^';
    t->p += negated;
    buf look = {0}; /* a&&b: looking whether the character is in a, then one that is in b */
    status st;
    for (bool last = false; !last;) {
        cls c = {0};
        buf one = {0};
        st = class_items(t, &c);
        if (st == ST_OK) {
            last = *t->p == ']';
            t->p += last ? 1 : 2;
            cls_write(&c, last && negated && look.len == 0, &one);
            if (!last) buf_printf(&look, "(?=%s)", buf_cstr(&one));
            else if (look.len == 0) buf_append(out, one.data, one.len);
            else buf_printf(out, negated ? "(?:(?!%s%s)(?s:.))" : "(?:%s%s)", buf_cstr(&look), buf_cstr(&one));
            if (c.set.failed || c.alts.failed || one.failed || look.failed || out->failed) st = err_nomem();
        }
        cls_free(&c);
        buf_free(&one);
        if (st != ST_OK) break;
    }
    buf_free(&look);
    t->depth--;
    return st;
}

/* ---- outside classes ---- */

static void one_of(tr *t, const char *elements, bool negated)
{
    buf_str(t->out, negated ? "[^" : "[");
    put_set(t->out, elements);
    buf_char(t->out, ']');
}

static void atom(tr *t) { t->atom = t->out->len; t->has_atom = true; }

static status escape(tr *t)
{
    t->p++;
    if (t->p >= t->end) return bad(t, "a backslash at the end");
    char ch = *t->p;
    const char *set = class_set(ch);
    atom(t);
    if (set) {
        t->p++;
        one_of(t, ch == 'w' || ch == 'W' ? WORD_ALONE : set, ch >= 'A' && ch <= 'Z');
        return ST_OK;
    }
    if (ch == 'p' || ch == 'P') {
        buf s = {0};
        bool negative;
        t->p++;
        status st = property(t, ch == 'P', &s, &negative);
        if (st == ST_OK) one_of(t, buf_cstr(&s), negative);
        buf_free(&s);
        return st;
    }
    if (number_escape(t, t->out)) return ST_OK;
    t->p++;
    if (ch == 'b' || ch == 'B') {
        buf_printf(t->out, ch == 'b' ? "(?:(?<=[%s])(?![%s])|(?<![%s])(?=[%s]))" : "(?:(?<=[%s])(?=[%s])|(?<![%s])(?![%s]))", WORD_ALONE, WORD_ALONE, WORD_ALONE, WORD_ALONE);
    } else if (ch == 'v') {
        buf_str(t->out, "\\x{b}");
    } else if (ch == 'O') {
        buf_str(t->out, "(?s:.)");
    } else if (ch && strchr("aefnrtAzZGRXKNkg0123456789", ch)) {
        buf_printf(t->out, "\\%c", ch);
        if (ch == 'k' || ch == 'g') /* the name belongs to the escape */
            while (t->p < t->end && *t->p != '>' && *t->p != '\'' ) buf_char(t->out, *t->p++);
    } else if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (unsigned char)ch >= 0x80) {
        buf_char(t->out, ch);
    } else {
        buf_printf(t->out, "\\%c", ch);
    }
    return ST_OK;
}

/* "(" and what belongs to it: option letters change their meaning. */
static void group(tr *t)
{
    if (t->p + 1 < t->end && t->p[1] == '?') {
        const char *p = t->p + 2;
        while (p < t->end && strchr("imxaud-", *p) && *p) p++;
        if (p > t->p + 2 && p < t->end && (*p == ':' || *p == ')')) {
            buf_str(t->out, "(?");
            for (const char *q = t->p + 2; q < p; q++)
                if (*q == 'i' || *q == 'x' || *q == '-') buf_char(t->out, *q);
                else if (*q == 'm') buf_char(t->out, 's');
            buf_char(t->out, *p);
            t->p = p + 1;
            return;
        }
        buf_str(t->out, "(?");
        t->p += 2;
        return;
    }
    buf_char(t->out, '(');
    t->p++;
}

/* "{n}", "{n,}", "{n,m}", "{,m}" at t->p; false if the brace is a literal. */
static bool interval(tr *t, int *lo, int *hi)
{
    const char *p = t->p + 1;
    int v[2] = { -1, -1 }, k = 0;
    for (; p < t->end && *p != '}'; p++) {
        if (*p == ',' && k == 0) k = 1;
        else if (*p >= '0' && *p <= '9' && v[k] < 100000) v[k] = (v[k] < 0 ? 0 : v[k] * 10) + (*p - '0');
        else return false;
    }
    if (p >= t->end || (v[0] < 0 && v[1] < 0)) return false;
    t->p = p + 1;
    *lo = v[0] < 0 ? 0 : v[0];
    *hi = k == 0 ? *lo : v[1];
    return true;
}

/* Wraps the last atom, so that a quantifier applies to atom and quantifier together. */
static status wrap(tr *t)
{
    buf b = {0};
    buf_printf(&b, "(?:%s)", buf_cstr(t->out) + t->atom);
    t->out->len = t->atom;
    buf_append(t->out, buf_cstr(&b), b.len);
    bool failed = b.failed;
    buf_free(&b);
    return failed ? err_nomem() : buf_status(t->out);
}

static status quantifier(tr *t)
{
    int lo, hi;
    char ch = *t->p;
    if (ch == '{') {
        if (!t->has_atom || !interval(t, &lo, &hi)) {
            atom(t);
            buf_str(t->out, "\\{");
            t->p++;
            return ST_OK;
        }
        if (hi < 0) buf_printf(t->out, "{%d,}", lo);
        else buf_printf(t->out, "{%d,%d}", lo, hi);
        char next = t->p < t->end ? *t->p : 0;
        if (next == '+' || next == '*' || next == '{' || (next == '?' && lo == hi)) return wrap(t);
        if (next == '?') {
            buf_char(t->out, '?');
            t->p++;
        }
        return ST_OK;
    }
    buf_char(t->out, ch);
    t->p++;
    if (t->p < t->end && (*t->p == '?' || *t->p == '+')) buf_char(t->out, *t->p++);
    /* a** and the like are legal in Ruby. */
    return t->p < t->end && strchr("*+?{", *t->p) ? wrap(t) : ST_OK;
}

enum { MAX_GROUPS = 200 };

status regex_translate(const char *pattern, size_t n, buf *out)
{
    tr t = { .p = pattern, .end = pattern + n, .start = pattern, .out = out };
    size_t open[MAX_GROUPS];
    int depth = 0;
    while (t.p < t.end) {
        char ch = *t.p;
        if (ch == '\\') {
            TRY(escape(&t));
        } else if (ch == '[') {
            atom(&t);
            TRY(class_at(&t, out));
        } else if (ch == '(') {
            if (depth == MAX_GROUPS) return err_set(ST_LIMIT, "bad regular expression: groups are nested too deeply");
            open[depth++] = out->len;
            t.has_atom = false;
            group(&t);
            if (out->len && out->data[out->len - 1] == ')') depth--; /* (?i) has no inside */
        } else if (ch == ')') {
            if (depth == 0) return bad(&t, "an unmatched )");
            t.atom = open[--depth];
            t.has_atom = true;
            buf_char(out, ')');
            t.p++;
        } else if (strchr("*+?{", ch) && ch) {
            TRY(quantifier(&t));
        } else if (ch == '|') {
            t.has_atom = false;
            buf_char(out, '|');
            t.p++;
        } else {
            if (((unsigned char)ch & 0xC0) != 0x80) atom(&t);
            if (ch == 0) buf_str(out, "\\x{0}");
            else buf_char(out, ch);
            t.p++;
        }
        TRY(buf_status(out));
    }
    if (depth) return bad(&t, "a group without )");
    return buf_status(out);
}
