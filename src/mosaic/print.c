/* Kernels as the text that libtpu takes: the tpu dialect of MLIR, without a version (jaxlib/mosaic/dialect/tpu/tpu_ops.td has the
 * operations; what each line looks like was taken from what Pallas' own printer gives). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "mosaic/ir.h"

typedef struct printer {
    const mk *k;
    buf *out;
    int depth, n_temps;
} printer;

/* ---- names and types ---- */

static const char *type_name(dtype t)
{
    static const char *const names[DT_COUNT] = { [DT_F32] = "f32", [DT_BF16] = "bf16", [DT_I32] = "i32", [DT_I16] = "i16", [DT_I8] = "i8", [DT_I4] = "i4",
                                                 [DT_BOOL] = "i1", [DT_F8E4M3] = "f8E4M3FN", [DT_F8E5M2] = "f8E5M2" };
    return names[t];
}

static const char *const space_name[] = { [MK_HBM] = "hbm", [MK_VMEM] = "vmem", [MK_SMEM] = "smem", [MK_SEMAPHORE] = "semaphore_mem" };

static void put_dims(printer *p, int rank, const int64_t *dim)
{
    for (int i = 0; i < rank; i++)
        if (dim[i] < 0) buf_str(p->out, "?x");
        else buf_printf(p->out, "%lldx", (long long)dim[i]);
}

static void put_memref(printer *p, const mk_def *d, int rank, const int64_t *dim)
{
    buf_str(p->out, "memref<");
    put_dims(p, rank, dim);
    buf_printf(p->out, "%s, #tpu.memory_space<%s>>", d->kind == MK_DMA_SEM ? "!tpu.dma_semaphore" : d->kind == MK_COUNT_SEM ? "!tpu.semaphore" : type_name(d->type), space_name[d->space]);
}

static void put_vector(printer *p, dtype t, int rank, const int64_t *dim)
{
    if (!rank) {
        buf_str(p->out, type_name(t));
        return;
    }
    buf_str(p->out, "vector<");
    put_dims(p, rank, dim);
    buf_printf(p->out, "%s>", type_name(t));
}

static void put_type(printer *p, int id)
{
    const mk_def *d = &p->k->def[id];
    if (d->is_ref) put_memref(p, d, d->rank, d->dim);
    else put_vector(p, d->type, d->rank, d->dim);
}

static void put_name(printer *p, int id)
{
    const mk_def *d = &p->k->def[id];
    if (d->origin == MKV_ARG) buf_printf(p->out, "%%%s", p->k->arg[d->index].name);
    else if (d->origin == MKV_GRID) buf_printf(p->out, "%%_g%d", d->index);
    else if (d->origin == MKV_CONST) buf_printf(p->out, "%%_c%d", id);
    else buf_printf(p->out, "%%%d", id);
}

/* "%%_" stands for text that says: N = name of id, T = type of id; everything else is printf's affair. */
static void put(printer *p, const char *fmt, int a, int b)
{
    int id[2] = { a, b }, at = 0;
    for (const char *c = fmt; *c; c++) {
        if (*c == '$' && c[1] == 'N') put_name(p, id[at]), c++;
        else if (*c == '$' && c[1] == 'T') put_type(p, id[at]), at = at < 1 ? at + 1 : at, c++;
        else buf_char(p->out, *c);
    }
}

static void indent(printer *p)
{
    for (int i = 0; i < p->depth; i++) buf_str(p->out, "  ");
}

/* "  %7 = verb " */
static void begin_result(printer *p, int id, const char *verb)
{
    indent(p);
    put_name(p, id);
    buf_printf(p->out, " = %s ", verb);
}

static void end(printer *p) { buf_char(p->out, '\n'); }

static void put_names(printer *p, const int *ids, int n)
{
    for (int i = 0; i < n; i++) {
        if (i) buf_str(p->out, ", ");
        put_name(p, ids[i]);
    }
}

static void put_types(printer *p, const int *ids, int n)
{
    for (int i = 0; i < n; i++) {
        if (i) buf_str(p->out, ", ");
        put_type(p, ids[i]);
    }
}

static void put_list(printer *p, const int64_t *v, int n)
{
    buf_char(p->out, '[');
    for (int i = 0; i < n; i++) buf_printf(p->out, "%s%lld", i ? ", " : "", (long long)v[i]);
    buf_char(p->out, ']');
}

