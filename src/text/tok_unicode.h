/* Character properties, case and normalisation for the tokenizers. Code points are valid Unicode scalars; texts are
 * valid UTF-8 (tokenizer_encode repairs its input first). All functions are pure after uni_init and safe on any thread. */
#ifndef SYSTOLIC_TEXT_TOK_UNICODE_H
#define SYSTOLIC_TEXT_TOK_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* General categories, in the order of tok_unicode_data.h. */
enum {
    UC_CN, UC_LU, UC_LL, UC_LT, UC_LM, UC_LO, UC_MN, UC_MC, UC_ME, UC_ND, UC_NL, UC_NO, UC_PC, UC_PD, UC_PS, UC_PE,
    UC_PI, UC_PF, UC_PO, UC_SM, UC_SC, UC_SK, UC_SO, UC_ZS, UC_ZL, UC_ZP, UC_CC, UC_CF, UC_CS, UC_CO,
    UC_N_CATEGORIES
};
#define UM(cat) (1u << (cat))
#define UM_L (UM(UC_LU) | UM(UC_LL) | UM(UC_LT) | UM(UC_LM) | UM(UC_LO))
#define UM_M (UM(UC_MN) | UM(UC_MC) | UM(UC_ME))
#define UM_N (UM(UC_ND) | UM(UC_NL) | UM(UC_NO))
#define UM_P (UM(UC_PC) | UM(UC_PD) | UM(UC_PS) | UM(UC_PE) | UM(UC_PI) | UM(UC_PF) | UM(UC_PO))
#define UM_S (UM(UC_SM) | UM(UC_SC) | UM(UC_SK) | UM(UC_SO))
/* Not a category: White_Space, which cuts across Zs, Zl, Zp and Cc. uni_mask never reports a category for those. */
#define UM_SPACE UM(UC_N_CATEGORIES)
#define UM_CRLF UM(UC_N_CATEGORIES + 1)

/* Fills the tables; cheap when already done. tokenizer_new calls it. */
void uni_init(void);
extern uint8_t uni_class[0x110000];               /* index into uni_masks */
extern const uint32_t uni_masks[UC_N_CATEGORIES + 3];

static inline unsigned uni_cat_class(uint32_t cp) { return uni_class[cp]; }
/* One UM_ bit of the category, or UM_SPACE (| UM_CRLF for \r and \n) for white space. */
static inline uint32_t uni_mask(uint32_t cp) { return uni_masks[uni_class[cp]]; }
/* The category, also of white space. */
unsigned uni_category(uint32_t cp);
static inline bool uni_is_space(uint32_t cp) { return (uni_mask(cp) & UM_SPACE) != 0; }
/* \w as the added-token matcher and the Whitespace pre-tokenizer mean it: Alphabetic, M, Nd, Pc, Join_Control. */
bool uni_is_word(uint32_t cp);

/* The libraries the package is built on know different Unicode versions; results must not depend on ours being newer.
 * Version that brought cp: 8 (or before), 9, 14 (10 to 14, or none yet) or 16. */
int uni_age(uint32_t cp);
/* Appends the code points of these categories (and Han, if han) that came with Unicode 15 or 16, as ranges "\x{..}-\x{..}"
 * for a character class: PCRE2 before 10.45 does not know them all. */
void uni_recent_ranges(uint32_t categories, bool han, buf *out);
/* As of Unicode 8: P; Mn; Cc, Cf or Co. As of Unicode 9: M. As of 17: N. */
bool uni_is_punctuation_8(uint32_t cp);
bool uni_is_nonspacing_8(uint32_t cp);
bool uni_is_control_8(uint32_t cp);
bool uni_is_mark_9(uint32_t cp);
bool uni_is_numeric(uint32_t cp);

/* Decodes one code point of valid UTF-8. */
static inline uint32_t uni_next(const char *s, size_t *i)
{
    const unsigned char *p = (const unsigned char *)s + *i;
    uint32_t c = p[0];
    if (c < 0x80) { *i += 1; return c; }
    if (c < 0xE0) { *i += 2; return (c & 0x1F) << 6 | (p[1] & 0x3Fu); }
    if (c < 0xF0) { *i += 3; return (c & 0x0F) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu); }
    *i += 4;
    return (c & 0x07) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
}
/* Start of the character that ends before s[i], i > 0. */
static inline size_t uni_back(const char *s, size_t i)
{
    do i--; while (i > 0 && ((unsigned char)s[i] & 0xC0) == 0x80);
    return i;
}

/* Appends the lower case of cp (full, without locale or context: U+0130 becomes two). */
void uni_lower(buf *out, uint32_t cp);
typedef enum { UNI_NFC, UNI_NFD, UNI_NFKC, UNI_NFKD } uni_form;
/* Appends s[0..n) in that form. Work is linear except for sorting runs of combining marks. */
status uni_normalize(uni_form form, const char *s, size_t n, buf *out) FALLIBLE;
/* True if s is certainly in the form already (so uni_normalize would copy it). */
bool uni_is_normal(uni_form form, const char *s, size_t n);
/* True if there is an extended grapheme cluster boundary between two code points; *state starts at 0. */
bool uni_grapheme_break(uint32_t a, uint32_t b, int32_t *state);

/* The script as the UnicodeScripts pre-tokenizer groups them: kana count as Han, the space and unassigned as ANY. */
enum { UNI_SCRIPT_ANY = 0 };
int uni_script(uint32_t cp);

#endif
