/* BMP, ours: uncompressed 1, 4, 8, 24 and 32 bits a pixel, top-down or bottom-up. Source: Microsoft's BITMAPINFOHEADER documentation. */
#include <string.h>

#include "media/image_int.h"

static uint32_t u32(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

status image_bmp(const uint8_t *data, size_t n, const image_options *o, frame *f)
{
    enum { FILE_HEADER = 14, INFO_HEADER = 40, RGB = 0, BITFIELDS = 3 };
    if (n < FILE_HEADER + INFO_HEADER) return err_set(ST_INVALID, "broken BMP: the file ends early");
    const uint8_t *h = data + FILE_HEADER;
    const size_t pixels = u32(data + 10), header = u32(h);
    const int64_t width = (int32_t)u32(h + 4), signed_height = (int32_t)u32(h + 8), height = signed_height < 0 ? -signed_height : signed_height;
    const int bits = h[14] | h[15] << 8;
    const uint32_t compression = u32(h + 16);
    if (header < INFO_HEADER || header > n - FILE_HEADER) return err_set(ST_UNSUPPORTED, "BMP with a header of %zu bytes", header);
    if (compression != RGB && !(compression == BITFIELDS && bits == 32 && n >= FILE_HEADER + INFO_HEADER + 12 && u32(h + 40) == 0xff0000 && u32(h + 44) == 0xff00 && u32(h + 48) == 0xff))
        return err_set(ST_UNSUPPORTED, "compressed BMP");
    if (bits != 1 && bits != 4 && bits != 8 && bits != 24 && bits != 32) return err_set(ST_UNSUPPORTED, "BMP with %d bits a pixel", bits);
    TRY(frame_alloc(f, width, height, 3, o));
    const size_t stride = ((size_t)width * (size_t)bits + 31) / 32 * 4;
    const uint8_t *palette = h + header;
    uint32_t colours = bits > 8 ? 0 : u32(h + 32) ? u32(h + 32) : 1u << bits;
    if (colours > 256) colours = 256;
    if (pixels > n || stride * (size_t)height > n - pixels || FILE_HEADER + header + (size_t)colours * 4 > n) return err_set(ST_INVALID, "broken BMP: the file ends early");
    for (int64_t y = 0; y < height; y++) {
        const uint8_t *row = data + pixels + stride * (size_t)(signed_height < 0 ? y : height - 1 - y);
        uint8_t *dst = f->data + (size_t)y * (size_t)width * 3;
        for (int64_t x = 0; x < width; x++, dst += 3) {
            static const uint8_t black[4];
            const uint8_t *bgr = row + x * (bits / 8);
            if (bits <= 8) {
                const unsigned i = (unsigned)(row[x * bits / 8] >> (8 - bits - x * bits % 8)) & ((1u << bits) - 1);
                bgr = i < colours ? palette + (size_t)i * 4 : black;
            }
            dst[0] = bgr[2];
            dst[1] = bgr[1];
            dst[2] = bgr[0];
        }
    }
    return ST_OK;
}