/* ---- constants ---- */

static void put_number(printer *p, dtype t, double v)
{
    if (t == DT_BOOL) buf_str(p->out, v != 0 ? "true" : "false");
    else if (!mk_is_float(t)) buf_printf(p->out, "%lld", (long long)v);
    else if (isfinite(v)) buf_printf(p->out, "%.9e", v);
    else buf_str(p->out, isnan(v) ? "0x7FC00000" : v < 0 ? "0xFF800000" : "0x7F800000");     /* f32 is the only type of float constants */
}

static void put_constant(printer *p, int id)
{
    const mk_def *d = &p->k->def[id];
    begin_result(p, id, "arith.constant");
    if (d->rank) buf_str(p->out, "dense<");
    put_number(p, d->type, d->imm);
    if (d->rank) buf_char(p->out, '>');
    if (d->rank || d->type != DT_BOOL) {
        buf_str(p->out, " : ");
        put_type(p, id);
    }
    end(p);
}

/* A temporary that the text alone needs; returns its number. */
static int splat(printer *p, dtype t, int rank, const int64_t *dim, double v)
{
    indent(p);
    buf_printf(p->out, "%%_t%d = arith.constant dense<", ++p->n_temps);
    put_number(p, t, v);
    buf_str(p->out, "> : ");
    put_vector(p, t, rank, dim);
    end(p);
    return p->n_temps;
}

/* Loads and stores take numbers of type index. Fills names with one per index. */
static void make_indices(printer *p, const int *ids, int n, int temps[MK_RANK])
{
    for (int i = 0; i < n; i++) {
        const mk_def *d = &p->k->def[ids[i]];
        temps[i] = 0;
        if (d->origin == MKV_CONST && d->imm == 0) continue;
        temps[i] = ++p->n_temps;
        indent(p);
        if (d->origin == MKV_CONST) buf_printf(p->out, "%%_t%d = arith.constant %lld : index\n", p->n_temps, (long long)d->imm);
        else {
            buf_printf(p->out, "%%_t%d = arith.index_cast ", p->n_temps);
            put_name(p, ids[i]);
            buf_str(p->out, " : i32 to index\n");
        }
    }
}

static void put_indices(printer *p, const int *temps, int n)
{
    buf_char(p->out, '[');
    for (int i = 0; i < n; i++) buf_printf(p->out, temps[i] ? "%s%%_t%d" : "%s%%_x0", i ? ", " : "", temps[i]);
    buf_char(p->out, ']');
}

/* ---- operations ---- */

static void put_elementwise(printer *p, const mk_op *op, const int *in, int out)
{
    const mk_op_info *info = &mk_op_infos[op->code];
    begin_result(p, out, mk_is_float(p->k->def[out].type) ? info->f_text : info->i_text);
    put_names(p, in, op->n_in);
    put(p, " : $T\n", out, 0);
}

static void put_compare(printer *p, const int *in, int out, int64_t pred)
{
    static const char *const f[] = { "oeq", "une", "olt", "ole", "ogt", "oge" }, *const s[] = { "eq", "ne", "slt", "sle", "sgt", "sge" };
    bool is_float = mk_is_float(p->k->def[in[0]].type);
    begin_result(p, out, is_float ? "arith.cmpf" : "arith.cmpi");
    buf_printf(p->out, "%s, ", is_float ? f[pred] : s[pred]);
    put_names(p, in, 2);
    put(p, " : $T\n", in[0], 0);
}

static const char *conversion(dtype from, dtype to)
{
    bool ff = mk_is_float(from), tf = mk_is_float(to);
    if (ff && tf) return dtype_bits(to) > dtype_bits(from) ? "arith.extf" : "arith.truncf";
    if (ff) return "arith.fptosi";
    if (tf) return "arith.sitofp";
    if (from == DT_BOOL) return "arith.extui";
    return dtype_bits(to) > dtype_bits(from) ? "arith.extsi" : "arith.trunci";
}

/* "%7 = verb %5 : from to to" */
static void put_cast(printer *p, const char *verb, int in, int out, const char *between)
{
    begin_result(p, out, verb);
    put_name(p, in);
    put(p, " : $T", in, 0);
    buf_str(p->out, between);
    put_type(p, out);
    end(p);
}

