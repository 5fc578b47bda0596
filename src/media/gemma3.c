/* Gemma 3 (SigLIP): every image becomes one square, whatever its shape. With pan and scan, parts of a long one that do not overlap follow it, each a square of its own.
 * Source: Gemma 3 technical report 2025, section 2.1; the numbers of parts are those of the transformers library. */
#include <math.h>

#include "media/processor_int.h"

static status planes(const image_params *p, const image *im, media_features *out)
{
    const int64_t area = (int64_t)im->width * im->height;
    TRY(features_alloc(out, 1, 3 * area));
    for (int c = 0; c < 3; c++)
        for (int64_t i = 0; i < area; i++) out->values[c * area + i] = params_normal(p, c, im->rgb[i * 3 + c]);
    return ST_OK;
}

status gemma3_process(const image_params *p, const image *im, media_features *out)
{
    if (im->width == p->width && im->height == p->height) return planes(p, im, out);
    if (!p->resize) return err_set(ST_INVALID, "the image is %d x %d pixels, not %d x %d", im->width, im->height, p->width, p->height);
    image sized;
    TRY(image_resize(im, p->width, p->height, p->resample, &sized));
    const status st = planes(p, &sized, out);
    image_free(&sized);
    return st;
}

int gemma3_crops(const image_params *p, int width, int height, image_box out[MEDIA_MOST_CROPS])
{
    const bool wide = width >= height;
    const int along = wide ? width : height, across = wide ? height : width;
    if (!p->pan || (double)along / across < p->pan_ratio) return 0;
    /* as many as the ratio says, halves up, but of the least size; two at least, and no more than are wanted */
    const int room = along / p->pan_size, ratio = (int)fmin(floor((double)along / across + 0.5), 1 << 20);
    int n = room < ratio ? room : ratio;
    if (n < 2) n = 2;
    if (n > p->pan_crops) n = p->pan_crops;
    const int each = (along + n - 1) / n;
    if ((each < across ? each : across) < p->pan_size) return 0;
    int made = 0;
    for (int i = 0; i < n && i * each < along; i++) {
        const int from = i * each, size = each < along - from ? each : along - from;
        out[made++] = wide ? (image_box){ from, 0, size, height } : (image_box){ 0, from, width, size };
    }
    return made;
}
