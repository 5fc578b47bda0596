/* The interpreter: memory of a run, steps of the grid, control, devices that take turns. */
#include "mosaic/interp.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "mosaic/interp_internal.h"

mk_next mk_no_memory(mk_machine *m)
{
    m->st = err_nomem();
    return MK_FAILED;
}

mk_next mk_trap(mk_machine *m, const mk_device *d, const char *fmt, ...)
{
    const mk *k = m->k;
    char text[400], where[160] = "";
    size_t n = 0;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (d) {
        if (m->n_devices > 1) n = (size_t)snprintf(where, sizeof where, ", device %d", d->id);
        for (int i = 0; i < k->n_grid; i++) n += (size_t)snprintf(where + n, sizeof where - n, i ? ", %lld" : ", step [%lld", (long long)d->step[i]);
        if (k->n_grid) n += (size_t)snprintf(where + n, sizeof where - n, "]");
        const mk_list *l = mk_code_of(k, m->current);
        if (m->at >= 0 && m->at < l->n) snprintf(where + n, sizeof where - n, ", operation %d%s (%s)", m->at, m->current ? " of a map" : "", mk_op_infos[l->v[m->at].code].name);
    }
    m->st = err_set(ST_INVALID, "kernel %s%s: %s", k->name, where, text);
    return MK_FAILED;
}

/* ---- memory ---- */

static void *take(mk_machine *m, int64_t n, size_t size)
{
    if (n < 0 || (size && n > m->bytes_left / (int64_t)size)) {
        m->st = err_set(ST_LIMIT, "kernel %s: needs more memory than it may have", m->k->name);
        return NULL;
    }
    m->bytes_left -= n * (int64_t)size;
    void *p = mem_calloc((size_t)n + 1, size);
    if (!p) mk_no_memory(m);
    return p;
}

static bool make_mem(mk_machine *m, mk_mem *mem, dtype t, mk_dims dims, void *data)
{
    *mem = (mk_mem){ .data = data, .n = mk_count(dims.n, dims.v), .type = t, .size = mk_element(t) };
    if (!data) {
        mem->data = mem->own = take(m, mem->n, mem->size);
        if (mem->data) mk_poison(t, mem->data, mem->n);
    }
    return mem->data != NULL;
}

static bool make_arg(mk_machine *m, mk_device *d, int i, void *data)
{
    const mk_arg *a = &m->k->arg[i];
    if (a->kind != MK_ARRAY) return (d->sems[i] = take(m, mk_count(a->dims.n, a->dims.v), sizeof *d->sems[i])) != NULL;
    if (!a->windowed) return make_mem(m, &d->mem[i], a->type, a->dims, data);
    d->window[i].next = take(m, mk_count(a->block.n, a->block.v), mk_element(a->type));
    return d->window[i].next && make_mem(m, &d->array[i], a->type, a->dims, data) && make_mem(m, &d->mem[i], a->type, a->block, NULL);
}

/* An aliased input is the output's memory. */
static void *data_of(const mk_machine *m, int i, const int *rank, void *const *operands, void *const *results)
{
    const mk *k = m->k;
    const mk_arg *a = &k->arg[i];
    if (a->role == MK_OUT) return results[rank[i] - mk_n_operands(k)];
    for (int j = 0; j < k->n_args; j++)
        if (k->arg[j].role == MK_OUT && k->arg[j].alias == i) return results[rank[j] - mk_n_operands(k)];
    return operands[rank[i]];
}

static bool make_args(mk_machine *m, mk_device *d, void *const *operands, void *const *results)
{
    const mk *k = m->k;
    int order[MK_ARGS], rank[MK_ARGS], n = mk_arg_order(k, order);
    for (int i = 0; i < n; i++) rank[order[i]] = i;
    for (int i = 0; i < n; i++) {
        const mk_arg *a = &k->arg[order[i]];
        void *data = a->role == MK_SCRATCH ? NULL : data_of(m, order[i], rank, operands, results);
        if (a->role == MK_OUT && a->alias < 0) mk_poison(a->type, data, mk_count(a->dims.n, a->dims.v));
        if (a->role == MK_OUT && a->alias >= 0 && data != operands[rank[a->alias]]) memcpy(data, operands[rank[a->alias]], mk_array_bytes(a->type, a->dims.n, a->dims.v));
        if (!make_arg(m, d, order[i], data)) return false;
    }
    return true;
}