static void put_slice(printer *p, int in, int out, const int64_t *from)
{
    static const int64_t ones[MK_RANK] = { 1, 1, 1, 1, 1, 1 };
    const mk_def *d = &p->k->def[out];
    begin_result(p, out, "\"vector.extract_strided_slice\"");      /* its short form differs between versions of MLIR */
    buf_str(p->out, "(");
    put_name(p, in);
    buf_str(p->out, ") {offsets = ");
    put_list(p, from, d->rank);
    buf_str(p->out, ", sizes = ");
    put_list(p, d->dim, d->rank);
    buf_str(p->out, ", strides = ");
    put_list(p, ones, d->rank);
    buf_str(p->out, "} : (");
    put_type(p, in);
    buf_str(p->out, ") -> ");
    put_type(p, out);
    end(p);
}

/* Mosaic's reductions drop the dimension. */
static void put_reduce(printer *p, int in, int out, const int64_t *attr)
{
    const mk_def *d = &p->k->def[in];
    int64_t dim[MK_RANK];
    int rank = 0;
    for (int i = 0; i < d->rank; i++)
        if (i != attr[1]) dim[rank++] = d->dim[i];
    bool f = d->type == DT_F32;
    static const char *const kind[3][2] = { { "add", "add" }, { "maxsi", "maximumf" }, { "minsi", "minimumf" } };
    const double neutral[3][2] = { { 0, 0 }, { (double)INT32_MIN, -(double)INFINITY }, { (double)INT32_MAX, (double)INFINITY } };
    int acc = splat(p, d->type, rank ? rank : 1, rank ? dim : (int64_t[]){ 1 }, neutral[attr[0]][f]);
    indent(p);
    buf_printf(p->out, "%%_t%d = vector.multi_reduction <%s>, ", ++p->n_temps, kind[attr[0]][f]);
    put_name(p, in);
    buf_printf(p->out, ", %%_t%d [%lld] : ", acc, (long long)attr[1]);
    put_type(p, in);
    buf_str(p->out, " to ");
    put_vector(p, d->type, rank, dim);
    end(p);
    begin_result(p, out, "vector.shape_cast");
    buf_printf(p->out, "%%_t%d : ", p->n_temps);
    put_vector(p, d->type, rank, dim);
    buf_str(p->out, " to ");
    put_type(p, out);
    end(p);
}

static void put_matmul(printer *p, const int *in, int out, bool transposed)
{
    begin_result(p, out, "tpu.matmul");
    put_names(p, in, 3);
    buf_printf(p->out, " {dimension_numbers = #tpu.dot_dimension_numbers<%s, [], []>, transpose_lhs_hint = false", transposed ? "[1], [1], [0], [0], [0, 0, 1, 0]" : "[1], [0], [0], [1], [0, 0, 1, 1]");
    if (p->k->def[in[0]].type == DT_F32) buf_str(p->out, ", precision = #tpu.contract_precision<fp32>");
    buf_str(p->out, "} : ");
    put_types(p, in, 3);
    buf_str(p->out, " -> ");
    put_type(p, out);
    end(p);
}

static void put_extract(printer *p, int in, int out)
{
    const mk_def *d = &p->k->def[in];
    begin_result(p, out, "vector.extract");
    put_name(p, in);
    buf_char(p->out, '[');
    for (int i = 0; i < d->rank; i++) buf_str(p->out, i ? ", 0" : "0");
    buf_printf(p->out, "] : %s from ", type_name(d->type));
    put_type(p, in);
    end(p);
}

/* ---- memory ---- */

static void put_load(printer *p, const mk_op *op, const int *in, int out, const char *verb)
{
    int temps[MK_RANK];
    make_indices(p, in + 1, op->n_in - 1, temps);
    begin_result(p, out, verb);
    put_name(p, in[0]);
    put_indices(p, temps, op->n_in - 1);
    if (op->n_attr) buf_printf(p->out, " {strides = array<i32: %lld, 1>}", (long long)p->k->attrs[op->attr]);
    put(p, " : $T", in[0], 0);
    if (p->k->def[out].rank) put(p, ", $T", out, 0);
    end(p);
}

