/* Operators, subscripts, attributes and calls. */
#include <math.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_ast.h"

/* ---- arithmetic ---- */
static status too_big(jrt *r) { return jj_fail(r, JINJA_OTHER, "integers beyond 64 bits are not supported"); }

static status int_op(jrt *r, int op, int64_t a, int64_t b, jval *out)
{
    int64_t x = 0;
    bool over = false;
    switch (op) {
    case '+': over = __builtin_add_overflow(a, b, &x); break;
    case '-': over = __builtin_sub_overflow(a, b, &x); break;
    case '*': over = __builtin_mul_overflow(a, b, &x); break;
    case '/':
        if (b == 0) return jj_fail(r, JINJA_OTHER, "division by zero");
        *out = jj_float((double)((long double)a / (long double)b));
        return ST_OK;
    case 'f': case '%':
        if (b == 0) return jj_fail(r, JINJA_OTHER, op == 'f' ? "integer division or modulo by zero" : "integer modulo by zero");
        if (b == -1) {
            over = op == 'f' && a == INT64_MIN;
            x = op == 'f' && !over ? -a : 0;
            break;
        }
        x = op == 'f' ? a / b : a % b;
        if (a % b != 0 && (a % b < 0) != (b < 0)) x += op == 'f' ? -1 : b;
        break;
    default: /* ** */
        if (b < 0) {
            if (a == 0) return jj_fail(r, JINJA_OTHER, "0.0 cannot be raised to a negative power");
            *out = jj_float(pow((double)a, (double)b));
            return ST_OK;
        }
        x = 1;
        for (int64_t base = a, e = b; e > 0; e >>= 1) {
            if (e & 1) over = over || __builtin_mul_overflow(x, base, &x);
            if (e > 1 && __builtin_mul_overflow(base, base, &base)) over = true;
            if (over) break;
        }
    }
    if (over) return too_big(r);
    *out = jj_int(x);
    return ST_OK;
}

static status float_op(jrt *r, int op, double a, double b, jval *out)
{
    double x;
    switch (op) {
    case '+': x = a + b; break;
    case '-': x = a - b; break;
    case '*': x = a * b; break;
    case '/':
        if (b == 0) return jj_fail(r, JINJA_OTHER, "float division by zero");
        x = a / b;
        break;
    case 'f': case '%': {
        if (b == 0) return jj_fail(r, JINJA_OTHER, op == 'f' ? "float floor division by zero" : "float modulo");
        double mod = fmod(a, b), div = (a - mod) / b;
        if (mod != 0) {
            if ((b < 0) != (mod < 0)) {
                mod += b;
                div -= 1;
            }
        } else {
            mod = copysign(0, b);
        }
        double fl = div != 0 ? floor(div) : copysign(0, a / b);
        if (div != 0 && div - fl > 0.5) fl += 1;
        x = op == 'f' ? fl : mod;
        break;
    }
    default:
        if (a == 0 && b < 0) return jj_fail(r, JINJA_OTHER, "0.0 cannot be raised to a negative power");
        x = pow(a, b);
        if (isinf(x) && isfinite(a) && isfinite(b)) return jj_fail(r, JINJA_OTHER, "(34, 'Numerical result out of range')");
        if (isnan(x) && !isnan(a) && !isnan(b)) return jj_fail(r, JINJA_OTHER, "complex numbers are not supported");
    }
    *out = jj_float(x);
    return ST_OK;
}

static bool is_seq(jval v) { return v.kind == JK_STR || v.kind == JK_LIST || v.kind == JK_TUPLE; }

static status repeat(jrt *r, jval s, int64_t n, jval *out)
{
    if (n < 0) n = 0;
    size_t unit = s.kind == JK_STR ? s.u.s->len : s.u.l->n * sizeof(jval), total;
    char *d;
    if (__builtin_mul_overflow(unit, (size_t)n, &total)) total = SIZE_MAX / 4;
    TRY(jj_alloc(r, total, &d));
    const void *from = s.kind == JK_STR ? (const void *)s.u.s->data : (const void *)s.u.l->v;
    for (size_t i = 0; unit && i < (size_t)n; i++) memcpy(d + i * unit, from, unit);
    if (s.kind == JK_STR) {
        TRY(jj_str_borrow(r, d, total, out));
        return s.u.s->markup ? jj_markup(r, *out, out) : ST_OK;
    }
    jvec v = { .v = (jval *)(void *)d, .n = s.u.l->n * (size_t)n };
    return jj_vec_list(r, &v, s.kind, out);
}

