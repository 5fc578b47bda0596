// layer: media
/* Images: PNG, JPEG, WebP, GIF, BMP through every decoder; small limits, so that time goes into parsing. */
#include "media/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const image_options o = { .max_pixels = 1 << 18, .background = { 255, 255, 255 } };
    image im;
    if (image_decode(data, size, &o, &im) == ST_OK) image_free(&im);
    return 0;
}