/* A load of scalars that mk_bake has made constant: first + step * index. */
static void put_baked(printer *p, const mk_arg *a, int index, int out)
{
    if (a->step) {
        indent(p);
        buf_printf(p->out, "%%_t%d = arith.constant %d : i32\n", ++p->n_temps, (int)a->step);
        indent(p);
        buf_printf(p->out, "%%_t%d = arith.muli %%_t%d, ", p->n_temps + 1, p->n_temps);
        p->n_temps++;
        put(p, "$N : i32\n", index, 0);
        indent(p);
        buf_printf(p->out, "%%_t%d = arith.constant %d : i32\n", ++p->n_temps, (int)a->first);
        begin_result(p, out, "arith.addi");
        buf_printf(p->out, "%%_t%d, %%_t%d : i32\n", p->n_temps, p->n_temps - 1);
    } else {
        begin_result(p, out, "arith.constant");
        buf_printf(p->out, "%d : i32\n", (int)a->first);
    }
}

static void put_get(printer *p, const mk_op *op, const int *in, int out)
{
    int arg = p->k->def[in[0]].origin == MKV_ARG ? p->k->def[in[0]].index : -1;
    if (arg >= 0 && p->k->arg[arg].baked) put_baked(p, &p->k->arg[arg], in[1], out);
    else put_load(p, op, in, out, "memref.load");
}

static void put_store(printer *p, const mk_op *op, const int *in)
{
    int rank = p->k->def[in[0]].rank, temps[MK_RANK], v = in[1 + rank], mask = op->n_in > 2 + rank ? in[2 + rank] : 0;
    make_indices(p, in + 1, rank, temps);
    indent(p);
    buf_str(p->out, "tpu.vector_store ");
    put_name(p, in[0]);
    put_indices(p, temps, rank);
    buf_str(p->out, ", ");
    put_name(p, v);
    if (mask) put(p, " masked $N", mask, 0);
    buf_str(p->out, " {strides = array<i32>} : ");
    put_type(p, in[0]);
    put(p, ", $T, ", v, 0);
    if (mask) put_type(p, mask);
    end(p);
}

static void put_store_strided(printer *p, const mk_op *op, const int *in)
{
    int temps[MK_RANK];
    make_indices(p, in + 1, 2, temps);
    indent(p);
    buf_str(p->out, "tpu.strided_store ");
    put_name(p, in[0]);
    put_indices(p, temps, 2);
    put(p, ", $N", in[3], 0);
    buf_printf(p->out, " {strides = array<i32: %lld, 1>} : ", (long long)p->k->attrs[op->attr]);
    put(p, "$T, $T\n", in[0], in[3]);
}

static void put_put(printer *p, const mk_op *op, const int *in)
{
    int rank = op->n_in - 2, temps[MK_RANK];
    make_indices(p, in + 1, rank, temps);
    indent(p);
    buf_str(p->out, "memref.store ");
    put_name(p, in[1 + rank]);
    buf_str(p->out, ", ");
    put_name(p, in[0]);
    put_indices(p, temps, rank);
    put(p, " : $T\n", in[0], 0);
}

static void put_view(printer *p, const mk_op *op, const int *in, int out, const int64_t *attr)
{
    const mk_def *r = &p->k->def[in[0]];
    bool squeezed = attr[r->rank] != 0;
    indent(p);
    if (squeezed) buf_printf(p->out, "%%_t%d", ++p->n_temps);
    else put_name(p, out);
    buf_str(p->out, " = tpu.memref_slice ");
    put_name(p, in[0]);
    buf_char(p->out, '[');
    put_names(p, in + 1, r->rank);
    buf_char(p->out, ']');
    if (op->n_in > 1 + r->rank) {
        buf_str(p->out, " <");
        put_names(p, in + 1 + r->rank, op->n_in - 1 - r->rank);
        buf_char(p->out, '>');
    }
    put(p, " : $T -> ", in[0], 0);
    put_memref(p, r, r->rank, attr);
    end(p);
    if (!squeezed) return;
    begin_result(p, out, "tpu.memref_squeeze");
    buf_printf(p->out, "%%_t%d : ", p->n_temps);
    put_memref(p, r, r->rank, attr);
    put(p, " -> $T\n", out, 0);
}

static void put_role(printer *p, const char *role, int id)
{
    buf_printf(p->out, "%s(", role);
    put_name(p, id);
    put(p, " : $T)", id, 0);
}

