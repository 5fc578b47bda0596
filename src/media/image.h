/* Still images of clients, decoded to 8-bit RGB as the libraries of the model processors see them: PNG, JPEG, WebP, GIF and BMP.
 *
 * The bytes are hostile until proven otherwise: type, dimensions and pixel count come from the header and are checked before a
 * pixel is decoded; a file that ends early or whose checksums are wrong is refused. Modes become RGB as Pillow's convert("RGB") does
 * it (palette looked up, grey repeated, 16-bit colour cut to its high byte, 16-bit grey clipped, CMYK by its integer formula), after transparency has been laid over a background
 * and EXIF orientation applied, which is vLLM's order. Animations give their first frame. */
#ifndef SYSTOLIC_MEDIA_IMAGE_H
#define SYSTOLIC_MEDIA_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef struct image { int width, height; uint8_t *rgb; } image;   /* [height][width][3] */

typedef struct image_box { int x, y, width, height; } image_box;

typedef struct image_options {
    size_t max_bytes;           /* of the file; 0 = 256 MiB */
    int64_t max_pixels;         /* 0 = 178,956,970, where Pillow sees a decompression bomb */
    bool keep_orientation;      /* leave EXIF orientation alone */
    bool drop_alpha;            /* forget transparency instead of laying the image over the background */
    uint8_t background[3];      /* of transparent pixels; media_background for vLLM's white */
} image_options;

extern const image_options image_defaults;   /* vLLM's: orientation applied, over white */

/* o may be NULL: image_defaults. ST_INVALID for what is no image or a broken one, ST_LIMIT for one that is too large. */
status image_decode(const void *data, size_t n, const image_options *o, image *out) FALLIBLE;
/* The part of im in the box, which lies within. */
status image_crop(const image *im, image_box box, image *out) FALLIBLE;
void image_free(image *im);

#endif