/* One array for all values; constants are in their places from the start. */
static bool make_slots(mk_machine *m, mk_device *d)
{
    const mk *k = m->k;
    int64_t total = 0, at = 0;
    d->slot = take(m, k->n_defs, sizeof *d->slot);
    d->region = take(m, k->n_defs, sizeof *d->region);
    if (!d->slot || !d->region) return false;
    for (int i = 1; i < k->n_defs; i++)
        if (!k->def[i].is_ref) total += (mk_count(k->def[i].rank, k->def[i].dim) + 15) / 16 * 64;
    d->slots = take(m, total, 1);
    if (!d->slots) return false;
    for (int i = 1; i < k->n_defs; i++) {
        const mk_def *v = &k->def[i];
        if (v->is_ref) continue;
        int64_t n = mk_count(v->rank, v->dim);
        d->slot[i] = d->slots + at;
        at += (n + 15) / 16 * 64;
        if (v->origin == MKV_CONST) mk_fill(v->type, d->slot[i], n, v->imm);
    }
    return true;
}

static void make_regions(mk_machine *m, mk_device *d)
{
    for (int i = 0; i < m->k->n_args; i++) {
        const mk_arg *a = &m->k->arg[i];
        const mk_def *v = &m->k->def[a->id];
        mk_region r = { .mem = i, .type = v->type, .rank = v->rank };
        int64_t stride = 1;
        for (int j = v->rank - 1; j >= 0; j--) {
            r.size[j] = v->dim[j];
            r.stride[j] = stride;
            stride *= v->dim[j];
        }
        d->region[a->id] = r;
    }
}

static bool make_device(mk_machine *m, int id, void *const *operands, void *const *results)
{
    mk_device *d = &m->dev[id];
    d->id = id;
    if (!make_args(m, d, operands + (size_t)id * (size_t)mk_n_operands(m->k), results + (size_t)id * (size_t)mk_n_results(m->k)) || !make_slots(m, d)) return false;
    make_regions(m, d);
    return true;
}

static void free_device(mk_device *d)
{
    for (int i = 0; i < MK_ARGS; i++) {
        mem_free(d->mem[i].own);
        mem_free(d->mem[i].shadow);
        mem_free(d->array[i].own);
        mem_free(d->window[i].next);
        mem_free(d->sems[i]);
    }
    mem_free(d->slot);
    mem_free(d->region);
    mem_free(d->slots);
}

/* ---- control ---- */

/* jump[i]: of FOR its END_FOR and back; of IF its ELSE or END_IF, of ELSE its END_IF. */
static bool make_jumps(mk_machine *m)
{
    const mk_list *l = &m->k->body;
    int open[MK_DEPTH], n = 0;
    m->jump = take(m, l->n, sizeof *m->jump);
    if (!m->jump) return false;
    for (int i = 0; i < l->n; i++) {
        mk_code c = l->v[i].code;
        if (c == MKO_FOR || c == MKO_IF) open[n++] = i;
        else if (c == MKO_ELSE) {
            m->jump[open[n - 1]] = i;
            open[n - 1] = i;
        } else if (c == MKO_END_FOR || c == MKO_END_IF) {
            m->jump[open[--n]] = i;
            m->jump[i] = open[n];
        }
    }
    return true;
}

static size_t slot_bytes(const mk *k, int id) { return (size_t)mk_count(k->def[id].rank, k->def[id].dim) * 4; }

static void move_values(const mk_machine *m, mk_device *d, const int *from, const int *to, int n)
{
    for (int i = 0; i < n; i++) memmove(d->slot[to[i]], d->slot[from[i]], slot_bytes(m->k, from[i]));
}

