/* Whisper's features: short-time Fourier transform with a periodic Hann window and reflected ends, power, mel bands on Slaney's scale with
 * Slaney's normalisation, log10 clipped to 8 decades below the loudest. Sources: Radford et al. 2022 (Whisper); Slaney, Auditory Toolbox 1998. */
#include "media/audio.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

typedef struct cplx { double re, im; } cplx;
enum { MAX_RADIX = 64 };    /* largest prime factor of n_fft */

/* Mixed-radix decimation in time: out[0..n) = transform of in[0], in[stride], ... with roots w[k] = exp(-2 pi i k / top). */
static void fft(const cplx *in, cplx *out, int n, int stride, const cplx *w, int top)
{
    if (n == 1) {
        out[0] = in[0];
        return;
    }
    int radix = n;
    for (int p = 2; p * p <= n; p++)
        if (n % p == 0) {
            radix = p;
            break;
        }
    const int part = n / radix;
    for (int r = 0; r < radix; r++) fft(in + (ptrdiff_t)r * stride, out + (ptrdiff_t)r * part, part, stride * radix, w, top);
    cplx t[MAX_RADIX];
    for (int k = 0; k < part; k++) {
        for (int r = 0; r < radix; r++) t[r] = out[r * part + k];
        for (int q = 0; q < radix; q++) {
            cplx sum = t[0];
            for (int r = 1; r < radix; r++) {
                const cplx e = w[(int64_t)r * (k + q * part) % n * (top / n)];
                sum.re += t[r].re * e.re - t[r].im * e.im;
                sum.im += t[r].re * e.im + t[r].im * e.re;
            }
            out[q * part + k] = sum;
        }
    }
}

static double mel_of(double hz) { return hz < 1000 ? hz * 3 / 200 : 15 + log(hz / 1000) * 27 / log(6.4); }
static double hz_of(double mel) { return mel < 15 ? mel * 200 / 3 : 1000 * exp((mel - 15) * log(6.4) / 27); }

/* Triangles between neighbouring mel frequencies from 0 to 8 kHz, each of the same area; bank[band][bin]. */
static void make_bank(const mel_config *c, float *bank)
{
    const int bins = c->n_fft / 2 + 1;
    const double top = mel_of(8000);
    for (int m = 0; m < c->n_mels; m++) {
        const double lo = hz_of(top * m / (c->n_mels + 1)), mid = hz_of(top * (m + 1) / (c->n_mels + 1)), hi = hz_of(top * (m + 2) / (c->n_mels + 1));
        for (int b = 0; b < bins; b++) {
            const double f = (double)b * (c->rate / 2) / (bins - 1), v = fmin((f - lo) / (mid - lo), (hi - f) / (hi - mid));
            bank[(size_t)m * (size_t)bins + (size_t)b] = (float)(v > 0 ? v * 2 / (hi - lo) : 0);
        }
    }
}

typedef struct work { cplx *roots, *in, *out; float *bank, *power; double *window; } work;

static status work_make(const mel_config *c, work *w)
{
    const size_t n = (size_t)c->n_fft, bins = n / 2 + 1;
    const double pi = acos(-1);
    *w = (work){ mem_array(n, sizeof(cplx)), mem_array(n, sizeof(cplx)), mem_array(n, sizeof(cplx)), mem_array(bins * (size_t)c->n_mels, sizeof(float)),
                 mem_array(bins, sizeof(float)), mem_array(n, sizeof(double)) };
    if (!w->roots || !w->in || !w->out || !w->bank || !w->power || !w->window) return err_nomem();
    for (size_t i = 0; i < n; i++) {
        const double a = 2 * pi * (double)i / (double)n;
        w->roots[i] = (cplx){ cos(a), -sin(a) };
        w->window[i] = 0.5 - 0.5 * cos(a);
    }
    make_bank(c, w->bank);
    return ST_OK;
}

static void work_free(work *w)
{
    mem_free(w->roots);
    mem_free(w->in);
    mem_free(w->out);
    mem_free(w->bank);
    mem_free(w->power);
    mem_free(w->window);
}

/* log10 of the mel powers of the frame around samples[centre]; samples beyond the ends are mirrored. */
static void one_frame(const mel_config *c, work *w, const float *samples, int64_t n, int64_t centre, float *out, size_t step)
{
    const int bins = c->n_fft / 2 + 1;
    for (int i = 0; i < c->n_fft; i++) {
        int64_t at = centre - c->n_fft / 2 + i;
        if (at < 0) at = -at;
        if (at >= n) at = 2 * (n - 1) - at;
        w->in[i] = (cplx){ samples[at] * w->window[i], 0 };
    }
    fft(w->in, w->out, c->n_fft, 1, w->roots, c->n_fft);
    for (int b = 0; b < bins; b++) w->power[b] = (float)(w->out[b].re * w->out[b].re + w->out[b].im * w->out[b].im);
    for (int m = 0; m < c->n_mels; m++) {
        const float *bank = w->bank + (size_t)m * (size_t)bins;
        double sum = 0;
        for (int b = 0; b < bins; b++) sum += (double)bank[b] * w->power[b];
        out[(size_t)m * step] = (float)log10(fmax(sum, 1e-10));
    }
}

static int largest_prime(int n)
{
    int p = 2;
    for (; p * p <= n; p++)
        while (n % p == 0 && n > p) n /= p;
    return n;
}

status audio_log_mel(const mel_config *c, const float *samples, size_t n, float **out, int *frames)
{
    if (c->n_fft % 2 || largest_prime(c->n_fft) > MAX_RADIX) return err_set(ST_UNSUPPORTED, "n_fft %d is odd or has a prime factor above %d", c->n_fft, MAX_RADIX);
    if (n <= (size_t)c->n_fft / 2 || n < (size_t)c->hop) return err_set(ST_INVALID, "the sound has %zu samples, more than %d are needed", n, c->n_fft / 2 > c->hop ? c->n_fft / 2 : c->hop - 1);
    const size_t count = n / (size_t)c->hop, total = count * (size_t)c->n_mels;
    work w;
    float *f = mem_array(total, sizeof *f);
    status st = work_make(c, &w);
    if (st == ST_OK && !f) st = err_nomem();
    float most = -INFINITY;
    for (size_t t = 0; st == ST_OK && t < count; t++) one_frame(c, &w, samples, (int64_t)n, (int64_t)t * c->hop, f + t, count);
    for (size_t i = 0; st == ST_OK && i < total; i++) most = fmaxf(most, f[i]);
    for (size_t i = 0; st == ST_OK && i < total; i++) f[i] = (fmaxf(f[i], most - 8) + 4) / 4;
    work_free(&w);
    if (st != ST_OK) {
        mem_free(f);
        return st;
    }
    *out = f;
    *frames = (int)count;
    return ST_OK;
}
