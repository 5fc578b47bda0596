/* Qwen2-VL, Qwen2.5-VL, Qwen3-Omni: sides are rounded to multiples of patch * merge within a range of pixels ("smart resize"), then patches of
 * p x p pixels, twice in time, are listed square by square of merge x merge. Source: Wang et al. 2024 (Qwen2-VL), the model's preprocessor_config.json. */
#include <math.h>
#include <string.h>

#include "media/processor_int.h"

/* Halves to even, as Python rounds. */
static int round_to(double v, int factor) { return (int)rint(v / factor) * factor; }

static status smart_size(const image_params *p, int height, int width, int *out_h, int *out_w)
{
    const int factor = p->patch * p->merge;
    const double longer = height > width ? height : width, shorter = height > width ? width : height;
    if (longer / shorter > 200) return err_set(ST_INVALID, "absolute aspect ratio must be smaller than 200, got %g", longer / shorter);
    int h = round_to(height, factor), w = round_to(width, factor);
    const double pixels = (double)height * width;
    if ((int64_t)h * w > p->max_pixels) {
        const double beta = sqrt(pixels / (double)p->max_pixels);
        h = (int)floor(height / beta / factor) * factor;
        w = (int)floor(width / beta / factor) * factor;
        if (h < factor) h = factor;
        if (w < factor) w = factor;
    } else if ((int64_t)h * w < p->min_pixels) {
        const double beta = sqrt((double)p->min_pixels / pixels);
        h = (int)ceil(height * beta / factor) * factor;
        w = (int)ceil(width * beta / factor) * factor;
    }
    *out_h = h;
    *out_w = w;
    return ST_OK;
}

/* One patch: [3][temporal][patch][patch], the same picture at every time. */
static void patch_values(const image_params *p, const image *im, int y0, int x0, float *dst)
{
    const int area = p->patch * p->patch;
    for (int c = 0; c < 3; c++, dst += (ptrdiff_t)area * p->temporal) {
        for (int y = 0; y < p->patch; y++)
            for (int x = 0; x < p->patch; x++) dst[y * p->patch + x] = params_normal(p, c, im->rgb[((size_t)(y0 + y) * (size_t)im->width + (size_t)(x0 + x)) * 3 + (size_t)c]);
        for (int t = 1; t < p->temporal; t++) memcpy(dst + (ptrdiff_t)t * area, dst, (size_t)area * sizeof *dst);
    }
}

static status patches(const image_params *p, const image *im, media_features *out)
{
    const int gh = im->height / p->patch, gw = im->width / p->patch, m = p->merge;
    const int64_t cols = (int64_t)3 * p->temporal * p->patch * p->patch;
    TRY(features_alloc(out, (int64_t)gh * gw, cols));
    float *dst = out->values;
    for (int by = 0; by < gh; by += m)
        for (int bx = 0; bx < gw; bx += m)
            for (int y = by; y < by + m; y++)
                for (int x = bx; x < bx + m; x++, dst += cols) patch_values(p, im, y * p->patch, x * p->patch, dst);
    out->grid[1] = gh;
    out->grid[2] = gw;
    return ST_OK;
}

status qwen_vl_process(const image_params *p, const image *im, media_features *out)
{
    int h = im->height, w = im->width;
    if (p->resize) TRY(smart_size(p, im->height, im->width, &h, &w));
    const int factor = p->patch * p->merge;
    if (h < factor || w < factor || h % factor || w % factor) return err_set(ST_INVALID, "the image is %d x %d pixels, not multiples of %d", w, h, factor);
    if (h == im->height && w == im->width) return patches(p, im, out);
    image sized;
    TRY(image_resize(im, w, h, p->resample, &sized));
    const status st = patches(p, &sized, out);
    image_free(&sized);
    return st;
}