static status multiply(jrt *r, jval a, jval b, jval *out, bool *done)
{
    *done = is_seq(a) || is_seq(b);
    if (!*done) return ST_OK;
    jval s = is_seq(a) ? a : b, n = is_seq(a) ? b : a;
    if (!jj_is_int(n)) return jj_type_error(r, "can't multiply sequence by non-int of type '%s'", jj_type_name(n));
    return repeat(r, s, jj_as_int(n), out);
}

static status add_lists(jrt *r, const jlist *a, const jlist *b, jkind kind, jval *out)
{
    jlist *o;
    size_t bytes = a->n * sizeof(jval), more = b->n * sizeof(jval);
    TRY(jj_calloc(r, 1, sizeof *o, &o));
    jbuf *own = a->owner;
    if (!own || own->used != bytes || own->cap - own->used < more || own->data != (const char *)a->v) {
        TRY(jj_calloc(r, 1, sizeof *own, &own));
        own->cap = bytes + more + (a->owner ? bytes + more : 0);
        TRY(jj_alloc(r, own->cap, &own->data));
        if (bytes) memcpy(own->data, a->v, bytes);
        own->used = bytes;
    }
    if (more) memcpy(own->data + own->used, b->v, more);
    own->used += more;
    *o = (jlist){ .v = (const jval *)(const void *)own->data, .n = a->n + b->n, .owner = own };
    *out = (jval){ kind, { .l = o } };
    return ST_OK;
}

static status add(jrt *r, jval a, jval b, jval *out, bool *done)
{
    *done = true;
    if (a.kind == JK_STR && b.kind == JK_STR) {
        if (!a.u.s->markup && !b.u.s->markup) return jj_concat(r, a.u.s, b.u.s, out);
        TRY(jj_escape(r, a, &a));
        TRY(jj_escape(r, b, &b));
        TRY(jj_concat(r, a.u.s, b.u.s, out));
        return jj_markup(r, *out, out);
    }
    if (a.kind == JK_STR && a.u.s->markup) {
        *done = false;
        return ST_OK;
    }
    if (a.kind == JK_STR) return jj_type_error(r, "can only concatenate str (not \"%s\") to str", jj_type_name(b));
    if (a.kind == JK_LIST || a.kind == JK_TUPLE) {
        if (b.kind == a.kind) return add_lists(r, a.u.l, b.u.l, a.kind, out);
        const char *t = a.kind == JK_LIST ? "list" : "tuple";
        return jj_type_error(r, "can only concatenate %s (not \"%s\") to %s", t, jj_type_name(b), t);
    }
    *done = false;
    return ST_OK;
}

/* dict | dict and the like are no operators of the language; sets come only from views and are not needed. */
status jj_binary(jrt *r, int op, jval a, jval b, jval *out)
{
    bool done = false;
    if (jj_is_number(a) && jj_is_number(b)) {
        if (a.kind == JK_FLOAT || b.kind == JK_FLOAT) return float_op(r, op, jj_as_float(a), jj_as_float(b), out);
        return int_op(r, op, jj_as_int(a), jj_as_int(b), out);
    }
    if ((a.kind == JK_BIG && (b.kind == JK_BIG || jj_is_number(b))) || (b.kind == JK_BIG && jj_is_number(a))) return too_big(r);
    if (op == '%' && a.kind == JK_STR) return jj_format_percent(r, a.u.s, b, out);
    if (a.kind == JK_UNDEF) return jj_undefined_error(r, a);
    if (b.kind == JK_UNDEF) return jj_undefined_error(r, b);
    if (op == '+') TRY(add(r, a, b, out, &done));
    if (op == '*') TRY(multiply(r, a, b, out, &done));
    if (done) return ST_OK;
    char one[2] = { (char)op, 0 };
    return jj_type_error(r, "unsupported operand type(s) for %s: '%s' and '%s'", op == 'f' ? "//" : op == 'p' ? "** or pow()" : one, jj_type_name(a), jj_type_name(b));
}

