#include "device/sim/sim_target.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/pjrt/options.h"
#include "device/pjrt/spec.h"

static size_t generation_len(const char *target) { return strcspn(target, ":-?"); }

static const chip *chip_of(const char *text, const char *options)
{
    char generation[16];
    snprintf(generation, sizeof generation, "%.*s", (int)generation_len(text), text);
    if (strcmp(generation, "v4") == 0 && strstr(options, "megacore")) return chip_by_kind("TPU v4", 2);
    return chip_by_name(strcmp(generation, "v5litepod") == 0 ? "v5e" : generation);
}

/* libtpu's name of the topology ends in its shape: "v5e:2x4". */
static void shape_of(const char *topology, int out[3])
{
    const char *s = strchr(topology, ':');
    out[0] = out[1] = out[2] = 1;
    for (int i = 0; i < 3 && s && *s; i++) {
        out[i] = (int)strtol(s + 1, NULL, 10);
        s = strchr(s + 1, 'x');
    }
}

typedef struct field { const char *name; double least, most; double *at; double scale; } field;

static status read_option(const pjrt_value *v, sim_target *t)
{
    sim_constants *k = &t->machine.k;
    double slices = t->machine.n_slices;
    const field fields[] = { { "speed", 0, 1e6, &t->speed, 1 }, { "slices", 1, 64, &slices, 1 }, { "mxu", 0.001, 10, &k->mxu, 1 }, { "hbm", 0.001, 10, &k->hbm, 1 },
                             { "ici", 0.001, 10, &k->ici, 1 }, { "op_us", 0, 1e4, &k->op_s, 1e-6 }, { "step_ms", 0, 1e4, &k->step_s, 1e-3 } };
    if (strcmp(v->name, "chip_config_name") == 0) return ST_OK; /* chip_of */
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const field *f = &fields[i];
        if (strcmp(v->name, f->name) != 0) continue;
        const double x = v->kind == PJRT_INT ? (double)v->i64 : v->kind == PJRT_REAL ? v->real : NAN;
        if (!(x >= f->least && x <= f->most)) return err_set(ST_INVALID, "%s must be a number from %g to %g", f->name, f->least, f->most);
        *f->at = x * f->scale;
        t->machine.n_slices = (int)slices;
        return ST_OK;
    }
    return err_set(ST_INVALID, "no option %s; options are speed, slices, mxu, hbm, ici, op_us, step_ms", v->name);
}

static status read_options(const char *options, sim_target *t)
{
    pjrt_values values = {0};
    TRY(pjrt_values_parse(options, &values));
    status st = ST_OK;
    for (size_t i = 0; i < values.n && st == ST_OK; i++) st = read_option(&values.v[i], t);
    pjrt_values_free(&values);
    return st;
}

static status fill(const char *text, const pjrt_place *place, sim_target *t)
{
    if (strcspn(text, "?") >= sizeof t->name) return err_set(ST_INVALID, "target \"%.80s\" has too long a name", text);
    snprintf(t->name, sizeof t->name, "%.*s", (int)strcspn(text, "?"), text);
    t->machine.chip = chip_of(text, place->options);
    if (!t->machine.chip) return err_set(ST_INTERNAL, "target %s is not in the chip table", text);
    shape_of(place->path, t->machine.shape);
    return read_options(place->options, t);
}

status sim_target_parse(const char *text, sim_target *out)
{
    sim_target t = { .machine = { .n_slices = 1, .k = sim_constants_default }, .speed = 1 };
    pjrt_place place;
    TRY(pjrt_target_parse(text, &place));
    status st = fill(text, &place, &t);
    pjrt_place_free(&place);
    if (st != ST_OK) return err_wrap(st, "target \"%.100s\"", text);
    *out = t;
    return ST_OK;
}
