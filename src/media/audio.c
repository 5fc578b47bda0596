/* Decoding by libsndfile from memory, mixing down, resampling. */
#include "media/audio.h"

#include <math.h>
#include <sndfile.h>
#include <string.h>

#include "base/mem.h"

typedef struct source { const uint8_t *p; sf_count_t n, at; } source;

static sf_count_t src_len(void *u) { return ((source *)u)->n; }
static sf_count_t src_tell(void *u) { return ((source *)u)->at; }
static sf_count_t src_seek(sf_count_t to, int whence, void *u)
{
    source *s = u;
    if (whence == SEEK_CUR) to += s->at;
    if (whence == SEEK_END) to += s->n;
    if (to < 0 || to > s->n) return -1;
    return s->at = to;
}
static sf_count_t src_read(void *dst, sf_count_t n, void *u)
{
    source *s = u;
    if (n > s->n - s->at) n = s->n - s->at;
    if (n <= 0) return 0;
    memcpy(dst, s->p + s->at, (size_t)n);
    s->at += n;
    return n;
}
static sf_count_t src_write(const void *p, sf_count_t n, void *u) { (void)p, (void)n, (void)u; return 0; }

/* Takes all samples of the file, averaged over its channels. */
static status mix_down(SNDFILE *f, int channels, audio *a)
{
    enum { BLOCK = 4096, MAX_CHANNELS = 32 };
    if (channels < 1 || channels > MAX_CHANNELS) return err_set(ST_LIMIT, "sound with %d channels, at most %d are accepted", channels, MAX_CHANNELS);
    float *block = mem_array(BLOCK * (size_t)channels, sizeof *block);
    if (!block) return err_nomem();
    size_t cap = 0;
    status st = ST_OK;
    for (sf_count_t got; st == ST_OK && (got = sf_readf_float(f, block, BLOCK)) > 0;) {
        if (a->n + (size_t)got > AUDIO_MAX_SAMPLES) st = err_set(ST_LIMIT, "the sound is longer than %d samples", AUDIO_MAX_SAMPLES);
        else if (a->n + (size_t)got > cap) {
            cap = (a->n + (size_t)got) * 2;
            float *more = mem_realloc_array(a->samples, cap, sizeof *more);
            if (more) a->samples = more;
            else st = err_nomem();
        }
        for (sf_count_t i = 0; st == ST_OK && i < got; i++) {
            float sum = 0;
            for (int c = 0; c < channels; c++) sum += block[i * channels + c];
            sum /= (float)channels;
            a->samples[a->n++] = isfinite(sum) ? sum : 0;
        }
    }
    mem_free(block);
    if (st == ST_OK && sf_error(f) != SF_ERR_NO_ERROR) st = err_set(ST_INVALID, "broken sound file: %s", sf_strerror(f));
    if (st == ST_OK && a->n == 0) st = err_set(ST_INVALID, "the sound file has no samples");
    return st;
}

status audio_decode(const void *data, size_t n, int rate, audio *out)
{
    enum { LEAST_RATE = 1000, MOST_RATE = 768000 };
    source s = { data, (sf_count_t)n, 0 };
    SF_VIRTUAL_IO io = { src_len, src_seek, src_read, src_write, src_tell };
    SF_INFO info = { 0 };
    if (n == 0) return err_set(ST_INVALID, "the sound file is empty");
    SNDFILE *f = sf_open_virtual(&io, SFM_READ, &info, &s);
    if (!f) return err_set(ST_INVALID, "cannot read the sound file: %s", sf_strerror(NULL));
    audio a = { .rate = info.samplerate };
    status st = ST_OK;
    if (a.rate < LEAST_RATE || a.rate > MOST_RATE) st = err_set(ST_INVALID, "a sampling rate of %d Hz, %d to %d are accepted", a.rate, LEAST_RATE, MOST_RATE);
    if (st == ST_OK) st = mix_down(f, info.channels, &a);
    sf_close(f);
    if (st == ST_OK && rate && rate != a.rate) {
        float *samples = NULL;
        st = audio_resample(a.samples, a.n, a.rate, rate, &samples, &a.n);
        mem_free(a.samples);
        a.samples = samples;
        a.rate = rate;
    }
    if (st == ST_OK) *out = a;
    else mem_free(a.samples);
    return st;
}

void audio_free(audio *a)
{
    mem_free(a->samples);
    *a = (audio){0};
}

/* ---- resampling ---- */

enum { ZEROS = 48, PER_ZERO = 1024 };   /* zero crossings on each side, table entries between two; linear interpolation errs by 1e-6 */

static double bessel_i0(double x)
{
    double sum = 1, term = 1;
    for (int k = 1; term > sum * 1e-17; k++) sum += term *= x / (2 * k) * (x / (2 * k));
    return sum;
}

/* sinc(t) under a Kaiser window, at t = i / PER_ZERO. */
static status make_table(double **out)
{
    const double beta = 12, pi = acos(-1);
    double *h = mem_array(ZEROS * PER_ZERO + 2, sizeof *h);
    if (!h) return err_nomem();
    for (int i = 0; i <= ZEROS * PER_ZERO + 1; i++) {
        const double t = (double)i / PER_ZERO, edge = t / ZEROS;
        h[i] = edge >= 1 ? 0 : (i ? sin(pi * t) / (pi * t) : 1) * bessel_i0(beta * sqrt(1 - edge * edge)) / bessel_i0(beta);
    }
    *out = h;
    return ST_OK;
}

status audio_resample(const float *in, size_t n, int from, int to, float **out, size_t *n_out)
{
    const size_t count = (size_t)(((uint64_t)n * (uint64_t)to + (uint64_t)from - 1) / (uint64_t)from);
    const double ratio = (double)to / from, cut = (ratio < 1 ? ratio : 1) * 0.95, reach = ZEROS / cut; /* cut: of the input's Nyquist frequency */
    double *h = NULL;
    TRY(make_table(&h));
    float *y = mem_array(count ? count : 1, sizeof *y);
    if (!y) {
        mem_free(h);
        return err_nomem();
    }
    for (size_t i = 0; i < count; i++) {
        const double centre = (double)i / ratio;
        int64_t lo = (int64_t)ceil(centre - reach), hi = (int64_t)floor(centre + reach);
        if (lo < 0) lo = 0;
        if (hi >= (int64_t)n) hi = (int64_t)n - 1;
        double sum = 0;
        for (int64_t j = lo; j <= hi; j++) {
            const double at = fabs((double)j - centre) * cut * PER_ZERO;
            const int k = (int)at;
            sum += in[j] * (h[k] + (h[k + 1] - h[k]) * (at - k));
        }
        y[i] = (float)(sum * cut);
    }
    mem_free(h);
    *out = y;
    *n_out = count;
    return ST_OK;
}