status jj_negate(jrt *r, jval v, bool positive, jval *out)
{
    if (v.kind == JK_UNDEF) return jj_undefined_error(r, v);
    if (v.kind == JK_BIG) return too_big(r);
    if (!jj_is_number(v)) return jj_type_error(r, "bad operand type for unary %c: '%s'", positive ? '+' : '-', jj_type_name(v));
    if (v.kind == JK_FLOAT) *out = jj_float(positive ? v.u.f : -v.u.f);
    else if (!positive && jj_as_int(v) == INT64_MIN) return too_big(r);
    else *out = jj_int(positive ? jj_as_int(v) : -jj_as_int(v));
    return ST_OK;
}

/* ---- subscripts ---- */
static status at_index(jrt *r, jval obj, int64_t i, jval *out, bool *found)
{
    int64_t n;
    TRY(jj_len(r, obj, &n));
    if (i < 0) i += n;
    if (i < 0 || i >= n) return ST_OK;
    *found = true;
    if (obj.kind == JK_RANGE) *out = jj_int(obj.u.range->start + i * obj.u.range->step);
    else if (obj.kind == JK_STR) {
        size_t from = jj_str_offset(obj.u.s, (size_t)i), len;
        uint32_t cp;
        len = utf8_decode(obj.u.s->data + from, obj.u.s->len - from, &cp);
        TRY(jj_str_part(r, obj.u.s, from, len, out));
        if (obj.u.s->markup) return jj_markup(r, *out, out);
    } else *out = obj.u.l->v[i];
    return ST_OK;
}

status jj_subscript(jrt *r, jval obj, jval key, jval *out, bool *found)
{
    *found = false;
    switch (obj.kind) {
    case JK_DICT: {
        const jval *v = NULL;
        jinja_error why = r->why;
        int depth = r->depth;
        status st = jj_dict_find(r, obj.u.d, key, &v);
        if (st == ST_INVALID) {
            r->why = why;
            r->depth = depth; /* an unhashable key is just not there */
            return ST_OK;
        }
        TRY(st);
        *found = v != NULL;
        if (v) *out = *v;
        return ST_OK;
    }
    case JK_STR: case JK_LIST: case JK_TUPLE: case JK_RANGE: return jj_is_int(key) ? at_index(r, obj, jj_as_int(key), out, found) : ST_OK;
    case JK_UNDEF: return jj_undefined_error(r, obj);
    case JK_SELF:
        if (key.kind == JK_STR) *found = jj_block_named(r, key.u.s, out);
        return ST_OK;
    default: return ST_OK;
    }
}

static bool in_words(const char *words, const jstr *s)
{
    /* `words` are separated and surrounded by spaces. */
    char w[32];
    if (s->len + 3 > sizeof w) return false;
    w[0] = ' ';
    memcpy(w + 1, s->data, s->len);
    w[s->len + 1] = ' ';
    w[s->len + 2] = 0;
    return strstr(words, w) != NULL;
}

