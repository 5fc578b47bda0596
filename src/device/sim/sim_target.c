#include "device/sim/sim_target.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "device/pjrt/options.h"

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

static status parse(const char *text, sim_target *t)
{
    const size_t n = strcspn(text, "?");
    const char *options = text[n] ? text + n + 1 : "";
    tpu_slice slice;
    TRY(tpu_slice_parse(text, n, &slice));
    if (n >= sizeof t->name) return err_set(ST_INVALID, "target \"%.80s\" has too long a name", text);
    if (strstr(options, "megacore") && chip_by_kind(slice.chip->kind, 2)) slice.chip = chip_by_kind(slice.chip->kind, 2);
    snprintf(t->name, sizeof t->name, "%.*s", (int)n, text);
    t->machine.chip = slice.chip;
    for (int i = 0; i < 3; i++) t->machine.shape[i] = slice.shape[i];
    status st = read_options(options, t);
    return st == ST_OK || st == ST_NOMEM ? st : err_wrap(st, "target \"%.100s\"", text);
}

status sim_target_parse(const char *text, sim_target *out)
{
    sim_target t = { .machine = { .n_slices = 1, .k = sim_constants_default }, .speed = 1 };
    TRY(parse(text, &t));
    *out = t;
    return ST_OK;
}

status sim_target_detect(const char *options, sim_target *out, tpu_found *found)
{
    char name[64];
    buf text = {0};
    const tpu_hints hints = { .accelerator_type = getenv("TPU_ACCELERATOR_TYPE"), .version = getenv("TPU_VERSION") };
    tpu_detect(&hints, found);
    const tpu_slice *s = &found->slice;
    if (s->chip) snprintf(name, sizeof name, s->rank == 3 ? "%s:%dx%dx%d" : "%s:%dx%d", s->chip->name, s->shape[0], s->shape[1], s->shape[2]);
    else snprintf(name, sizeof name, found->chip->ici_rank == 3 ? "%.32s:2x2x1" : "%.32s:2x4", found->chip->name);
    buf_printf(&text, "%s%s", name, options);
    status st = buf_status(&text);
    if (st == ST_OK) st = sim_target_parse(text.data, out);
    buf_free(&text);
    return st;
}
