#include "media/resize.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

/* How the outputs of one axis are made of the inputs: output i = sum over j < len[i] of w[i * taps + j] * input[from[i] + j]. */
typedef struct filter { int taps, precision, *from, *len; int16_t *w; } filter;

static double kernel(resample r, double x)
{
    x = fabs(x);
    if (r == RESAMPLE_BILINEAR) return x < 1 ? 1 - x : 0;
    const double a = -0.5;
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static int clamp_int(int v, int lo, int hi) { return v < lo ? lo : v > hi ? hi : v; }

/* Weights of all outputs as floats; the largest one decides the fixed-point format. */
static double float_weights(filter *f, int in, int out, resample r, double *w)
{
    const double scale = (double)in / out, stretch = scale >= 1 ? scale : 1, support = (r == RESAMPLE_BILINEAR ? 1.0 : 2.0) * stretch;
    double most = 0;
    for (int i = 0; i < out; i++) {
        const double centre = scale * (i + 0.5);
        const int from = clamp_int((int)(centre - support + 0.5), 0, in), to = clamp_int((int)(centre + support + 0.5), 0, in);
        const int len = clamp_int(to - from, 0, f->taps);
        double *row = w + (size_t)i * (size_t)f->taps, sum = 0;
        for (int j = 0; j < len; j++) sum += row[j] = kernel(r, (j + from - centre + 0.5) / stretch);
        for (int j = 0; j < len; j++) {
            if (sum != 0) row[j] /= sum;
            most = fmax(most, row[j]);
        }
        f->from[i] = from;
        f->len[i] = len;
    }
    return most;
}

static void filter_free(filter *f)
{
    mem_free(f->from);
    mem_free(f->len);
    mem_free(f->w);
}

static status filter_make(int in, int out, resample r, filter *f)
{
    const double scale = (double)in / out, support = (r == RESAMPLE_BILINEAR ? 1.0 : 2.0) * (scale >= 1 ? scale : 1);
    *f = (filter){ .taps = 2 * (int)ceil(support) + 1 };
    const size_t n = (size_t)out * (size_t)f->taps;
    double *w = mem_calloc(n, sizeof *w);
    f->from = mem_array((size_t)out, sizeof *f->from);
    f->len = mem_array((size_t)out, sizeof *f->len);
    f->w = mem_array(n, sizeof *f->w);
    if (!w || !f->from || !f->len || !f->w) { /* the caller frees f either way */
        mem_free(w);
        return err_nomem();
    }
    const double most = float_weights(f, in, out, r, w);
    while (f->precision < 22 && (int)(0.5 + most * (double)(1 << (f->precision + 1))) < 1 << 15) f->precision++;
    for (size_t i = 0; i < n; i++) f->w[i] = (int16_t)(w[i] * (double)(1 << f->precision) + (w[i] < 0 ? -0.5 : 0.5));
    mem_free(w);
    return ST_OK;
}

static uint8_t to_u8(int32_t v, int precision)
{
    v >>= precision;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* One pass: `lines` lines of out pixels; src_step and dst_step lead to the next pixel of a line, src_line and dst_line to the next line. */
static void apply(const filter *f, const uint8_t *src, size_t src_step, size_t src_line, uint8_t *dst, size_t dst_step, size_t dst_line, int lines, int out)
{
    for (int y = 0; y < lines; y++)
        for (int i = 0; i < out; i++) {
            const int16_t *w = f->w + (size_t)i * (size_t)f->taps;
            const uint8_t *s = src + (size_t)y * src_line + (size_t)f->from[i] * src_step;
            int32_t sum[3] = { 0 };
            if (f->precision > 0) sum[0] = sum[1] = sum[2] = 1 << (f->precision - 1);
            for (int j = 0; j < f->len[i]; j++, s += src_step)
                for (int c = 0; c < 3; c++) sum[c] += w[j] * s[c];
            for (int c = 0; c < 3; c++) dst[(size_t)y * dst_line + (size_t)i * dst_step + (size_t)c] = to_u8(sum[c], f->precision);
        }
}

status image_resize(const image *in, int width, int height, resample r, image *out)
{
    if (width < 1 || height < 1 || (int64_t)width * height > (int64_t)1 << 30) return err_set(ST_INVALID, "cannot resize an image to %d x %d", width, height);
    filter fx = {0}, fy = {0};
    const size_t in_line = (size_t)in->width * 3, line = (size_t)width * 3;
    uint8_t *between = mem_array((size_t)in->height, line), *rgb = mem_array((size_t)height, line);
    status st = between && rgb ? ST_OK : err_nomem();
    if (st == ST_OK) st = filter_make(in->width, width, r, &fx);
    if (st == ST_OK) st = filter_make(in->height, height, r, &fy);
    if (st == ST_OK) {
        if (width == in->width) memcpy(between, in->rgb, in_line * (size_t)in->height);
        else apply(&fx, in->rgb, 3, in_line, between, 3, line, in->height, width);
        if (height == in->height) memcpy(rgb, between, line * (size_t)height);
        else apply(&fy, between, line, 3, rgb, line, 3, width, height);
        *out = (image){ width, height, rgb };
        rgb = NULL;
    }
    mem_free(between);
    mem_free(rgb);
    filter_free(&fx);
    filter_free(&fy);
    return st;
}