static void put_copy(printer *p, const mk_op *op, const int *in)
{
    indent(p);
    put_role(p, "tpu.enqueue_dma source", in[0]);
    put_role(p, " target", in[1]);
    if (op->code == MKO_COPY) put_role(p, " target_semaphore", in[2]);
    else {
        put_role(p, " source_semaphore", in[2]);
        put_role(p, " target_semaphore", in[3]);
        put(p, " device_id($N)", in[4], 0);
    }
    end(p);
}

static void put_wait(printer *p, const int *in)
{
    indent(p);
    put_role(p, "tpu.wait_dma2 semaphore", in[2]);
    put_role(p, " src", in[0]);
    put_role(p, " dst", in[1]);
    end(p);
}

static void put_signal(printer *p, const mk_op *op, const int *in)
{
    indent(p);
    buf_str(p->out, op->code == MKO_SIGNAL ? "tpu.sem_signal " : "tpu.sem_wait ");
    put_names(p, in, 2);
    if (op->n_in > 2) put(p, " device_id $N", in[2], 0);
    put(p, " : $T\n", in[0], 0);
}

/* ---- control ---- */

static void put_results(printer *p, const int *out, int n)
{
    indent(p);
    if (n) {
        put_names(p, out, n);
        buf_str(p->out, " = ");
    }
}

static void put_for(printer *p, const mk_op *op, const mk_op *last, const int *in, const int *out)
{
    int n = op->n_out - 1;
    put_results(p, p->k->ids + last->out, last->n_out);
    buf_str(p->out, "scf.for ");
    put_name(p, out[0]);
    put(p, " = $N to ", in[0], 0);
    put(p, "$N step %_i1", in[1], 0);
    for (int i = 0; i < n; i++) {
        buf_str(p->out, i ? ", " : " iter_args(");
        put_name(p, out[1 + i]);
        put(p, " = $N", in[2 + i], 0);
    }
    if (n) {
        buf_str(p->out, ") -> (");
        put_types(p, out + 1, n);
        buf_char(p->out, ')');
    }
    buf_str(p->out, " : i32 {\n");
    p->depth++;
}

static void put_if(printer *p, const mk_op *last, const int *in)
{
    const int *out = p->k->ids + last->out;
    put_results(p, out, last->n_out);
    put(p, "scf.if $N", in[0], 0);
    if (last->n_out) {
        buf_str(p->out, " -> (");
        put_types(p, out, last->n_out);
        buf_char(p->out, ')');
    }
    buf_str(p->out, " {\n");
    p->depth++;
}

static void put_yield(printer *p, const mk_op *op, const char *close)
{
    const int *in = p->k->ids + op->in;
    if (op->n_in) {
        indent(p);
        buf_str(p->out, "scf.yield ");
        put_names(p, in, op->n_in);
        buf_str(p->out, " : ");
        put_types(p, in, op->n_in);
        end(p);
    }
    p->depth--;
    indent(p);
    buf_str(p->out, close);
    if (close[1]) p->depth++;
}

/* The bracket that ends this one. */
static const mk_op *closing(const mk_list *l, int at)
{
    for (int depth = 0, i = at; i < l->n; i++) {
        depth += l->v[i].code == MKO_FOR || l->v[i].code == MKO_IF;
        depth -= l->v[i].code == MKO_END_FOR || l->v[i].code == MKO_END_IF;
        if (!depth) return &l->v[i];
    }
    return &l->v[at];
}