/* All at once: a value may be among both, in another place. */
static mk_next move_parallel(mk_machine *m, mk_device *d, const int *from, const int *to, int n)
{
    bool crossed = false;
    size_t total = 0, at = 0;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) crossed |= i != j && from[i] == to[j];
        total += slot_bytes(m->k, from[i]);
    }
    if (!crossed) {
        move_values(m, d, from, to, n);
        return MK_GO_ON;
    }
    char *aside = mem_alloc(total);
    if (!aside) return mk_no_memory(m);
    for (int i = 0; i < n; at += slot_bytes(m->k, from[i]), i++) memcpy(aside + at, d->slot[from[i]], slot_bytes(m->k, from[i]));
    at = 0;
    for (int i = 0; i < n; at += slot_bytes(m->k, from[i]), i++) memcpy(d->slot[to[i]], aside + at, slot_bytes(m->k, from[i]));
    mem_free(aside);
    return MK_GO_ON;
}

static void run_for(const mk_machine *m, mk_device *d, const mk_op *op)
{
    const int *in = m->k->ids + op->in, *out = m->k->ids + op->out;
    const mk_op *end = &m->k->body.v[m->jump[d->pc]];
    int32_t lo = mk_int(d, in[0]);
    if (lo < mk_int(d, in[1])) {
        *(int32_t *)d->slot[out[0]] = lo;
        move_values(m, d, in + 2, out + 1, op->n_out - 1);
        d->pc++;
    } else {
        move_values(m, d, in + 2, m->k->ids + end->out, end->n_out);
        d->pc = m->jump[d->pc] + 1;
    }
}

static mk_next run_end_for(mk_machine *m, mk_device *d, const mk_op *op)
{
    const mk_op *begin = &m->k->body.v[m->jump[d->pc]];
    const int *carried = m->k->ids + begin->out + 1;
    int32_t *i = d->slot[carried[-1]], hi = mk_int(d, m->k->ids[begin->in + 1]);
    if (move_parallel(m, d, m->k->ids + op->in, carried, op->n_in) != MK_GO_ON) return MK_FAILED;
    if (*i < hi - 1) {
        ++*i;
        d->pc = m->jump[d->pc] + 1;
    } else {
        move_values(m, d, carried, m->k->ids + op->out, op->n_out);
        d->pc++;
    }
    return MK_GO_ON;
}

static void run_branch(const mk_machine *m, mk_device *d, const mk_op *op)
{
    if (op->code == MKO_IF) {
        d->pc = mk_int(d, m->k->ids[op->in]) ? d->pc + 1 : m->jump[d->pc] + 1;
        return;
    }
    int end = op->code == MKO_ELSE ? m->jump[d->pc] : d->pc;       /* the first branch ends, or the last one */
    move_values(m, d, m->k->ids + op->in, m->k->ids + m->k->body.v[end].out, op->n_in);
    d->pc = end + 1;
}

static mk_next run_op(mk_machine *m, mk_device *d, const mk_list *l, int at)
{
    const mk_op *op = &l->v[at];
    m->at = at;
    m->report.operations++;
    if (--m->left < 0) return mk_trap(m, d, "too many operations");
    return op->code >= MKO_LOAD && op->code != MKO_MULTIPLE && op->code != MKO_DEVICE_ID ? mk_run_memory(m, d, op) : mk_run_value(m, d, op);
}

/* Goes on with the body until it ends (MK_GO_ON), waits or fails. */
static mk_next run_body(mk_machine *m, mk_device *d)
{
    const mk_list *l = &m->k->body;
    m->current = 0;
    d->started = true;
    while (d->pc < l->n) {
        const mk_op *op = &l->v[d->pc];
        m->at = d->pc;
        if (op->code < MKO_FOR) {
            mk_next next = run_op(m, d, l, d->pc);
            if (next != MK_GO_ON) return next;
            d->pc++;
            continue;
        }
        if (--m->left < 0) return mk_trap(m, d, "too many operations");
        if (op->code == MKO_FOR) run_for(m, d, op);
        else if (op->code != MKO_END_FOR) run_branch(m, d, op);
        else if (run_end_for(m, d, op) != MK_GO_ON) return MK_FAILED;
    }
    m->at = -1;
    return MK_GO_ON;
}

/* ---- windows ---- */

