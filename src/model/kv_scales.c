#include "model/kv_scales.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What stands for .k_scale and .v_scale behind the layer's name, the first one that is there counting. */
static const char *const names[2][7] = {
    { ".self_attn.k_scale", ".self_attn.attn.k_scale", ".self_attn.k_proj.k_scale", ".self_attn.qkv_proj.k_scale", ".self_attn.k_proj.output_scale",
      ".self_attn.kv_scale", ".self_attn.attn.kv_scale" },
    { ".self_attn.v_scale", ".self_attn.attn.v_scale", ".self_attn.v_proj.v_scale", ".self_attn.qkv_proj.v_scale", ".self_attn.v_proj.output_scale" } };
enum { N_NAMES = sizeof names[0] / sizeof *names[0] };

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

bool kv_scale_wanted(const char *name) { return ends_with(name, names[0][0]) || ends_with(name, names[1][0]); }

bool kv_scale_stored(const char *name)
{
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < N_NAMES && names[i][k]; k++)
            if (ends_with(name, names[i][k])) return true;
    return false;
}

/* -1 where it is unset. */
static status value_of(const st_tensor *t, float *out)
{
    float x;
    const bool one = (t->type == DT_F32 || t->type == DT_BF16 || t->type == DT_F16) && t->bytes == dtype_bytes(t->type, 1);
    if (!one) return err_set(ST_INVALID, "tensor %s is %s of %zu bytes, expected one number of f32, bf16 or f16: KV cache scales are per tensor", t->name, dtype_name(t->type), t->bytes);
    dtype_to_f32(t->type, t->data, &x, 1);
    if (x != -1 && !(x > 0 && isfinite(x))) return err_set(ST_INVALID, "tensor %s is %g, expected a positive number", t->name, (double)x);
    *out = x;
    return ST_OK;
}

status kv_scale_read(const quant_files *files, const char *name, float *out)
{
    float scale[2] = { -1, -1 };
    char full[QUANT_NAME_MAX + 64];
    const st_tensor *found[2] = { NULL, NULL };
    const int base = (int)(strlen(name) - strlen(names[0][0]));
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < N_NAMES && names[i][k] && !found[i]; k++) {
            const int n = snprintf(full, sizeof full, "%.*s%s", base, name, names[i][k]);
            if (n > 0 && (size_t)n < sizeof full) found[i] = files->find(files->arg, full);
        }
        if (found[i]) TRY(value_of(found[i], &scale[i]));
    }
    if (scale[0] < 0 && scale[1] > 0) return err_set(ST_INVALID, "tensor %s has no k_scale beside it", found[1]->name);
    if (scale[0] < 0) scale[0] = 1;
    if (scale[1] < 0) scale[1] = scale[0];
    *out = scale[ends_with(name, names[1][0])];
    return ST_OK;
}
