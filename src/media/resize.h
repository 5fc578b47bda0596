/* Resizing 8-bit RGB images with antialiasing, bit for bit as torch does it (interpolate(..., antialias=True) on uint8, which torchvision's resize calls): separable
 * filters with coefficients in 16-bit fixed point, horizontal first, rounded to 8 bits between the passes. */
#ifndef SYSTOLIC_MEDIA_RESIZE_H
#define SYSTOLIC_MEDIA_RESIZE_H

#include "media/image.h"

/* Numbered as in preprocessor_config.json ("resample"). */
typedef enum resample { RESAMPLE_BILINEAR = 2, RESAMPLE_BICUBIC = 3 } resample;

/* The whole image, to width x height. The caller frees out. */
status image_resize(const image *in, int width, int height, resample r, image *out) FALLIBLE;

#endif
