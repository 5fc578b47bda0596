#include "tpu/slice.h"

#include <string.h>

enum { MOST_SIDE = 1024, MOST_DIGITS = 5 };

typedef struct generation {
    const char *name, *libtpu, *chip;
    int rank, per_chip;                     /* dimensions of its torus; what an accelerator type counts, per chip */
    unsigned char shapes[9][3];             /* that Cloud TPU offers, in growing order; {0} ends */
} generation;

#define FLAT_SHAPES { { 1, 1, 1 }, { 2, 2, 1 }, { 2, 4, 1 }, { 4, 4, 1 }, { 4, 8, 1 }, { 8, 8, 1 }, { 8, 16, 1 }, { 16, 16, 1 } }
#define DEEP_SHAPES { 2, 2, 1 }, { 2, 2, 2 }, { 2, 2, 4 }, { 2, 4, 4 }, { 4, 4, 4 }, { 4, 4, 8 }
static const generation generations[] = {
    { "v3", "v3", "v3", 3, 2, { { 2, 2, 1 }, { 4, 4, 1 }, { 8, 8, 1 } } },
    { "v4", "v4", "v4", 3, 2, { DEEP_SHAPES } },
    { "v5e", "v5e", "v5e", 2, 1, FLAT_SHAPES },
    { "v5litepod", "v5e", "v5e", 2, 1, FLAT_SHAPES },
    { "v5p", "v5p", "v5p", 3, 2, { DEEP_SHAPES } },
    { "v6e", "v6e", "v6e", 2, 1, FLAT_SHAPES },
    { "v7x", "tpu7x", "v7x", 3, 2, { { 1, 1, 1 }, DEEP_SHAPES } },
    { "tpu7x", "tpu7x", "v7x", 3, 2, { { 1, 1, 1 }, DEEP_SHAPES } },
};

static status bad(const char *s, size_t n, const char *why)
{
    return err_set(ST_INVALID, "target \"%.*s\": %s; targets are v3, v4, v5e, v5p, v6e or v7x with a shape of chips, as in v6e:2x2, v5p:2x2x1 or v6e-8", (int)(n < 100 ? n : 100), s, why);
}

/* Digits without a leading zero at *at; 0 if there are none or too many. */
static int number_at(const char *s, size_t n, size_t *at)
{
    int v = 0, digits = 0;
    size_t from = *at;
    for (; *at < n && s[*at] >= '0' && s[*at] <= '9' && digits < MOST_DIGITS; ++*at, digits++) v = v * 10 + (s[*at] - '0');
    return digits == 0 || s[from] == '0' ? 0 : v;
}

/* "2x2x1" with `rank` factors. */
static bool read_shape(const char *s, size_t n, int rank, int shape[3])
{
    int factors = 0;
    for (size_t at = 0; at < n;) {
        int v = number_at(s, n, &at);
        if (v < 1 || v > MOST_SIDE || factors == rank) return false;
        shape[factors++] = v;
        if (at < n && (s[at++] != 'x' || at == n)) return false;
    }
    return factors == rank;
}

static bool shape_of_size(const generation *g, const char *s, size_t n, int shape[3])
{
    size_t at = 0;
    int size = number_at(s, n, &at);
    if (at != n) return false;
    for (int i = 0; i < 9 && g->shapes[i][0]; i++) {
        for (int k = 0; k < 3; k++) shape[k] = g->shapes[i][k];
        if (size == shape[0] * shape[1] * shape[2] * g->per_chip) return true;
    }
    return false;
}

status tpu_slice_parse(const char *s, size_t n, tpu_slice *out)
{
    size_t name = 0;
    const generation *g = NULL;
    while (name < n && s[name] != ':' && s[name] != '-') name++;
    for (size_t i = 0; i < sizeof generations / sizeof *generations; i++)
        if (strlen(generations[i].name) == name && !strncmp(generations[i].name, s, name)) g = &generations[i];
    if (!g) return bad(s, n, "unknown generation");
    if (name == n) return bad(s, n, "no shape is given");
    tpu_slice r = { .chip = chip_by_name(g->chip), .libtpu = g->libtpu, .rank = g->rank, .shape = { 1, 1, 1 } };
    const char *rest = s + name + 1;
    size_t len = n - name - 1;
    if (s[name] == '-' && !shape_of_size(g, rest, len, r.shape)) return bad(s, n, "no shape is known for this size");
    if (s[name] == ':' && !read_shape(rest, len, g->rank, r.shape)) return bad(s, n, g->rank == 2 ? "two factors are expected, as in 2x4" : "three factors are expected, as in 2x2x1");
    *out = r;
    return ST_OK;
}

int tpu_slice_chips(const tpu_slice *s) { return s->shape[0] * s->shape[1] * s->shape[2]; }
int tpu_slice_devices(const tpu_slice *s) { return tpu_slice_chips(s) * s->chip->devices_per_chip; }
