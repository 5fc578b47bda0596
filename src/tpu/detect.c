#include "tpu/detect.h"

#include <stdio.h>
#include <string.h>

static const char *const fallback = "v5e", *const simulated = "v6e";

static bool is_set(const char *s) { return s && *s; }

/* "TPU v6 lite", "TPU v6e": the kind itself, else the generation in it. */
static const chip *by_kind(const char *kind, int cores)
{
    static const struct { const char *part, *name; } parts[] = { { "v5 lite", "v5e" }, { "v5e", "v5e" }, { "v5p", "v5p" }, { "v6", "v6e" }, { "v5", "v5p" }, { "v4", "v4" },
                                                                 { "v3", "v3" }, { "7x", "v7x" }, { "v7", "v7x" } };
    const chip *c = chip_by_kind(kind, cores);
    for (size_t i = 0; !c && i < sizeof parts / sizeof *parts; i++)
        if (strstr(kind, parts[i].part)) c = chip_by_name(parts[i].name);
    return c;
}

/* "6", "v6e", "6e", "5p": a bare 5 is v5e. */
static const chip *by_version(const char *s)
{
    static const struct { const char *version, *name; } all[] = { { "3", "v3" }, { "4", "v4" }, { "5", "v5e" }, { "5e", "v5e" }, { "5p", "v5p" }, { "6", "v6e" }, { "6e", "v6e" },
                                                                  { "7", "v7x" }, { "7x", "v7x" } };
    const char *bare = s[0] == 'v' ? s + 1 : s;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].version, bare) == 0) return chip_by_name(all[i].name);
    return NULL;
}

/* Says where it is from; what is not in the table counts as v5e. */
static void found(tpu_found *f, tpu_source source, const chip *c, const char *what, const char *said)
{
    f->source = source;
    f->unknown = !c;
    f->chip = c ? c : chip_by_name(fallback);
    if (c) snprintf(f->message, sizeof f->message, "TPU %s by %s \"%.60s\"", c->name, what, said);
    else snprintf(f->message, sizeof f->message, "%s \"%.60s\" is no TPU that is known: the values of %s are taken, which may be far off", what, said, fallback);
}

/* Accelerator types of unknown sizes still name a generation. */
static void by_type(const char *s, tpu_found *f)
{
    tpu_slice slice;
    char name[16];
    size_t n = strcspn(s, "-");
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), s);
    found(f, TPU_BY_ACCELERATOR_TYPE, chip_by_name(name), "TPU_ACCELERATOR_TYPE", s);
    if (!f->unknown && s[n] == '-' && tpu_slice_parse(s, strlen(s), &slice) == ST_OK) f->slice = slice;
}

void tpu_detect(const tpu_hints *h, tpu_found *out)
{
    *out = (tpu_found){ 0 };
    if (is_set(h->kind)) found(out, TPU_BY_DEVICE, by_kind(h->kind, h->cores), "device kind", h->kind);
    if (out->chip && !out->unknown) return;
    tpu_found device = *out;
    if (is_set(h->accelerator_type)) by_type(h->accelerator_type, out);
    else if (is_set(h->version)) found(out, TPU_BY_VERSION, by_version(h->version), "TPU_VERSION", h->version);
    if (out->chip && !out->unknown) return;
    if (device.chip) *out = device;
    if (out->chip) return;
    out->source = TPU_SIMULATED;
    out->chip = chip_by_name(simulated);
    snprintf(out->message, sizeof out->message, "SIMULATION: no TPU is here and neither TPU_ACCELERATOR_TYPE nor TPU_VERSION names one, so %s is taken", simulated);
}