/* Attributes that exist but the sandbox hides: they start with an underscore. */
static bool is_hidden(jval obj, const jstr *name)
{
    static const char all[] = " __class__ __delattr__ __dir__ __doc__ __eq__ __format__ __ge__ __getattribute__ __getstate__ __gt__ __hash__ __init__ "
        "__init_subclass__ __le__ __lt__ __ne__ __new__ __reduce__ __reduce_ex__ __repr__ __setattr__ __sizeof__ __str__ __subclasshook__ ";
    static const char seq[] = " __add__ __contains__ __getitem__ __iter__ __len__ __mul__ __rmul__ ";
    static const char list[] = " __class_getitem__ __delitem__ __iadd__ __imul__ __reversed__ __setitem__ ";
    static const char dict[] = " __class_getitem__ __contains__ __delitem__ __getitem__ __ior__ __iter__ __len__ __or__ __reversed__ __ror__ __setitem__ ";
    static const char num[] = " __abs__ __add__ __bool__ __ceil__ __divmod__ __float__ __floor__ __floordiv__ __getnewargs__ __int__ __mod__ __mul__ __neg__ "
        "__pos__ __pow__ __radd__ __rdivmod__ __rfloordiv__ __rmod__ __rmul__ __round__ __rpow__ __rsub__ __rtruediv__ __sub__ __truediv__ __trunc__ ";
    static const char integer[] = " __and__ __index__ __invert__ __lshift__ __or__ __rand__ __rlshift__ __ror__ __rrshift__ __rshift__ __rxor__ __xor__ ";
    static const char object[] = " __dict__ __module__ __weakref__ ";
    if (obj.kind == JK_NS) return jp_str_is(name, "__class__");
    if (in_words(all, name)) return true;
    switch (obj.kind) {
    case JK_STR: return in_words(seq, name) || jp_str_is(name, "__mod__") || jp_str_is(name, "__rmod__") || jp_str_is(name, "__getnewargs__");
    case JK_LIST: return in_words(seq, name) || in_words(list, name);
    case JK_TUPLE: return in_words(seq, name) || jp_str_is(name, "__class_getitem__") || jp_str_is(name, "__getnewargs__");
    case JK_DICT: return in_words(dict, name);
    case JK_INT: case JK_BOOL: case JK_BIG: return in_words(num, name) || in_words(integer, name);
    case JK_FLOAT: return in_words(num, name);
    case JK_NONE: return jp_str_is(name, "__bool__");
    case JK_FN: case JK_METHOD:
        return jp_str_is(name, "__call__") || jp_str_is(name, "__name__") || jp_str_is(name, "__qualname__") || jp_str_is(name, "__self__") ||
               jp_str_is(name, "__module__") || (obj.kind == JK_FN && (in_words(" __globals__ __code__ __closure__ __defaults__ __kwdefaults__ __dict__ __get__ __annotations__ __builtins__ ", name)));
    case JK_MACRO: return in_words(object, name) || in_words(" __call__ _argument_count _default_autoescape _environment _func _invoke _async_invoke ", name);
    case JK_LOOP: return in_words(object, name) || in_words(" __call__ __iter__ __len__ __next__ _after _before _current _iterable _iterator _last_changed_value _length _peek_next _recurse _to_iterator _undefined ", name);
    case JK_CYCLER: case JK_JOINER: case JK_DICTTYPE: case JK_SELF: case JK_BLOCKREF: return in_words(object, name);
    case JK_RANGE: case JK_VIEW: return in_words(seq, name);
    default: return false;
    }
}

static bool is_mutator(jval obj, const jstr *name)
{
    if (obj.kind == JK_LIST) return in_words(" append clear pop reverse insert sort extend remove ", name);
    return obj.kind == JK_DICT && in_words(" clear pop popitem setdefault update ", name);
}

static status macro_attr(jrt *r, const jmacro *m, const jstr *name, jval *out, bool *found)
{
    *found = true;
    if (jp_str_is(name, "name")) *out = m->node->name ? jj_s(m->node->name) : jj_none();
    else if (jp_str_is(name, "catch_kwargs")) *out = jj_bool(m->node->uses_kwargs);
    else if (jp_str_is(name, "catch_varargs")) *out = jj_bool(m->node->uses_varargs);
    else if (jp_str_is(name, "caller")) *out = jj_bool(m->node->uses_caller);
    else if (jp_str_is(name, "explicit_caller")) *out = jj_bool(m->node->explicit_caller);
    else if (jp_str_is(name, "arguments")) {
        jvec v = { 0 };
        for (size_t i = 0; i < m->node->kids.n; i++) TRY(jj_push(r, &v, jj_s(m->node->kids.v[i]->name)));
        return jj_vec_list(r, &v, JK_TUPLE, out);
    } else *found = false;
    return ST_OK;
}