static void put_op(printer *p, const mk_list *l, int at)
{
    const mk *k = p->k;
    const mk_op *op = &l->v[at];
    const int *in = k->ids + op->in, *out = k->ids + op->out;
    const int64_t *attr = op->n_attr ? k->attrs + op->attr : NULL;
    switch (op->code) {
    case MKO_IOTA: begin_result(p, out[0], "tpu.iota"); buf_printf(p->out, "{dimensions = array<i32: %lld>}", (long long)attr[0]); put(p, " : $T\n", out[0], 0); break;
    case MKO_RECIP: begin_result(p, out[0], "tpu.reciprocal"); put_name(p, in[0]); put(p, attr[0] ? " {approx = true} : $T -> $T\n" : " : $T -> $T\n", in[0], out[0]); break;
    case MKO_CMP: put_compare(p, in, out[0], attr[0]); break;
    case MKO_SELECT: begin_result(p, out[0], "arith.select"); put_names(p, in, 3); put(p, k->def[in[0]].rank ? " : $T, $T\n" : " : $T, $T\n", in[0], out[0]); break;
    case MKO_CONVERT: put_cast(p, conversion(k->def[in[0]].type, k->def[out[0]].type), in[0], out[0], " to "); break;
    case MKO_BITCAST: put_cast(p, k->def[in[0]].rank ? "tpu.bitcast" : "arith.bitcast", in[0], out[0], k->def[in[0]].rank ? " -> " : " to "); break;
    case MKO_BROADCAST: put_cast(p, "vector.broadcast", in[0], out[0], " to "); break;
    case MKO_RESHAPE: put_cast(p, "vector.shape_cast", in[0], out[0], " to "); break;
    case MKO_TRANSPOSE: begin_result(p, out[0], "tpu.transpose"); put_name(p, in[0]); buf_str(p->out, ", "); put_list(p, attr, op->n_attr); put(p, " : $T -> $T\n", in[0], out[0]); break;
    case MKO_SLICE: put_slice(p, in[0], out[0], attr); break;
    case MKO_CONCAT: begin_result(p, out[0], "tpu.concatenate"); put_names(p, in, op->n_in); buf_printf(p->out, " in %lld : ", (long long)attr[0]); put_types(p, in, op->n_in); put(p, " -> $T\n", out[0], 0); break;
    case MKO_ROTATE: begin_result(p, out[0], "tpu.dynamic_rotate"); put(p, "$N by ", in[0], 0); put(p, "$N", in[1], 0); buf_printf(p->out, " dim %lld", (long long)attr[0]); put(p, " : $T, i32 -> $T\n", in[0], out[0]); break;
    case MKO_EXTRACT: put_extract(p, in[0], out[0]); break;
    case MKO_REDUCE: put_reduce(p, in[0], out[0], attr); break;
    case MKO_MATMUL: put_matmul(p, in, out[0], attr[0] != 0); break;
    case MKO_LOAD: put_load(p, op, in, out[0], op->n_attr ? "tpu.strided_load" : "vector.load"); break;
    case MKO_STORE: if (op->n_attr) put_store_strided(p, op, in); else put_store(p, op, in); break;
    case MKO_GET: put_get(p, op, in, out[0]); break;
    case MKO_PUT: put_put(p, op, in); break;
    case MKO_VIEW: put_view(p, op, in, out[0], attr); break;
    case MKO_MULTIPLE: begin_result(p, out[0], "tpu.assume_multiple"); put_name(p, in[0]); buf_printf(p->out, ", %lld : i32\n", (long long)attr[0]); break;
    case MKO_REF_BITCAST: put_cast(p, "tpu.memref_bitcast", in[0], out[0], " -> "); break;
    case MKO_REF_RESHAPE: put_cast(p, "tpu.memref_reshape", in[0], out[0], " -> "); break;
    case MKO_COPY: case MKO_SEND: put_copy(p, op, in); break;
    case MKO_WAIT: put_wait(p, in); break;
    case MKO_SIGNAL: case MKO_AWAIT: put_signal(p, op, in); break;
    case MKO_BARRIER: begin_result(p, out[0], "tpu.sem_barrier"); put(p, ": $T\n", out[0], 0); break;
    case MKO_DEVICE_ID: begin_result(p, out[0], "tpu.device_id"); buf_str(p->out, ": i32\n"); break;
    case MKO_FOR: put_for(p, op, closing(l, at), in, out); break;
    case MKO_IF: put_if(p, closing(l, at), in); break;
    case MKO_ELSE: put_yield(p, op, "} else {\n"); break;
    case MKO_END_FOR: case MKO_END_IF: put_yield(p, op, "}"); end(p); break;
    default: put_elementwise(p, op, in, out[0]);
    }
}

/* ---- functions ---- */

/* The constants that the list uses, each once. */
static void put_constants(printer *p, const mk_list *l, const int *extra, int n_extra)
{
    const mk *k = p->k;
    for (int c = 0; c < k->n_consts; c++) {
        bool used = false;
        for (int i = 0; i < n_extra && !used; i++) used = extra[i] == k->consts[c];
        for (int i = 0; i < l->n && !used; i++)
            for (int j = 0; j < l->v[i].n_in && !used; j++) used = k->ids[l->v[i].in + j] == k->consts[c];
        if (used) put_constant(p, k->consts[c]);
    }
}

