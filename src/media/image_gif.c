/* GIF, ours: the first frame on the logical screen. Sources: GIF89a specification; LZW with variable code size, Welch 1984. */
#include <string.h>

#include "base/mem.h"
#include "media/image_int.h"

enum { MAX_CODES = 4096, SCREEN_BYTES = 13, NO_COLOUR = -1 };

typedef struct gif {
    const uint8_t *p; size_t n, at;
    const uint8_t *palette; int colours;    /* colours * 3 bytes */
    int transparent;                        /* an index, or NO_COLOUR */
    size_t block_left;                      /* bytes of the current data sub-block not yet read */
    uint32_t bits; int n_bits;
} gif;

static status early_end(void) { return err_set(ST_INVALID, "broken GIF: the file ends early"); }
static unsigned u16(const uint8_t *p) { return p[0] | (unsigned)p[1] << 8; }

static status palette_at(gif *g, int flags)
{
    const int colours = 2 << (flags & 7);
    if ((size_t)colours * 3 > g->n - g->at) return early_end();
    g->palette = g->p + g->at;
    g->colours = colours;
    g->at += (size_t)colours * 3;
    return ST_OK;
}

static status skip_blocks(gif *g)
{
    for (;;) {
        if (g->at >= g->n) return early_end();
        const size_t len = g->p[g->at++];
        if (len == 0) return ST_OK;
        if (len > g->n - g->at) return early_end();
        g->at += len;
    }
}

/* Extensions up to the first image; only the graphic control has anything that matters. */
static status find_image(gif *g)
{
    while (g->at < g->n) {
        const uint8_t kind = g->p[g->at++];
        if (kind == 0x2c) return ST_OK;
        if (kind != 0x21) return err_set(ST_INVALID, "broken GIF: no image");
        if (g->n - g->at < 7) return early_end();
        const uint8_t *e = g->p + g->at;
        if (e[0] == 0xf9 && e[1] == 4) g->transparent = e[2] & 1 ? e[5] : NO_COLOUR;
        g->at++;
        TRY(skip_blocks(g));
    }
    return early_end();
}

static int next_byte(gif *g)
{
    if (g->block_left == 0) {
        if (g->at >= g->n || g->p[g->at] == 0) return -1;
        g->block_left = g->p[g->at++];
    }
    if (g->at >= g->n) return -1;
    g->block_left--;
    return g->p[g->at++];
}

static int next_code(gif *g, int size)
{
    while (g->n_bits < size) {
        const int b = next_byte(g);
        if (b < 0) return -1;
        g->bits |= (uint32_t)b << g->n_bits;
        g->n_bits += 8;
    }
    const int code = (int)(g->bits & ((1u << size) - 1));
    g->bits >>= size;
    g->n_bits -= size;
    return code;
}

/* Fills out[0..n) with colour indices. A code's string is its prefix's and one more, so it is written backwards. */
static status lzw(gif *g, int first_size, uint8_t *out, size_t n)
{
    uint16_t prefix[MAX_CODES];
    uint8_t suffix[MAX_CODES], stack[MAX_CODES + 1];
    const int clear = 1 << first_size, end = clear + 1;
    int size = first_size + 1, next = end + 1, last = -1, first = 0;
    for (int i = 0; i < clear; i++) suffix[i] = (uint8_t)i;
    for (size_t done = 0; done < n;) {
        int code = next_code(g, size), depth = 0;
        if (code < 0 || code == end) return early_end();
        if (code == clear) {
            size = first_size + 1;
            next = end + 1;
            last = -1;
            continue;
        }
        if (code > next || (code == next && last < 0) || (last < 0 && code >= clear)) return err_set(ST_INVALID, "broken GIF: code %d of %d", code, next);
        const int this = code;
        if (code == next) {
            stack[depth++] = (uint8_t)first;
            code = last;
        }
        for (; code >= clear; code = prefix[code]) stack[depth++] = suffix[code];
        first = code;
        stack[depth++] = (uint8_t)first;
        while (depth > 0 && done < n) out[done++] = stack[--depth];
        if (last >= 0 && next < MAX_CODES) {
            prefix[next] = (uint16_t)last;
            suffix[next++] = (uint8_t)first;
            if (next == 1 << size && size < 12) size++;
        }
        last = this;
    }
    return ST_OK;
}

/* The row that stored row i is, with the four passes of an interlaced image. */
static int row_of(int i, int height, bool interlaced)
{
    static const int from[] = { 0, 4, 2, 1 }, step[] = { 8, 8, 4, 2 };
    if (!interlaced) return i;
    for (int pass = 0; pass < 4; pass++) {
        const int rows = height > from[pass] ? (height - from[pass] + step[pass] - 1) / step[pass] : 0;
        if (i < rows) return from[pass] + i * step[pass];
        i -= rows;
    }
    return 0;
}

static void paint(const gif *g, frame *f, size_t pixel, int index)
{
    static const uint8_t black[3];
    uint8_t *dst = f->data + pixel * (size_t)f->channels;
    memcpy(dst, index < g->colours ? g->palette + (size_t)index * 3 : black, 3);
    if (f->channels == 4) dst[3] = index == g->transparent ? 0 : 255;
}

status image_gif(const uint8_t *data, size_t n, const image_options *o, frame *f)
{
    gif g = { .p = data, .n = n, .at = SCREEN_BYTES, .transparent = NO_COLOUR };
    if (n < SCREEN_BYTES) return early_end();
    if (data[10] & 0x80) TRY(palette_at(&g, data[10]));
    TRY(find_image(&g));
    if (g.n - g.at < 10) return early_end();
    const uint8_t *d = data + g.at;
    const int left = (int)u16(d), top = (int)u16(d + 2), width = (int)u16(d + 4), height = (int)u16(d + 6), flags = d[8];
    g.at += 9;
    if (flags & 0x80) TRY(palette_at(&g, flags));
    if (!g.palette) return err_set(ST_INVALID, "broken GIF: no palette");
    if (g.at >= g.n || g.p[g.at] < 1 || g.p[g.at] > 8) return err_set(ST_INVALID, "broken GIF: bad code size");
    const int code_size = g.p[g.at++];
    int w = (int)u16(data + 6), h = (int)u16(data + 8); /* the screen grows to hold the frame */
    if (left + width > w) w = left + width;
    if (top + height > h) h = top + height;
    if (width == 0 || height == 0) return err_set(ST_INVALID, "broken GIF: an empty frame");
    TRY(frame_alloc(f, w, h, g.transparent == NO_COLOUR ? 3 : 4, o));
    uint8_t *indices = mem_array((size_t)width, (size_t)height);
    if (!indices) return err_nomem();
    const status st = lzw(&g, code_size, indices, (size_t)width * (size_t)height);
    for (size_t i = 0; st == ST_OK && i < (size_t)w * (size_t)h; i++) paint(&g, f, i, g.transparent == NO_COLOUR ? 0 : g.transparent);
    for (int y = 0; st == ST_OK && y < height; y++)
        for (int x = 0; x < width; x++)
            paint(&g, f, (size_t)(top + row_of(y, height, flags & 0x40)) * (size_t)w + (size_t)(left + x), indices[(size_t)y * (size_t)width + (size_t)x]);
    mem_free(indices);
    return st;
}