static void set_grid(const mk_machine *m, mk_device *d, const int64_t *step)
{
    for (int i = 0; i < m->k->n_grid; i++) *(int32_t *)d->slot[m->k->grid_id[i]] = (int32_t)step[i];
}

/* Which block argument i wants in that step. */
static mk_next map_block(mk_machine *m, mk_device *d, int i, const int64_t *step, int64_t *at)
{
    const mk_arg *a = &m->k->arg[i];
    memset(at, 0, MK_RANK * sizeof *at);
    set_grid(m, d, step);
    m->current = i + 1;
    for (int j = 0; j < a->map.n; j++)
        if (run_op(m, d, &a->map, j) != MK_GO_ON) return MK_FAILED;
    m->at = -1;
    for (int j = 0; a->mapped && j < a->dims.n; j++) {
        at[j] = mk_int(d, a->map_out[j]);
        if (at[j] < 0 || at[j] > (a->dims.v[j] - 1) / a->block.v[j]) return mk_trap(m, d, "%s: block %lld of dimension %d, which has %lld", a->name, (long long)at[j], j, (long long)((a->dims.v[j] - 1) / a->block.v[j] + 1));
    }
    m->current = 0;
    return MK_GO_ON;
}

/* Between the array and a block of it; what is outside of the array stays as it is. */
static void move_block(mk_machine *m, mk_mem *array, const mk_arg *a, const int64_t *at, char *block, bool in)
{
    int64_t i[MK_RANK] = { 0 }, rows, lanes = a->block.v[a->block.n - 1];
    int last = a->block.n - 1;
    int64_t first = at[last] * lanes, n = a->dims.v[last] - first < lanes ? a->dims.v[last] - first : lanes;
    rows = mk_count(a->block.n, a->block.v) / lanes;
    for (int64_t r = 0; r < rows; r++, block += (size_t)lanes * array->size) {
        int64_t from = 0, rest = r;
        bool inside = true;
        for (int j = last - 1; j >= 0; j--) {
            i[j] = at[j] * a->block.v[j] + rest % a->block.v[j];
            rest /= a->block.v[j];
            inside &= i[j] < a->dims.v[j];
        }
        for (int j = 0; j < last; j++) from = from * a->dims.v[j] + i[j];
        if (!inside) continue;
        char *p = array->data + ((size_t)from * (size_t)a->dims.v[last] + (size_t)first) * array->size;
        if (in) memcpy(block, p, (size_t)n * array->size);
        else memcpy(p, block, (size_t)n * array->size);
        m->report.hbm_bytes += n * (int64_t)array->size;
    }
}

/* Blocks of the step that comes, fetched before the one that is now runs. */
static mk_next fetch_next(mk_machine *m, mk_device *d, const int64_t *step)
{
    for (int i = 0; i < m->k->n_args; i++) {
        const mk_arg *a = &m->k->arg[i];
        mk_window *w = &d->window[i];
        if (!a->windowed) continue;
        if (map_block(m, d, i, step, w->next_at) != MK_GO_ON) return MK_FAILED;
        w->next_loaded = w->loaded && memcmp(w->at, w->next_at, (size_t)a->dims.n * sizeof *w->at) == 0;
        if (w->next_loaded) continue;
        mk_poison(a->type, w->next, mk_count(a->block.n, a->block.v));
        if (a->role == MK_IN || a->alias >= 0) move_block(m, &d->array[i], a, w->next_at, w->next, true);
    }
    return MK_GO_ON;
}

static void write_back(mk_machine *m, mk_device *d, bool last)
{
    for (int i = 0; i < m->k->n_args; i++) {
        const mk_arg *a = &m->k->arg[i];
        mk_window *w = &d->window[i];
        if (a->windowed && a->role == MK_OUT && w->loaded && (last || !w->next_loaded)) move_block(m, &d->array[i], a, w->at, d->mem[i].data, false);
    }
}

static void turn_windows(const mk_machine *m, mk_device *d)
{
    for (int i = 0; i < m->k->n_args; i++) {
        mk_window *w = &d->window[i];
        if (!m->k->arg[i].windowed) continue;
        if (!w->next_loaded) {
            char *old = d->mem[i].own;
            d->mem[i].data = d->mem[i].own = w->next;
            w->next = old;
        }
        memcpy(w->at, w->next_at, sizeof w->at);
        w->loaded = true;
    }
}

