#include "api/prom.h"

#include <inttypes.h>

#include "base/json.h"

void prom_hist_init(prom_hist *h, const double *bounds, int n)
{
    *h = (prom_hist){ .n = n < PROM_MAX_BUCKETS ? n : PROM_MAX_BUCKETS };
    for (int i = 0; i < h->n; i++) h->bounds[i] = bounds[i];
}

void prom_hist_125(prom_hist *h, int64_t max)
{
    static const int steps[] = { 1, 2, 5 };
    *h = (prom_hist){0};
    for (int64_t ten = 1; h->n + 3 <= PROM_MAX_BUCKETS && ten <= max; ten *= 10)
        for (int i = 0; i < 3 && ten * steps[i] <= max; i++) h->bounds[h->n++] = (double)(ten * steps[i]);
}

void prom_hist_add(prom_hist *h, double x)
{
    int i = 0;
    while (i < h->n && x > h->bounds[i]) i++;
    h->counts[i]++;
    h->count++;
    h->sum += x;
}

void prom_head(buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(buf *out, double v)
{
    char s[40];
    json_repr_f64(s, sizeof s, v);
    buf_str(out, s);
    buf_char(out, '\n');
}

void prom_line(buf *out, const char *name, const char *labels, double v)
{
    buf_str(out, name);
    if (*labels) buf_printf(out, "{%s}", labels);
    buf_char(out, ' ');
    value(out, v);
}

void prom_hist_write(buf *out, const char *name, const char *labels, const prom_hist *h)
{
    uint64_t below = 0;
    const char *comma = *labels ? "," : "";
    char s[40];
    for (int i = 0; i <= h->n; i++) {
        below += h->counts[i];
        if (i < h->n) json_repr_f64(s, sizeof s, h->bounds[i]);
        buf_printf(out, "%s_bucket{%s%sle=\"%s\"} ", name, labels, comma, i < h->n ? s : "+Inf");
        value(out, (double)below);
    }
    buf_printf(out, "%s_count", name);
    if (*labels) buf_printf(out, "{%s}", labels);
    buf_char(out, ' ');
    value(out, (double)h->count);
    buf_printf(out, "%s_sum", name);
    if (*labels) buf_printf(out, "{%s}", labels);
    buf_char(out, ' ');
    value(out, h->sum);
}

void prom_label(buf *out, const char *key, const char *v)
{
    buf_printf(out, "%s%s=\"", out->len ? "," : "", key);
    for (; *v; v++) {
        if (*v == '\\' || *v == '"') buf_char(out, '\\'), buf_char(out, *v);
        else if (*v == '\n') buf_str(out, "\\n");
        else buf_char(out, *v);
    }
    buf_char(out, '"');
}
