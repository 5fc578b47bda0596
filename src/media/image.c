/* Images: which decoder, limits, and what is common to all of them: orientation, transparency. */
#include "media/image.h"

#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "media/image_int.h"

enum { MAX_SIDE = 65535 };
static const size_t default_bytes = (size_t)256 << 20;
static const int64_t default_pixels = 178956970;
const image_options image_defaults = { .background = { 255, 255, 255 } };

status frame_alloc(frame *f, int64_t width, int64_t height, int channels, const image_options *o)
{
    const int64_t most = o->max_pixels ? o->max_pixels : default_pixels;
    if (width < 1 || height < 1) return err_set(ST_INVALID, "the image is %" PRId64 " x %" PRId64 " pixels", width, height);
    if (width > MAX_SIDE || height > MAX_SIDE || width * height > most)
        return err_set(ST_LIMIT, "the image is %" PRId64 " x %" PRId64 " pixels, at most %" PRId64 " pixels (VLLM_MAX_IMAGE_PIXELS) and %d a side are accepted",
                       width, height, most, MAX_SIDE);
    f->width = (int)width;
    f->height = (int)height;
    f->channels = channels;
    f->data = mem_calloc((size_t)(width * height), (size_t)channels);
    return f->data ? ST_OK : err_nomem();
}

/* ---- EXIF ---- */

typedef struct tiff { const uint8_t *p; size_t n; bool big; } tiff;

static bool tiff_u16(const tiff *t, size_t at, unsigned *out)
{
    if (at + 2 > t->n) return false;
    *out = t->big ? (unsigned)(t->p[at] << 8 | t->p[at + 1]) : (unsigned)(t->p[at + 1] << 8 | t->p[at]);
    return true;
}

static bool tiff_u32(const tiff *t, size_t at, size_t *out)
{
    unsigned a, b;
    if (!tiff_u16(t, at, &a) || !tiff_u16(t, at + 2, &b)) return false;
    *out = t->big ? (size_t)a << 16 | b : (size_t)b << 16 | a;
    return true;
}

int exif_orientation(const uint8_t *p, size_t n)
{
    enum { TAG_ORIENTATION = 0x112, TYPE_SHORT = 3, ENTRY = 12 };
    if (n < 8 || (memcmp(p, "II*\0", 4) != 0 && memcmp(p, "MM\0*", 4) != 0)) return 1;
    const tiff t = { p, n, p[0] == 'M' };
    size_t ifd;
    unsigned count, tag, type, value;
    if (!tiff_u32(&t, 4, &ifd) || ifd > n || !tiff_u16(&t, ifd, &count)) return 1;
    for (unsigned i = 0; i < count; i++) {
        const size_t at = ifd + 2 + (size_t)i * ENTRY;
        if (at + ENTRY > n || !tiff_u16(&t, at, &tag)) return 1;
        if (tag != TAG_ORIENTATION) continue;
        if (!tiff_u16(&t, at + 2, &type) || type != TYPE_SHORT || !tiff_u16(&t, at + 8, &value)) return 1;
        return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}

/* ---- RGB ---- */

/* Where pixel (x, y) of the upright image lies in the stored one, for orientations 1..8 (EXIF 2.3, tag 0x112). */
static size_t stored_at(const frame *f, int x, int y)
{
    const int w = f->width, h = f->height;
    int sx = x, sy = y;
    switch (f->orientation) {
    case 2: sx = w - 1 - x; break;
    case 3: sx = w - 1 - x; sy = h - 1 - y; break;
    case 4: sy = h - 1 - y; break;
    case 5: sx = y; sy = x; break;
    case 6: sx = y; sy = h - 1 - x; break;
    case 7: sx = w - 1 - y; sy = h - 1 - x; break;
    case 8: sx = w - 1 - y; sy = x; break;
    default: break;
    }
    return (size_t)sy * (size_t)w + (size_t)sx;
}

/* v * a / 255, rounded, in the integer arithmetic that Pillow composites with. */
static unsigned mul255(unsigned v, unsigned a)
{
    const unsigned t = v * a + 128;
    return (t + (t >> 8)) >> 8;
}

static status upright_rgb(const frame *f, const image_options *o, image *out)
{
    const bool turned = f->orientation >= 5;
    image im = { .width = turned ? f->height : f->width, .height = turned ? f->width : f->height };
    im.rgb = mem_array((size_t)im.width * (size_t)im.height, 3);
    if (!im.rgb) return err_nomem();
    uint8_t *dst = im.rgb;
    for (int y = 0; y < im.height; y++)
        for (int x = 0; x < im.width; x++, dst += 3) {
            const uint8_t *src = f->data + stored_at(f, x, y) * (size_t)f->channels;
            for (int c = 0; c < 3; c++)
                dst[c] = f->channels == 3 || o->drop_alpha ? src[c] : (uint8_t)(mul255(src[c], src[3]) + mul255(o->background[c], 255u - src[3]));
        }
    *out = im;
    return ST_OK;
}

static image_decoder *decoder_of(const uint8_t *p, size_t n)
{
    if (n >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0) return image_png;
    if (n >= 3 && memcmp(p, "\xff\xd8\xff", 3) == 0) return image_jpeg;
    if (n >= 12 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0) return image_webp;
    if (n >= 6 && (memcmp(p, "GIF87a", 6) == 0 || memcmp(p, "GIF89a", 6) == 0)) return image_gif;
    if (n >= 2 && memcmp(p, "BM", 2) == 0) return image_bmp;
    return NULL;
}

status image_decode(const void *data, size_t n, const image_options *o, image *out)
{
    if (!o) o = &image_defaults;
    const size_t most = o->max_bytes ? o->max_bytes : default_bytes;
    if (n > most) return err_set(ST_LIMIT, "the image has %zu bytes, at most %zu are accepted", n, most);
    image_decoder *decode = decoder_of(data, n);
    if (!decode) return err_set(ST_INVALID, n ? "cannot identify image file: not PNG, JPEG, WebP, GIF or BMP" : "the image is empty");
    frame f = { .orientation = 1 };
    status st = decode(data, n, o, &f);
    if (o->keep_orientation) f.orientation = 1;
    if (st == ST_OK) st = upright_rgb(&f, o, out);
    mem_free(f.data);
    return st;
}

status image_crop(const image *im, image_box box, image *out)
{
    image part = { box.width, box.height, mem_array((size_t)box.width * (size_t)box.height, 3) };
    if (!part.rgb) return err_nomem();
    for (int y = 0; y < box.height; y++) {
        const size_t from = (size_t)(box.y + y) * (size_t)im->width + (size_t)box.x;
        memcpy(part.rgb + (size_t)y * (size_t)box.width * 3, im->rgb + from * 3, (size_t)box.width * 3);
    }
    *out = part;
    return ST_OK;
}

void image_free(image *im)
{
    mem_free(im->rgb);
    *im = (image){0};
}