static void put_params(printer *p, bool prefetched_only)
{
    const mk *k = p->k;
    int order[MK_ARGS], n = mk_arg_order(k, order), printed = 0;
    for (int i = 0; i < (k->n_grid ? k->n_grid : 1); i++) buf_printf(p->out, "%s%%_g%d: i32", printed++ ? ", " : "", i);
    for (int i = 0; i < n; i++) {
        const mk_arg *a = &k->arg[order[i]];
        if (prefetched_only && a->role != MK_PREFETCH) continue;
        buf_printf(p->out, "%s%%%s: ", printed++ ? ", " : "", a->name);
        put_type(p, a->id);
    }
}

static int count(const mk *k, mk_role role)
{
    int n = 0;
    for (int i = 0; i < k->n_args; i++) n += k->arg[i].role == role;
    return n;
}

static void put_attributes(printer *p)
{
    const mk *k = p->k;
    int order[MK_ARGS], n = mk_arg_order(k, order), printed = 0;
    buf_str(p->out, " attributes {dimension_semantics = [");
    for (int i = 0; i < (k->n_grid ? k->n_grid : 1); i++) buf_printf(p->out, "%s#tpu.dimension_semantics<%s>", i ? ", " : "", k->parallel[i] ? "parallel" : "arbitrary");
    buf_str(p->out, "], iteration_bounds = array<i64: ");
    for (int i = 0; i < (k->n_grid ? k->n_grid : 1); i++) buf_printf(p->out, "%s%lld", i ? ", " : "", k->n_grid ? (long long)k->grid[i] : 1);
    buf_printf(p->out, ">, scalar_prefetch = %d : i64, scratch_operands = %d : i64, tpu.core_type = #tpu.core_type<tc>, window_params = [", count(k, MK_PREFETCH), count(k, MK_SCRATCH));
    for (int i = 0; i < n; i++) {
        const mk_arg *a = &k->arg[order[i]];
        if (a->role != MK_IN && a->role != MK_OUT) continue;
        buf_str(p->out, printed++ ? ", {" : "{");
        if (a->windowed) {
            buf_printf(p->out, "transform_indices = @map_%s, window_bounds = array<i64: ", a->name);
            for (int j = 0; j < a->block.n; j++) buf_printf(p->out, "%s%lld", j ? ", " : "", (long long)a->block.v[j]);
            buf_char(p->out, '>');
        }
        buf_char(p->out, '}');
    }
    buf_str(p->out, "]}");
}

static void put_map(printer *p, const mk_arg *a)
{
    int n = a->dims.n;
    buf_printf(p->out, "func.func @map_%s(", a->name);
    put_params(p, true);
    buf_str(p->out, ") -> (");
    for (int i = 0; i < n; i++) buf_str(p->out, i ? ", i32" : "i32");
    buf_str(p->out, ") {\n  %_x0 = arith.constant 0 : index\n  %_i0 = arith.constant 0 : i32\n");
    put_constants(p, &a->map, a->map_out, a->mapped ? n : 0);
    for (int i = 0; i < a->map.n; i++) put_op(p, &a->map, i);
    buf_str(p->out, "  return ");
    for (int i = 0; i < n; i++) {
        if (i) buf_str(p->out, ", ");
        if (a->mapped) put_name(p, a->map_out[i]);
        else buf_str(p->out, "%_i0");
    }
    buf_str(p->out, " : ");
    for (int i = 0; i < n; i++) buf_str(p->out, i ? ", i32" : "i32");
    buf_str(p->out, "\n}\n");
}

status mk_print(const mk *k, buf *out)
{
    printer p = { .k = k, .out = out, .depth = 1 };
    if (!k->finished) return err_set(ST_INTERNAL, "kernel %s: printed before it was finished", k->name);
    buf_printf(out, "module {\nfunc.func @%s(", k->name);
    put_params(&p, false);
    buf_char(out, ')');
    put_attributes(&p);
    buf_str(out, " {\n  %_x0 = arith.constant 0 : index\n  %_i1 = arith.constant 1 : i32\n");
    put_constants(&p, &k->body, NULL, 0);
    for (int i = 0; i < k->body.n; i++) put_op(&p, &k->body, i);
    buf_str(out, "  return\n}\n");
    for (int i = 0; i < k->n_args; i++)
        if (k->arg[i].windowed) put_map(&p, &k->arg[i]);
    buf_str(out, "}\n");
    return buf_status(out);
}
