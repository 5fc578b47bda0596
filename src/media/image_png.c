/* PNG by libpng: any colour type and depth to 8-bit RGB or RGBA. Sources: PNG specification (ISO/IEC 15948), libpng manual. */
#include <png.h>
#include <setjmp.h>
#include <string.h>

#include "base/mem.h"
#include "media/image_int.h"

typedef struct source { const uint8_t *p; size_t n, at; png_bytepp rows; char message[160]; } source;

static void on_read(png_structp png, png_bytep dst, size_t n)
{
    source *s = png_get_io_ptr(png);
    if (n > s->n - s->at) png_error(png, "the file ends early");
    memcpy(dst, s->p + s->at, n);
    s->at += n;
}

static void on_error(png_structp png, png_const_charp text)
{
    source *s = png_get_error_ptr(png);
    snprintf(s->message, sizeof s->message, "%s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text) { (void)png, (void)text; }
static png_voidp on_malloc(png_structp png, png_alloc_size_t n) { (void)png; return mem_alloc(n); }
static void on_free(png_structp png, png_voidp p) { (void)png; mem_free(p); }

/* Greys of 16 bits that are not transparent are clipped to 255 (Pillow's mode I;16); all other 16-bit samples lose their low byte. */
static bool clips(png_structp png, png_infop info)
{
    return png_get_bit_depth(png, info) == 16 && png_get_color_type(png, info) == PNG_COLOR_TYPE_GRAY && !png_get_valid(png, info, PNG_INFO_tRNS);
}

static int set_up(png_structp png, png_infop info)
{
    const int type = png_get_color_type(png, info);
    const bool alpha = (type & PNG_COLOR_MASK_ALPHA) || png_get_valid(png, info, PNG_INFO_tRNS);
    png_set_expand(png);        /* palettes to RGB, small greys to 8 bits, tRNS to alpha */
    if (!clips(png, info)) {
        png_set_strip_16(png);
        png_set_gray_to_rgb(png);
    }
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    return alpha ? 4 : 3;
}

/* Everything between libpng's jumps: this frame's locals are not used after one. */
static status read_all(png_structp png, png_infop info, source *s, const image_options *o, frame *f)
{
    if (setjmp(png_jmpbuf(png))) return mem_oom() ? err_nomem() : err_set(ST_INVALID, "broken PNG: %s", s->message);
    png_read_info(png, info);
    const int64_t width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    const bool clip = clips(png, info);
    const int channels = set_up(png, info);
    TRY(frame_alloc(f, width, height, channels, o));
    png_bytepp rows = s->rows = png_malloc(png, (size_t)height * sizeof *rows);
    const size_t row_bytes = png_get_rowbytes(png, info);
    if (row_bytes > (size_t)width * (size_t)channels) png_error(png, "a row is longer than its pixels");
    for (int64_t y = 0; y < height; y++) rows[y] = f->data + (size_t)y * (size_t)width * (size_t)channels;
    png_read_image(png, rows);
    png_read_end(png, NULL);
    for (int64_t y = 0; clip && y < height; y++) /* 2 bytes become 3, from the right */
        for (int64_t x = width - 1; x >= 0; x--) memset(rows[y] + 3 * x, rows[y][2 * x] ? 255 : rows[y][2 * x + 1], 3);
    png_bytep exif = NULL;
    png_uint_32 n_exif = 0;
    if (png_get_eXIf_1(png, info, &n_exif, &exif) && exif) f->orientation = exif_orientation(exif, n_exif);
    return ST_OK;
}

status image_png(const uint8_t *data, size_t n, const image_options *o, frame *f)
{
    source s = { .p = data, .n = n };
    mem_clear_oom();
    png_structp png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning, NULL, on_malloc, on_free);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    status st = info ? ST_OK : err_nomem();
    if (info) {
        png_set_user_limits(png, 65535, 65535);
        png_set_chunk_malloc_max(png, 1 << 20);     /* text and profiles that nobody reads */
        png_set_chunk_cache_max(png, 64);
        png_set_read_fn(png, &s, on_read);
        st = read_all(png, info, &s, o, f);
    }
    png_destroy_read_struct(&png, &info, NULL);
    mem_free(s.rows);
    return st;
}
