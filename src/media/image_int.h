/* Inside of image decoding: what the decoders hand to image.c. */
#ifndef SYSTOLIC_MEDIA_IMAGE_INT_H
#define SYSTOLIC_MEDIA_IMAGE_INT_H

#include "media/image.h"

/* A decoded frame: 3 channels, or 4 with alpha, 8 bits each. */
typedef struct frame { int width, height, channels; uint8_t *data; int orientation; } frame;

/* Called with what the header says, before anything of that size is allocated: makes f->data. */
status frame_alloc(frame *f, int64_t width, int64_t height, int channels, const image_options *o) FALLIBLE;
/* The orientation (1..8) in a TIFF structure, as EXIF holds it; 1 when there is none or it is malformed. */
int exif_orientation(const uint8_t *tiff, size_t n);

typedef status image_decoder(const uint8_t *data, size_t n, const image_options *o, frame *f);
image_decoder image_png, image_jpeg, image_webp, image_gif, image_bmp;

#endif
