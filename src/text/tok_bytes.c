/* GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and up, so that any bytes
 * can be spelled in a JSON string. */
#include <pthread.h>
#include <string.h>

#include "text/tok_int.h"

static uint16_t symbol[256];   /* byte -> code point, all below U+0144 */
static int16_t byte_of[0x144]; /* code point -> byte or -1 */

static bool printable(int b) { return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; }

static void fill(void)
{
    memset(byte_of, 0xFF, sizeof byte_of);
    int next = 0x100;
    for (int b = 0; b < 256; b++) {
        symbol[b] = (uint16_t)(printable(b) ? b : next++);
        byte_of[symbol[b]] = (int16_t)b;
    }
}

static void ready(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
}

void bytes_to_symbols(const char *s, size_t n, buf *out)
{
    ready();
    char *p = buf_reserve(out, n * 2);
    if (!p) return;
    char *q = p;
    for (size_t i = 0; i < n; i++) {
        unsigned c = symbol[(unsigned char)s[i]];
        if (c < 0x80) {
            *q++ = (char)c;
        } else {
            *q++ = (char)(0xC0 | c >> 6);
            *q++ = (char)(0x80 | (c & 0x3F));
        }
    }
    out->len += (size_t)(q - p);
    out->data[out->len] = 0;
}

bool bytes_from_symbols(const char *s, size_t n, buf *out)
{
    ready();
    char *p = buf_reserve(out, n);
    if (!p) return true; /* the caller sees out->failed */
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp = uni_next(s, &i);
        if (cp >= 0x144 || byte_of[cp] < 0) return false;
        p[k++] = (char)byte_of[cp];
    }
    out->len += k;
    out->data[out->len] = 0;
    return true;
}

int bytes_fallback(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int v = 0;
    for (int i = 3; i < 5; i++) {
        char c = s[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        /* Rust's parser takes a sign in front of one digit. */
        if (d < 0 && !(i == 3 && c == '+')) return -1;
        v = v * 16 + (d < 0 ? 0 : d);
    }
    return v;
}