static status data_attr(jrt *r, jval obj, const jstr *name, jval *out, bool *found)
{
    const jval *v;
    switch (obj.kind) {
    case JK_NS:
        v = jj_dict_str(&obj.u.ns->d, name->data, name->len);
        *found = v != NULL;
        if (v) *out = *v;
        return ST_OK;
    case JK_LOOP: return jj_loop_attr(r, obj.u.loop, name, out, found);
    case JK_MACRO: return macro_attr(r, obj.u.macro, name, out, found);
    case JK_CYCLER:
        *found = true;
        if (jp_str_is(name, "current")) *out = obj.u.cycler->items->v[obj.u.cycler->pos];
        else if (jp_str_is(name, "pos")) *out = jj_int((int64_t)obj.u.cycler->pos);
        else if (jp_str_is(name, "items")) *out = (jval){ JK_TUPLE, { .l = obj.u.cycler->items } };
        else *found = false;
        return ST_OK;
    case JK_JOINER:
        *found = jp_str_is(name, "sep") || jp_str_is(name, "used");
        if (*found) *out = jp_str_is(name, "sep") ? obj.u.joiner->sep : jj_bool(obj.u.joiner->used);
        return ST_OK;
    case JK_RANGE:
        *found = true;
        if (jp_str_is(name, "start")) *out = jj_int(obj.u.range->start);
        else if (jp_str_is(name, "stop")) *out = jj_int(obj.u.range->stop);
        else if (jp_str_is(name, "step")) *out = jj_int(obj.u.range->step);
        else *found = false;
        return ST_OK;
    case JK_TUPLE:
        *found = obj.u.l->group && (jp_str_is(name, "grouper") || jp_str_is(name, "list"));
        if (*found) *out = obj.u.l->v[jp_str_is(name, "list")];
        return ST_OK;
    case JK_INT: case JK_BOOL: case JK_FLOAT:
        *found = true;
        if (jp_str_is(name, "real")) *out = obj.kind == JK_FLOAT ? obj : jj_int(jj_as_int(obj));
        else if (jp_str_is(name, "imag")) *out = obj.kind == JK_FLOAT ? jj_float(0) : jj_int(0);
        else if (obj.kind != JK_FLOAT && jp_str_is(name, "numerator")) *out = jj_int(jj_as_int(obj));
        else if (obj.kind != JK_FLOAT && jp_str_is(name, "denominator")) *out = jj_int(1);
        else *found = false;
        return ST_OK;
    default: return ST_OK;
    }
}

status jj_attribute(jrt *r, jval obj, const jstr *name, jval *out, bool *found)
{
    *found = false;
    if (obj.kind == JK_UNDEF) {
        if (name->len >= 4 && !memcmp(name->data, "__", 2) && !memcmp(name->data + name->len - 2, "__", 2) && !is_hidden(obj, name)) return ST_OK;
        if (is_hidden(obj, name)) {
            *found = true;
            return jj_undef_unsafe(r, obj, name, out);
        }
        return jj_undefined_error(r, obj);
    }
    TRY(data_attr(r, obj, name, out, found));
    if (*found) return ST_OK;
    if (is_mutator(obj, name) || (name->len && name->data[0] == '_' && is_hidden(obj, name))) {
        *found = true;
        return jj_undef_unsafe(r, obj, name, out);
    }
    const jfn *fn = jj_find_method(obj, name->data, name->len);
    if (!fn) return ST_OK;
    *found = true;
    return jj_method(r, obj, fn, out);
}

status jj_getitem(jrt *r, jval obj, jval key, jval *out)
{
    bool found;
    TRY(jj_subscript(r, obj, key, out, &found));
    if (!found && key.kind == JK_STR) TRY(jj_attribute(r, obj, key.u.s, out, &found));
    return found ? ST_OK : jj_undef_attr(r, obj, key, out);
}

