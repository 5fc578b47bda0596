#include "text/tok_split.h"

#include <string.h>

#include "text/tok_unicode.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define O200K_WORD(upper, lower) "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]" upper "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]" lower CONTRACTIONS "?|"
#define O200K_WORDS (O200K_WORD("*", "+") O200K_WORD("+", "*") "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES)
#define LLAMA_WORDS(digits) (CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES)
#define DEEPSEEK_WORDS ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES)

static const char *const patterns[SPLIT_N_KINDS] = {
    [SPLIT_NONE] = "",
    [SPLIT_GPT2] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    [SPLIT_LLAMA3] = LLAMA_WORDS("{1,3}"),
    [SPLIT_QWEN2] = LLAMA_WORDS(""),
    [SPLIT_O200K] = O200K_WORDS,
    [SPLIT_DEEPSEEK_NUM] = "\\p{N}{1,3}",
    [SPLIT_DEEPSEEK_CJK] = "[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+",
    [SPLIT_DEEPSEEK_WORD] = DEEPSEEK_WORDS,
};

split_kind split_recognise(const char *pattern, size_t n)
{
    for (int k = SPLIT_NONE + 1; k < SPLIT_N_KINDS; k++)
        if (strlen(patterns[k]) == n && memcmp(patterns[k], pattern, n) == 0) return (split_kind)k;
    return SPLIT_NONE;
}

const char *split_pattern(split_kind k) { return patterns[k]; }

typedef struct text { const char *s; size_t n; } text;

/* Mask of the character at i and the position after it; 0 at the end of the text. */
static inline uint32_t peek(text t, size_t i, size_t *after)
{
    *after = i;
    if (i >= t.n) return 0;
    return uni_mask(uni_next(t.s, after));
}

/* End of the run of characters in `set` that starts at i. */
static inline size_t run(text t, size_t i, uint32_t set)
{
    while (i < t.n) {
        size_t j = i;
        if (!(uni_mask(uni_next(t.s, &j)) & set)) break;
        i = j;
    }
    return i;
}

static inline size_t run_up_to(text t, size_t i, uint32_t set, int max)
{
    size_t after;
    for (; max > 0 && (peek(t, i, &after) & set); max--) i = after;
    return i;
}

