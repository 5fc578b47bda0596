/* Gemma 3 (SigLIP): every image becomes one square, whatever its shape. Source: Gemma 3 technical report 2025, section 2.1 (without pan and scan). */
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
