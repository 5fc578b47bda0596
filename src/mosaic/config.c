/* The backend_config of a kernel's custom call: the kernel's text in base64 and what the compiler is told of it. */
#include <string.h>

#include "base/json.h"
#include "mosaic/ir.h"

static void base64(buf *out, const char *s, size_t n)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        unsigned v = (unsigned)(unsigned char)s[i] << 16;
        if (i + 1 < n) v |= (unsigned)(unsigned char)s[i + 1] << 8;
        if (i + 2 < n) v |= (unsigned)(unsigned char)s[i + 2];
        buf_char(out, digit[v >> 18]);
        buf_char(out, digit[v >> 12 & 63]);
        buf_char(out, i + 1 < n ? digit[v >> 6 & 63] : '=');
        buf_char(out, i + 2 < n ? digit[v & 63] : '=');
    }
}

/* Operands that the kernel wants in HBM: XLA would otherwise place small ones in VMEM. */
static void put_colors(jw *w, const char *key, bool outputs, const mk *k)
{
    int order[MK_ARGS], n = mk_arg_order(k, order), at = 0, found = 0;
    for (int i = 0; i < n; i++) {
        const mk_arg *a = &k->arg[order[i]];
        if (a->role == MK_SCRATCH || (a->role == MK_OUT) != outputs) continue;
        if (a->role != MK_PREFETCH && !a->windowed) {
            if (!found++) {
                jw_key(w, key);
                jw_arr(w);
            }
            jw_obj(w);
            if (!outputs) jw_put_i64(w, "operand_index", at);
            else if (mk_n_results(k) > 1) {
                jw_key(w, "shape_index");
                jw_arr(w);
                jw_i64(w, at);
                jw_end_arr(w);
            }
            jw_put_i64(w, "color", 0);
            jw_end_obj(w);
        }
        at++;
    }
    if (found) jw_end_arr(w);
}

static void put_cost(jw *w, const mk_options *o)
{
    jw_key(w, "cost_estimate");
    jw_obj(w);
    jw_put_i64(w, "flops", (int64_t)o->flops);
    jw_put_i64(w, "transcendentals", (int64_t)o->transcendentals);
    jw_put_i64(w, "bytes_accessed", (int64_t)o->bytes);
    if (o->remote_bytes > 0) jw_put_i64(w, "remote_bytes_transferred", (int64_t)o->remote_bytes);
    jw_end_obj(w);
}

status mk_config(const mk *k, buf *out)
{
    const mk_options *o = &k->options;
    buf text = { 0 }, body = { 0 };
    status st = mk_print(k, &text);
    if (st == ST_OK) base64(&body, text.data, text.len);
    buf_free(&text);
    if (st == ST_OK) st = buf_status(&body);
    if (st != ST_OK) goto out;
    jw w = jw_to(out);
    jw_obj(&w);
    jw_key(&w, "custom_call_config");
    jw_obj(&w);
    jw_put_str(&w, "body", buf_cstr(&body));
    jw_put_bool(&w, "needs_layout_passes", true);
    put_cost(&w, o);
    put_colors(&w, "input_memory_space_colors", false, k);
    put_colors(&w, "output_memory_space_colors", true, k);
    if (!o->bounds_checks) jw_put_bool(&w, "disable_bounds_checks", true);
    if (!o->semaphore_checks) jw_put_bool(&w, "disable_semaphore_checks", true);
    if (k->communicates) jw_put_bool(&w, "has_communication", true);
    if (o->collective_id) jw_put_i64(&w, "collective_id", o->collective_id);
    jw_end_obj(&w);
    if (o->vmem_limit_bytes > 0) {
        jw_key(&w, "scoped_memory_configs");
        jw_arr(&w);
        jw_obj(&w);
        jw_put_i64(&w, "memory_space", 1);
        jw_put_i64(&w, "offset", 0);
        jw_put_i64(&w, "size", o->vmem_limit_bytes);
        jw_end_obj(&w);
        jw_end_arr(&w);
    }
    jw_end_obj(&w);
    st = buf_status(out);
out:
    buf_free(&body);
    return st;
}