/* Length of a contraction at i ('s 't 'm 'd 're 've 'll), 0 if none. */
static size_t contraction(text t, size_t i, bool any_case)
{
    if (i + 1 >= t.n || t.s[i] != '\'') return 0;
    unsigned char a = (unsigned char)t.s[i + 1], b = i + 2 < t.n ? (unsigned char)t.s[i + 2] : 0;
    if (any_case) {
        if (a == 0xC5 && b == 0xBF) return 3; /* the long s is an s in another case */
        if (a >= 'A' && a <= 'Z') a |= 32;
        if (b >= 'A' && b <= 'Z') b |= 32;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return 0;
}

/* \s+(?!\S)|\s+ on the run [i, end): all but the last character if something follows. */
static size_t spaces(text t, size_t i, size_t end)
{
    if (end == t.n) return end;
    size_t last = uni_back(t.s, end);
    return last > i ? last : end;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ with a space at i: up to the last line break of the run if there is one. */
static size_t spaces_lines(text t, size_t i)
{
    size_t end = i, last_break = 0;
    while (end < t.n) {
        size_t j = end;
        uint32_t m = uni_mask(uni_next(t.s, &j));
        if (!(m & UM_SPACE)) break;
        end = j;
        if (m & UM_CRLF) last_break = end;
    }
    return last_break ? last_break : spaces(t, i, end);
}

/* Everything but space, L and N. (Unassigned code points included.) */
#define OTHER (~(UM_SPACE | UM_CRLF | UM_L | UM_N))

static size_t match_gpt2(text t, size_t i)
{
    size_t len = contraction(t, i, false);
    if (len) return i + len;
    size_t after, j = i;
    uint32_t m = peek(t, i, &after);
    if (t.s[i] == ' ') {
        uint32_t m2 = peek(t, i + 1, &after);
        if (m2 == 0 || (m2 & UM_SPACE)) return spaces(t, i, run(t, i, UM_SPACE));
        m = m2;
        j = i + 1;
    }
    if (m & UM_L) return run(t, j, UM_L);
    if (m & UM_N) return run(t, j, UM_N);
    if (m & UM_SPACE) return spaces(t, i, run(t, i, UM_SPACE));
    return run(t, j, OTHER);
}

/* " ?[^\s\p{L}\p{N}]+" at i followed by any of `tail` (line breaks, and '/' when slash); i if it does not match. */
static size_t punctuation(text t, size_t i, bool slash)
{
    size_t j = t.s[i] == ' ' ? i + 1 : i, end = run(t, j, OTHER);
    if (end == j) return i;
    while (end < t.n && (t.s[end] == '\r' || t.s[end] == '\n' || (slash && t.s[end] == '/'))) end++;
    return end;
}

static size_t match_llama3(text t, size_t i, int digits)
{
    size_t len = contraction(t, i, true), after, next;
    if (len) return i + len;
    uint32_t m = peek(t, i, &after);
    if (m & UM_L) return run(t, after, UM_L);
    if (m & UM_N) return run_up_to(t, after, UM_N, digits - 1);
    if (!(m & UM_CRLF) && (peek(t, after, &next) & UM_L)) return run(t, next, UM_L);
    size_t end = punctuation(t, i, false);
    return end > i ? end : spaces_lines(t, i);
}

#define UPPERS (UM(UC_LU) | UM(UC_LT) | UM(UC_LM) | UM(UC_LO) | UM_M)
#define LOWERS (UM(UC_LL) | UM(UC_LM) | UM(UC_LO) | UM_M)

/* [UPPERS]*[LOWERS]+ | [UPPERS]+[LOWERS]* at i, in that order of preference, with the backtracking that the first
 * implies: caseless letters are in both sets. Returns i if neither matches. */
static size_t cased_word(text t, size_t i)
{
    size_t j = i, both_end = i, after;
    uint32_t m;
    while ((m = peek(t, j, &after)) & UPPERS) {
        j = after;
        if (m & LOWERS) both_end = j;
    }
    if (m & LOWERS) return run(t, after, LOWERS);
    return both_end > i ? both_end : j;
}

static size_t match_o200k(text t, size_t i)
{
    size_t after, end = i;
    uint32_t m = peek(t, i, &after);
    if (!(m & (UM_CRLF | UM_L | UM_N))) {
        end = cased_word(t, after);
        if (end == after) end = i;
        /* A mark may also be the word itself, when no word follows it. With a capital behind it the first alternative,
         * tried with the mark as prefix, wins only if lower case follows; otherwise the mark alone does. */
        if (m & UM_M) {
            size_t k = after, next;
            uint32_t w = 0;
            bool first = false;
            while ((w = peek(t, k, &next)) & UPPERS) {
                first |= (w & LOWERS) != 0;
                k = next;
            }
            first |= (w & LOWERS) != 0;
            if (!first) end = cased_word(t, i);
        }
    } else if (m & UM_L) {
        end = cased_word(t, i);
    }
    if (end > i) return end + contraction(t, end, true);
    if (m & UM_N) return run_up_to(t, after, UM_N, 2);
    end = punctuation(t, i, true);
    return end > i ? end : spaces_lines(t, i);
}

static bool ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* Returns i where nothing matches: digits and controls are gaps between matches here. */
static size_t match_deepseek(text t, size_t i)
{
    size_t after, next;
    uint32_t m = peek(t, i, &after);
    if ((unsigned char)t.s[i] < 0x80 && (m & (UM_P | UM_S)) && i + 1 < t.n && ascii_letter(t.s[i + 1])) {
        size_t j = i + 1;
        while (j < t.n && ascii_letter(t.s[j])) j++;
        return j;
    }
    if (m & (UM_L | UM_M)) return run(t, after, UM_L | UM_M);
    if (!(m & (UM_CRLF | UM_P | UM_S)) && (peek(t, after, &next) & (UM_L | UM_M))) return run(t, next, UM_L | UM_M);
    size_t j = t.s[i] == ' ' ? i + 1 : i, end = run(t, j, UM_P | UM_S);
    if (end > j) {
        while (end < t.n && (t.s[end] == '\r' || t.s[end] == '\n')) end++;
        return end;
    }
    return m & UM_SPACE ? spaces_lines(t, i) : i;
}

static bool is_cjk(uint32_t c) { return (c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF); }

static size_t match_cjk(text t, size_t i)
{
    for (size_t j = i; i < t.n && is_cjk(uni_next(t.s, &j)); i = j) {}
    return i;
}

bool split_next(split_kind k, const char *s, size_t n, size_t pos, size_t *from, size_t *to)
{
    text t = { s, n };
    while (pos < n) {
        size_t end = pos;
        switch (k) {
        case SPLIT_GPT2: end = match_gpt2(t, pos); break;
        case SPLIT_LLAMA3: end = match_llama3(t, pos, 3); break;
        case SPLIT_QWEN2: end = match_llama3(t, pos, 1); break;
        case SPLIT_O200K: end = match_o200k(t, pos); break;
        case SPLIT_DEEPSEEK_NUM: end = run_up_to(t, pos, UM_N, 3); break;
        case SPLIT_DEEPSEEK_CJK: end = match_cjk(t, pos); break;
        case SPLIT_DEEPSEEK_WORD: end = match_deepseek(t, pos); break;
        case SPLIT_NONE: case SPLIT_N_KINDS: break;
        }
        if (end > pos) {
            *from = pos;
            *to = end;
            return true;
        }
        uni_next(s, &pos);
    }
    return false;
}
