#include "text/tok_unicode.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/tok_unicode_data.h"
#include "text/unicode.h"

/* Classes are categories, except that white space has two of its own: tests on runs of space are the hottest ones. */
enum { CLASS_SPACE = UC_N_CATEGORIES, CLASS_CRLF, CLASS_PAD };

uint8_t uni_class[0x110000];
const uint32_t uni_masks[UC_N_CATEGORIES + 3] = {
    UM(0), UM(1), UM(2), UM(3), UM(4), UM(5), UM(6), UM(7), UM(8), UM(9), UM(10), UM(11), UM(12), UM(13), UM(14), UM(15),
    UM(16), UM(17), UM(18), UM(19), UM(20), UM(21), UM(22), UM(23), UM(24), UM(25), UM(26), UM(27), UM(28), UM(29),
    UM_SPACE, UM_SPACE | UM_CRLF, 0,
};

static void fill(void)
{
    size_t n = sizeof uni_runs / sizeof *uni_runs;
    for (size_t i = 0; i < n; i++) {
        uint32_t from = uni_runs[i] >> 5, to = i + 1 < n ? uni_runs[i + 1] >> 5 : 0x110000;
        memset(uni_class + from, (int)(uni_runs[i] & 31), to - from);
    }
    static const uint16_t spaces[] = { 9, 11, 12, 32, 0x85, 0xA0, 0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006,
                                       0x2007, 0x2008, 0x2009, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 };
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) uni_class[spaces[i]] = CLASS_SPACE;
    uni_class['\n'] = uni_class['\r'] = CLASS_CRLF;
}

void uni_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
}

unsigned uni_category(uint32_t cp)
{
    unsigned c = uni_class[cp];
    if (c < UC_N_CATEGORIES) return c;
    if (cp < 0x20 || cp == 0x85) return UC_CC;
    return cp == 0x2028 ? UC_ZL : cp == 0x2029 ? UC_ZP : UC_ZS;
}

bool uni_is_word(uint32_t cp)
{
    if (uni_mask(cp) & (UM_L | UM_M | UM(UC_ND) | UM(UC_NL) | UM(UC_PC))) return true;
    /* Other_Alphabetic outside L, M and Nl, and Join_Control. */
    return (cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) ||
           (cp >= 0x1F170 && cp <= 0x1F189) || cp == 0x200C || cp == 0x200D;
}

/* The value of the run that holds cp. */
static uint32_t run_of(const uint32_t *runs, size_t n, int shift, uint32_t cp)
{
    size_t lo = 0, hi = n;
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (runs[mid] >> shift <= cp) lo = mid;
        else hi = mid;
    }
    return runs[lo] & ((1u << shift) - 1);
}

enum { N_AGE_RUNS = sizeof uni_age_runs / sizeof *uni_age_runs };

int uni_age(uint32_t cp)
{
    static const int ages[] = { 8, 9, 14, 16 };
    return ages[run_of(uni_age_runs, N_AGE_RUNS, 2, cp)];
}

static bool in_recent(uint32_t cp, uint32_t categories, bool han)
{
    return (UM(uni_category(cp)) & categories) != 0 && (!han || uni_script(cp) == SCRIPT_HAN);
}

void uni_recent_ranges(uint32_t categories, bool han, buf *out)
{
    for (size_t i = 0; i + 1 < N_AGE_RUNS; i++) {
        if ((uni_age_runs[i] & 3) != 3) continue;
        uint32_t end = uni_age_runs[i + 1] >> 2;
        for (uint32_t cp = uni_age_runs[i] >> 2, from; cp < end; cp++) {
            if (!in_recent(cp, categories, han)) continue;
            for (from = cp; cp + 1 < end && in_recent(cp + 1, categories, han);) cp++;
            buf_printf(out, from == cp ? "\\x{%x}" : "\\x{%x}-\\x{%x}", from, cp);
        }
    }
}

/* The few code points that later changed their category are named. */
bool uni_is_punctuation_8(uint32_t cp)
{
    if (!(uni_mask(cp) & UM_P)) return cp == 0x166D || cp == 0x111C9;
    return cp < 0x300 || uni_age(cp) <= 8;
}

bool uni_is_nonspacing_8(uint32_t cp)
{
    if (uni_mask(cp) != UM(UC_MN)) return cp == 0x1734 || cp == 0x1171E;
    return uni_age(cp) <= 8 && cp != 0x1885 && cp != 0x1886 && cp != 0xA9BD && cp != 0x111C9;
}

bool uni_is_control_8(uint32_t cp)
{
    unsigned c = uni_category(cp);
    return c == UC_CC || c == UC_CO || (c == UC_CF && uni_age(cp) <= 8);
}

bool uni_is_mark_9(uint32_t cp)
{
    if (!(uni_mask(cp) & UM_M)) return cp == 0x1CF2 || cp == 0x1CF3;
    return uni_age(cp) <= 9 && cp != 0x111C9;
}

bool uni_is_numeric(uint32_t cp)
{
    return (uni_mask(cp) & UM_N) != 0 || (cp >= 0x11DE0 && cp <= 0x11DE9) || (cp >= 0x16FF4 && cp <= 0x16FF6);
}

int uni_script(uint32_t cp)
{
    if (cp == ' ' || (cp > 0x370 && uni_age(cp) > 9)) return UNI_SCRIPT_ANY;
    if (cp == 0x30FC) return SCRIPT_HAN; /* the long vowel mark */
    int s = (int)run_of(uni_script_runs, sizeof uni_script_runs / sizeof *uni_script_runs, 8, cp);
    return s == SCRIPT_HIRAGANA || s == SCRIPT_KATAKANA ? SCRIPT_HAN : s;
}