status jj_getattr(jrt *r, jval obj, const jstr *name, jval *out)
{
    bool found;
    TRY(jj_attribute(r, obj, name, out, &found));
    if (!found) TRY(jj_subscript(r, obj, jj_s(name), out, &found));
    return found ? ST_OK : jj_undef_attr(r, obj, jj_s(name), out);
}

/* ---- slices ---- */
static status slice_index(jrt *r, jval v, int64_t def, int64_t n, int64_t low, int64_t high, int64_t *out)
{
    if (v.kind == JK_NONE || v.kind == JK_MISSING) {
        *out = def;
        return ST_OK;
    }
    if (!jj_is_int(v)) return jj_type_error(r, "slice indices must be integers or None or have an __index__ method");
    int64_t i = jj_as_int(v);
    if (i < 0) i = i < -n ? low : i + n;
    *out = i < low ? low : i > high ? high : i;
    return ST_OK;
}

static status slice_list(jrt *r, jval obj, int64_t start, int64_t step, int64_t count, jval *out)
{
    jvec v = { 0 };
    if (step == 1) {
        v.v = (jval *)(uintptr_t)(obj.u.l->v + start); /* shared: lists never change */
        v.n = (size_t)count;
        return jj_vec_list(r, &v, obj.kind, out);
    }
    TRY(jj_alloc(r, (size_t)count * sizeof(jval), &v.v));
    for (int64_t i = 0; i < count; i++) v.v[v.n++] = obj.u.l->v[start + i * step];
    return jj_vec_list(r, &v, obj.kind, out);
}

static status slice_str(jrt *r, const jstr *s, int64_t start, int64_t step, int64_t count, jval *out)
{
    if (step == 1 || count == 0) {
        size_t from = count ? jj_str_offset(s, (size_t)start) : 0;
        jstr rest = *s;
        rest.data += from;
        rest.len -= from;
        TRY(jj_str_part(r, s, from, count ? jj_str_offset(&rest, (size_t)count) : 0, out));
    } else {
        size_t n = jj_str_cps(s), *at = NULL;
        if (!s->ascii) {
            TRY(jj_alloc(r, (n + 1) * sizeof *at, &at));
            uint32_t cp;
            for (size_t i = 0, k = 0; k <= n; k++) {
                at[k] = i;
                if (i < s->len) i += utf8_decode(s->data + i, s->len - i, &cp);
            }
        }
        jsb b = jj_sb(r);
        for (int64_t i = 0; i < count; i++) {
            size_t k = (size_t)(start + i * step), from = at ? at[k] : k, to = at ? at[k + 1] : k + 1;
            jj_sb_put(&b, s->data + from, to - from);
        }
        TRY(jj_sb_take(&b, out));
    }
    return s->markup ? jj_markup(r, *out, out) : ST_OK;
}

status jj_slice(jrt *r, jval obj, jval a, jval b, jval c, jval *out)
{
    if (obj.kind == JK_UNDEF) return jj_undefined_error(r, obj);
    if (obj.kind == JK_DICT) return jj_type_error(r, "unhashable type: 'slice'");
    if (!is_seq(obj) && obj.kind != JK_RANGE) return jj_type_error(r, "'%s' object is not subscriptable", jj_type_name(obj));
    int64_t step = 1, n, start, stop;
    if (c.kind != JK_NONE && c.kind != JK_MISSING) {
        if (!jj_is_int(c)) return jj_type_error(r, "slice indices must be integers or None or have an __index__ method");
        step = jj_as_int(c);
        if (step == 0) return jj_value_error(r, "slice step cannot be zero");
        if (step < -INT64_MAX) step = -INT64_MAX;
    }
    TRY(jj_len(r, obj, &n));
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    TRY(slice_index(r, a, step < 0 ? n - 1 : 0, n, low, high, &start));
    TRY(slice_index(r, b, step < 0 ? -1 : n, n, low, high, &stop));
    int64_t count = step > 0 ? (stop > start ? (stop - start - 1) / step + 1 : 0) : (start > stop ? (start - stop - 1) / -step + 1 : 0);
    if (obj.kind == JK_STR) return slice_str(r, obj.u.s, start, step, count, out);
    if (obj.kind != JK_RANGE) return slice_list(r, obj, count ? start : 0, step, count, out);
    jrange *g;
    TRY(jj_calloc(r, 1, sizeof *g, &g));
    const jrange *o = obj.u.range;
    *g = (jrange){ o->start + start * o->step, o->start + stop * o->step, o->step * step, (uint64_t)count };
    *out = (jval){ JK_RANGE, { .range = g } };
    return ST_OK;
}

