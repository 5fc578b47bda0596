/* Mosaic kernels in StableHLO programs: stablehlo.custom_call @tpu_custom_call. */
#include <string.h>

#include "ops/hlo_text.h"

hlo_kernel_seen *hlo_on_kernel;

/* The configuration as a string of MLIR. */
static void put_config(hlo *h, const mk *kernel)
{
    buf config = {0};
    status st = mk_config(kernel, &config);
    hlo_fail_as(h, st);
    if (hlo_on_kernel && st == ST_OK) hlo_on_kernel(kernel, config.data, config.len);
    for (const char *c = buf_cstr(&config); *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') buf_printf(&h->text, "\\%02X", (unsigned)(unsigned char)*c);
        else buf_char(&h->text, *c);
    buf_free(&config);
}

/* Everything is row-major. */
static void put_layouts(hlo *h, const char *name, const hlo_val *v, int n)
{
    buf_printf(&h->text, ", %s = [", name);
    for (int i = 0; i < n; i++) {
        buf_str(&h->text, i ? ", dense<" : "dense<");
        if (v[i].rank) buf_char(&h->text, '[');
        for (int d = v[i].rank - 1; d >= 0; d--) buf_printf(&h->text, d ? "%d, " : "%d", d);
        if (v[i].rank) buf_char(&h->text, ']');
        buf_printf(&h->text, "> : tensor<%dxindex>", v[i].rank);
    }
    buf_char(&h->text, ']');
}

static void put_aliases(hlo *h, const mk *kernel)
{
    int n = mk_n_results(kernel), found = 0;
    for (int i = 0; i < n; i++) {
        int operand = mk_result_at(kernel, i).alias;
        if (operand < 0) continue;
        buf_printf(&h->text, "%s#stablehlo.output_operand_alias<output_tuple_indices = [", found++ ? ", " : ", output_operand_aliases = [");
        if (n > 1) buf_printf(&h->text, "%d", i);
        buf_printf(&h->text, "], operand_index = %d, operand_tuple_indices = []>", operand);
    }
    if (found) buf_char(&h->text, ']');
}

static hlo_val value_of(mk_operand o)
{
    hlo_val v = { .sub = -1, .type = o.type, .rank = o.rank };
    memcpy(v.dim, o.dim, sizeof v.dim < sizeof o.dim ? sizeof v.dim : sizeof o.dim);
    return v;
}

/* The operand as the kernel declares it. Kernels know bytes as i8 only. */
static hlo_val fitted(hlo *h, const mk *kernel, int i, hlo_val v)
{
    mk_operand want = mk_operand_at(kernel, i);
    if (want.rank == 1 && want.dim[0] == 1 && v.rank == 0 && hlo_is(v)) v = hlo_reshape(h, v, 1, (int64_t[]){ 1 });
    bool same = (v.type == want.type || (v.type == DT_U8 && want.type == DT_I8)) && v.rank == want.rank;
    for (int d = 0; same && d < want.rank; d++) same = v.dim[d] == want.dim[d];
    if (!same) hlo_fail(h, "kernel %s: operand %d, %s, differs in type or shape", mk_name(kernel), i, want.name);
    return v;
}

hlo_val hlo_custom_call(hlo *h, const mk *kernel, const hlo_val *operands, int n, hlo_val *results)
{
    hlo_val in[MK_ARGS], out[MK_ARGS];
    int n_out = mk_n_results(kernel);
    if (n != mk_n_operands(kernel) || n > MK_ARGS || n_out < 1 || (n_out > 1 && !results)) {
        hlo_fail(h, "kernel %s: %d operands, expected %d", mk_name(kernel), n, mk_n_operands(kernel));
        return (hlo_val){ .sub = -1 };
    }
    for (int i = 0; i < n; i++) in[i] = fitted(h, kernel, i, operands[i]);
    int id = ++h->next_id;
    for (int i = 0; i < n_out; i++) {
        out[i] = value_of(mk_result_at(kernel, i));
        out[i].id = id;
        out[i].sub = n_out > 1 ? i : -1;
    }
    hlo_indent(h);
    buf_printf(&h->text, n_out > 1 ? "%%%d:%d = stablehlo.custom_call @tpu_custom_call(" : "%%%d = stablehlo.custom_call @tpu_custom_call(", id, n_out);
    for (int i = 0; i < n; i++) {
        if (i) buf_str(&h->text, ", ");
        hlo_put_val(h, in[i]);
    }
    buf_str(&h->text, ") {backend_config = \"");
    put_config(h, kernel);
    buf_printf(&h->text, "\", kernel_name = \"%s\"", mk_name(kernel));
    if (mk_options_of(kernel)->side_effect) buf_str(&h->text, ", has_side_effect = true, mhlo.sharding = \"{manual}\"");
    put_layouts(h, "operand_layouts", in, n);
    put_layouts(h, "result_layouts", out, n_out);
    put_aliases(h, kernel);
    buf_char(&h->text, '}');
    hlo_put_signatures(h, in, n, out, n_out);
    for (int i = 0; results && i < n_out; i++) results[i] = out[i];
    return out[0];
}

status hlo_kernel_program(const mk *kernel, int devices, buf *out)
{
    hlo h;
    hlo_arg args[MK_ARGS];
    hlo_val in[MK_ARGS], results[MK_ARGS];
    int n = mk_n_operands(kernel), n_out = mk_n_results(kernel);
    for (int j = 0; j < n; j++) {
        mk_operand o = mk_operand_at(kernel, j);
        args[j] = (hlo_arg){ .name = o.name, .type = o.type, .rank = o.rank, .alias = -1 };
        memcpy(args[j].dim, o.dim, sizeof args[j].dim);
    }
    for (int j = 0; j < n_out; j++)
        if (mk_result_at(kernel, j).alias >= 0) args[mk_result_at(kernel, j).alias].alias = j;
    hlo_begin(&h, mk_name(kernel), (mesh){ .dp = 1, .tp = devices }, args, n, in);
    hlo_custom_call(&h, kernel, in, n, results);
    return hlo_finish(&h, results, n_out, out);
}