/* Capitals of Unicode 16 and 17, for libraries that do not know them. */
static uint32_t recent_lower(uint32_t cp)
{
    if ((cp >= 0x10D50 && cp <= 0x10D65)) return cp + 32;
    if (cp >= 0x16EA0 && cp <= 0x16EB8) return cp + 27;
    switch (cp) {
    case 0x1C89: case 0xA7CC: case 0xA7CE: case 0xA7D2: case 0xA7D4: case 0xA7DA: return cp + 1;
    case 0xA7CB: return 0x264;
    case 0xA7DC: return 0x19B;
    default: return cp;
    }
}

void uni_lower(buf *out, uint32_t cp)
{
    if (cp < 0x80) {
        buf_char(out, (char)(cp >= 'A' && cp <= 'Z' ? cp + 32 : cp));
    } else if (cp == 0x130) {
        buf_str(out, "i\xCC\x87");
    } else {
        uint32_t lower = unicode_simple_lower(cp);
        buf_utf8(out, lower != cp ? lower : recent_lower(cp));
    }
}

bool uni_grapheme_break(uint32_t a, uint32_t b, int32_t *state)
{
    return unicode_grapheme_break(a, b, state);
}

/* ---- normalisation ----
 * The text is cut at characters that cannot interact with what precedes them (ccc 0 and not the second half of a
 * composition), so that memory stays small and most of a text takes the copying path. */

enum { SEG = 128 };

/* Characters below these bounds are unchanged and never combine with what is before them. */
static uint32_t inert_below(uni_form f)
{
    switch (f) {
    case UNI_NFC: return 0x300;
    case UNI_NFD: return 0xC0;
    case UNI_NFKC: case UNI_NFKD: return 0xA0;
    }
    return 0;
}

/* A character that starts a segment: nothing before it can change it or be changed by it. */
static bool starts_segment(uint32_t cp)
{
    if (cp < 0x300) return true;
    /* Hangul vowels and trailing consonants compose with what precedes. */
    if (cp >= 0x1160 && cp <= 0x11FF) return false;
    if ((cp >= 0x3131 && cp <= 0x318E) || (cp >= 0xFFA0 && cp <= 0xFFDC)) return false; /* compatibility forms of those */
    unsigned cat = uni_category(cp);
    if (UM(cat) & UM_M) return false;
    if (unicode_combining_class(cp) != 0) return false;
    /* A few letters decompose into marks first (half-width voiced marks): keep them with what precedes. */
    return !unicode_has_decomposition(cp) || (UM(cat) & UM(UC_LM)) == 0;
}

bool uni_is_normal(uni_form form, const char *s, size_t n)
{
    uint32_t bound = inert_below(form);
    for (size_t i = 0; i < n;) {
        if ((unsigned char)s[i] < 0x80) {
            i++;
            continue;
        }
        uint32_t cp = uni_next(s, &i);
        if (cp < bound) continue;
        /* CJK ideographs and kana without voicing are the rest of what is common. */
        if (cp >= 0x4E00 && cp <= 0x9FFF) continue;
        if (form == UNI_NFC && ((cp >= 0xAC00 && cp <= 0xD7A3) || (cp >= 0x3041 && cp <= 0x3096) || (cp >= 0x30A0 && cp <= 0x30FA) ||
                                (cp >= 0x400 && cp <= 0x482) || (cp >= 0x2010 && cp <= 0x2027) || (cp >= 0x3001 && cp <= 0x3029)))
            continue;
        return false;
    }
    return true;
}

static status segment(uni_form form, const char *s, size_t n, buf *out)
{
    int32_t fixed[SEG * 4], *cps = fixed;
    bool compose = form == UNI_NFC || form == UNI_NFKC, compat = form == UNI_NFKC || form == UNI_NFKD;
    int64_t len = unicode_normalize(s, n, compose, compat, cps, SEG * 4);
    if (len > SEG * 4) {
        size_t cap = (size_t)len + 1;
        cps = mem_array(cap, sizeof *cps);
        if (!cps) return err_nomem();
        len = unicode_normalize(s, n, compose, compat, cps, cap);
    }
    for (int64_t i = 0; i < len; i++) buf_utf8(out, (uint32_t)cps[i]);
    if (cps != fixed) mem_free(cps);
    return len < 0 ? err_set(ST_INTERNAL, "normalisation failed with code %lld", (long long)len) : ST_OK;
}

/* The package's normalization tables are those of Unicode 9: what came later is left alone and separates. */
static bool opaque(uint32_t cp) { return cp >= 0x370 && !(cp >= 0x3400 && cp <= 0x9FFF) && !(cp >= 0xAC00 && cp <= 0xD7A3) && uni_age(cp) > 9; }

status uni_normalize(uni_form form, const char *s, size_t n, buf *out)
{
    uint32_t bound = inert_below(form);
    size_t i = 0;
    while (i < n) {
        /* A run of inert characters is copied, except its last one, which may take a mark. */
        size_t from = i, last = i, j = i;
        uint32_t cp = 0;
        while (i < n) {
            j = i;
            cp = uni_next(s, &j);
            if (cp >= bound && !opaque(cp)) break;
            last = i;
            i = cp < bound ? j : (last = j);
        }
        if (i == n) {
            buf_append(out, s + from, n - from);
            break;
        }
        buf_append(out, s + from, last - from);
        /* The segment runs to the next pair of characters that cannot interact. */
        size_t seg = last;
        for (i = j; i < n; i = j) {
            j = i;
            cp = uni_next(s, &j);
            if (opaque(cp) || (starts_segment(cp) && (cp < bound || i - seg > SEG))) break;
        }
        TRY(segment(form, s + seg, i - seg, out));
    }
    return buf_status(out);
}