/* ---- calls ---- */
status jj_bind(jrt *r, const char *fname, const char *const *names, size_t n_names, size_t n_req, size_t hidden, const jargs *a, jval *out)
{
    for (size_t i = 0; i < n_names; i++) out[i] = i < a->n ? a->v[i] : jj_missing();
    for (size_t k = 0; k < a->n_kw; k++) {
        size_t i = 0;
        while (i < n_names && !jp_str_is(a->kw[k].name, names[i])) i++;
        const jstr *key = a->kw[k].name;
        if (i == n_names) return jj_type_error(r, "%s() got an unexpected keyword argument '%.*s'", fname, (int)key->len, key->data);
        if (out[i].kind != JK_MISSING) return jj_type_error(r, "%s() got multiple values for argument '%s'", fname, names[i]);
        out[i] = a->kw[k].val;
    }
    if (a->n > n_names) {
        size_t max = n_names + hidden, min = n_req + hidden;
        if (min == max) return jj_type_error(r, "%s() takes %zu positional argument%s but %zu were given", fname, max, max == 1 ? "" : "s", a->n + hidden);
        return jj_type_error(r, "%s() takes from %zu to %zu positional arguments but %zu were given", fname, min, max, a->n + hidden);
    }
    size_t missing = 0;
    jsb b = jj_sb(r);
    for (size_t i = 0; i < n_req; i++) missing += out[i].kind == JK_MISSING;
    if (!missing) return ST_OK;
    for (size_t i = 0, k = 0; i < n_req; i++) {
        if (out[i].kind != JK_MISSING) continue;
        if (k) jj_sb_str(&b, missing == 2 ? " and " : k + 1 == missing ? ", and " : ", ");
        jj_sb_printf(&b, "'%s'", names[i]);
        k++;
    }
    jval s;
    TRY(jj_sb_take(&b, &s));
    return jj_type_error(r, "%s() missing %zu required positional argument%s: %.*s", fname, missing, missing == 1 ? "" : "s", (int)s.u.s->len, s.u.s->data);
}

static status make_dict(jrt *r, const jargs *a, jval *out)
{
    const jfn *fn = NULL;
    jval g;
    if (jj_global("\1dict", 5, &g)) fn = g.u.fn;
    return fn->call(r, jj_missing(), a, out);
}

status jj_call(jrt *r, jval f, const jargs *a, jval *out)
{
    status st;
    TRY(jj_enter(r));
    switch (f.kind) {
    case JK_FN: st = f.u.fn->call(r, jj_missing(), a, out); break;
    case JK_METHOD: st = f.u.method->fn->call(r, f.u.method->self, a, out); break;
    case JK_MACRO: st = jj_call_macro(r, f.u.macro, a, out); break;
    case JK_LOOP: st = jj_call_loop(r, f.u.loop, a, out); break;
    case JK_JOINER:
        if (a->n || a->n_kw) return jj_type_error(r, "Joiner.__call__() takes 1 positional argument but %zu were given", a->n + a->n_kw + 1);
        st = ST_OK;
        if (f.u.joiner->used) *out = f.u.joiner->sep;
        else st = jj_cstr(r, "", out);
        f.u.joiner->used = true;
        break;
    case JK_DICTTYPE: st = make_dict(r, a, out); break;
    case JK_BLOCKREF: st = jj_call_block(r, f.u.block, out); break;
    case JK_UNDEF: st = jj_undefined_error(r, f); break;
    default: st = jj_type_error(r, "'%s' object is not callable", jj_type_name(f));
    }
    jj_leave(r);
    return st;
}