/* ---- steps ---- */

static bool next_step(const mk *k, int64_t *step)
{
    for (int i = k->n_grid - 1; i >= 0; i--) {
        if (++step[i] < k->grid[i]) return true;
        step[i] = 0;
    }
    return false;
}

static mk_next begin_step(mk_machine *m, mk_device *d, bool first)
{
    int64_t next[MK_GRID];
    memcpy(next, d->step, sizeof next);
    m->at = -1;
    if (first && fetch_next(m, d, d->step) != MK_GO_ON) return MK_FAILED;
    turn_windows(m, d);
    bool more = next_step(m->k, next);
    if (more && fetch_next(m, d, next) != MK_GO_ON) return MK_FAILED;
    set_grid(m, d, d->step);
    d->pc = 0;
    d->in_step = true;
    return MK_GO_ON;
}

/* Until it waits, fails or has finished (MK_GO_ON). */
static mk_next run_device(mk_machine *m, mk_device *d)
{
    for (;;) {
        if (!d->in_step && begin_step(m, d, !d->started) != MK_GO_ON) return MK_FAILED;
        mk_next next = run_body(m, d);
        if (next != MK_GO_ON) return next;
        int64_t step[MK_GRID];
        memcpy(step, d->step, sizeof step);
        bool more = next_step(m->k, step);
        if (mk_check_windows(m, d) != MK_GO_ON) return MK_FAILED;
        write_back(m, d, !more);
        d->in_step = false;
        if (!more) break;
        memcpy(d->step, step, sizeof step);
    }
    d->finished = true;
    return MK_GO_ON;
}

/* The devices take turns; a round in which none got any further is a deadlock. */
static mk_next run_devices(mk_machine *m)
{
    for (;;) {
        bool moved = false, waiting = false;
        for (int i = 0; i < m->n_devices; i++) {
            mk_device *d = &m->dev[i];
            if (d->finished) continue;
            int64_t before = m->report.operations;
            mk_next next = run_device(m, d);
            if (next == MK_FAILED) return next;
            moved |= next == MK_GO_ON || m->report.operations > before + 1;      /* + 1: the wait itself */
            waiting |= next == MK_BLOCKED;
        }
        if (!waiting) return MK_GO_ON;
        if (moved) continue;
        for (int i = 0; i < m->n_devices; i++) {
            if (m->dev[i].finished) continue;
            m->at = m->dev[i].pc;
            return mk_trap(m, &m->dev[i], "waits for %s, which nobody signals any more", m->dev[i].blocked);
        }
    }
}

status mk_run(const mk *k, void *const *operands, void *const *results, const mk_run_options *o, mk_report *report)
{
    mk_run_options none = { 0 };
    if (!o) o = &none;
    mk_machine m = { .k = k, .n_devices = o->n_devices ? o->n_devices : 1, .at = -1, .left = o->max_operations ? o->max_operations : 1000000000,
                     .bytes_left = o->max_bytes ? o->max_bytes : (int64_t)4 << 30 };
    if (!k->finished) return err_set(ST_INTERNAL, "kernel %s: run before it was finished", k->name);
    if (m.n_devices < 1 || m.n_devices > MK_DEVICES) return err_set(ST_INVALID, "kernel %s: %d devices, expected 1 to %d", k->name, m.n_devices, (int)MK_DEVICES);
    m.dev = take(&m, m.n_devices, sizeof *m.dev);
    bool ok = m.dev && make_jumps(&m);
    for (int i = 0; ok && i < m.n_devices; i++) ok = make_device(&m, i, operands, results);
    if (ok) ok = run_devices(&m) == MK_GO_ON && mk_check_end(&m) == MK_GO_ON;
    for (int i = 0; m.dev && i < m.n_devices; i++) free_device(&m.dev[i]);
    mk_free_copies(&m);
    mem_free(m.dev);
    mem_free(m.jump);
    if (ok && report) *report = m.report;
    return ok ? ST_OK : m.st;
}
