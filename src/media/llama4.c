/* Llama 4: the canvas of up to max_patches square tiles that shrinks the image least (or enlarges it least) is found, the image is scaled into its upper left corner
 * without distortion, the rest is black; the tiles are listed row by row, and the whole image squeezed into one tile follows when there are several. Normalisation is in
 * bfloat16, operation by operation. Source: preprocessor of the Llama 4 release (transformers documentation). */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "media/processor_int.h"

static float to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    u += 0x7fff + (u >> 16 & 1);
    u &= 0xffff0000;
    memcpy(&f, &u, 4);
    return f;
}

/* The value of every byte in one channel. */
static void normal_table(const image_params *p, int channel, float table[256])
{
    for (int v = 0; v < 256; v++) {
        const float unit = to_bf16((float)v * p->factor), centred = to_bf16(unit - to_bf16(p->mean[channel]));
        table[v] = to_bf16(centred / to_bf16(p->std[channel]));
    }
}

typedef struct canvas { int rows, cols; } canvas;

/* Of the canvases whose scale is best, the smallest; ties by the order of the original: by number of tiles from the most, grouped by aspect ratio.
 * Scales are compared as float32, which decides ties. */
static canvas best_canvas(const image_params *p, int height, int width)
{
    canvas best = { 1, 1 };
    float best_scale = 0;
    for (int n = p->max_tiles; n >= 1; n--)
        for (int rows = 1; rows <= n; rows++) {
            if (n % rows) continue;
            const int cols = n / rows;
            const float sw = (float)(cols * p->width) / (float)width, sh = (float)(rows * p->height) / (float)height, scale = sh > sw ? sw : sh;
            const bool up = scale >= 1, best_up = best_scale >= 1;
            bool better;
            if (up != best_up) better = up;
            else if (up && !p->max_canvas) better = scale < best_scale;
            else better = scale > best_scale;
            if (scale == best_scale) better = rows * cols < best.rows * best.cols;
            if (better) {
                best = (canvas){ rows, cols };
                best_scale = scale;
            }
        }
    return best;
}

/* The largest size of the image's shape within height x width. */
static void fit(int ih, int iw, int height, int width, int *out_h, int *out_w)
{
    const double sw = (double)width / iw, sh = (double)height / ih;
    int h = height, w = width;
    if (sw < sh) h = (int)fmin(floor(ih * sw), height);
    else w = (int)fmin(floor(iw * sh), width);
    *out_h = h < 1 ? 1 : h;
    *out_w = w < 1 ? 1 : w;
}

/* Tile (row, col) of the picture as [3][size][size]; black where the picture ends. */
static void tile_values(const image_params *p, const image *im, int row, int col, float table[3][256], float *dst)
{
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < p->height; y++)
            for (int x = 0; x < p->width; x++) {
                const int sy = row * p->height + y, sx = col * p->width + x;
                const bool inside = sy < im->height && sx < im->width;
                *dst++ = table[c][inside ? im->rgb[((size_t)sy * (size_t)im->width + (size_t)sx) * 3 + (size_t)c] : 0];
            }
}

status llama4_process(const image_params *p, const image *im, media_features *out)
{
    if (p->width != p->height) return err_set(ST_INVALID, "preprocessor_config.json: size must be square, not %d x %d", p->width, p->height);
    if (!p->resize) return err_set(ST_INVALID, "preprocessor_config.json: do_resize must be true for Llama4ImageProcessor");
    const canvas cv = best_canvas(p, im->height, im->width);
    const int n = cv.rows * cv.cols;
    int box_h = cv.rows * p->height, box_w = cv.cols * p->width, h, w;
    if (!p->max_canvas) { /* never enlarged, unless it is smaller than a tile */
        const int own_h = im->height > p->height ? im->height : p->height, own_w = im->width > p->height ? im->width : p->height;
        if (own_h < box_h) box_h = own_h;
        if (own_w < box_w) box_w = own_w;
    }
    fit(im->height, im->width, box_h, box_w, &h, &w);
    float table[3][256];
    for (int c = 0; c < 3; c++) normal_table(p, c, table[c]);
    image scaled = {0}, whole = {0};
    status st = image_resize(im, w, h, p->resample, &scaled);
    if (st == ST_OK && n > 1) st = image_resize(im, p->width, p->height, p->resample, &whole);
    const int64_t tile = (int64_t)3 * p->height * p->width;
    if (st == ST_OK) st = features_alloc(out, n > 1 ? n + 1 : 1, tile);
    for (int i = 0; st == ST_OK && i < n; i++) tile_values(p, &scaled, i / cv.cols, i % cv.cols, table, out->values + i * tile);
    if (st == ST_OK && n > 1) tile_values(p, &whole, 0, 0, table, out->values + n * tile);
    out->grid[1] = cv.rows;
    out->grid[2] = cv.cols;
    image_free(&scaled);
    image_free(&whole);
    return st;
}
