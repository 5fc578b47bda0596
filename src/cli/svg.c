#include "cli/svg.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const colors[SVG_COLORS] = { "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000" };
static const char *color_of(int i) { return i < 0 ? "#888888" : colors[i % SVG_COLORS]; }

static void put_text(buf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '<') buf_str(out, "&lt;");
        else if (*s == '>') buf_str(out, "&gt;");
        else if (*s == '&') buf_str(out, "&amp;");
        else buf_char(out, *s);
    }
}

static void text_at(buf *out, double x, double y, const char *style, const char *text)
{
    buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, style);
    put_text(out, text);
    buf_str(out, "</text>\n");
}

void svg_begin(buf *out, double w, double h, const char *title, const char *subtitle)
{
    buf_printf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" font-family=\"Helvetica, Arial, DejaVu Sans, sans-serif\" font-size=\"12\">\n"
                    "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", w, h, w, h);
    text_at(out, 20, 28, "font-size=\"17\" font-weight=\"bold\"", title);
    text_at(out, 20, 47, "fill=\"#555555\"", subtitle);
}

void svg_end(buf *out) { buf_str(out, "</svg>"); }

/* ---- axes ---- */

/* 1, 2 or 5 times a power of ten, for five steps or so. */
static double step_of(double span)
{
    const double raw = span / 5, unit = pow(10, floor(log10(raw))), m = raw / unit;
    return unit * (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10);
}

/* The next 1, 2 or 5 times a power of ten. */
static double round_to(double v, bool up)
{
    const double unit = pow(10, floor(log10(v) + 1e-9)), m = v / unit;
    if (up) return unit * (m <= 1.0001 ? 1 : m <= 2.0001 ? 2 : m <= 5.0001 ? 5 : 10);
    return unit * (m >= 4.9999 ? 5 : m >= 1.9999 ? 2 : 1);
}

svg_axis svg_axis_of(const char *label, double lo, double hi, bool log)
{
    svg_axis a = { label, lo, hi, log };
    if (log) {
        if (!(lo > 0)) lo = 1e-3;
        if (!(hi > lo)) hi = lo * 10;
        a.lo = round_to(lo, false);
        a.hi = round_to(hi, true);
        if (!(a.hi > a.lo)) a.hi = a.lo * 10;
    } else {
        if (!(hi > 0)) hi = 1;
        const double s = step_of(hi);
        a.lo = 0;
        a.hi = ceil(hi / s - 1e-9) * s;
    }
    return a;
}

static double share(const svg_axis *a, double v)
{
    if (a->log) return v > 0 ? log10(v / a->lo) / log10(a->hi / a->lo) : -1;
    return (v - a->lo) / (a->hi - a->lo);
}
static double px(const svg_chart *c, double v) { return c->x + share(&c->ax, v) * c->w; }
static double py(const svg_chart *c, double v) { return c->y + c->h - share(&c->ay, v) * c->h; }

/* 1234 as "1,234", 2e12 as "2T". */
static void number(double v, char *dst, size_t cap)
{
    static const struct { double unit; const char *name; } units[] = { { 1e15, "P" }, { 1e12, "T" }, { 1e9, "G" }, { 1e6, "M" }, { 1e4, "k" } };
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (v >= units[i].unit * 0.9999) {
            const double u = strcmp(units[i].name, "k") == 0 ? 1e3 : units[i].unit;
            snprintf(dst, cap, "%g%s", v / u, units[i].name);
            return;
        }
    snprintf(dst, cap, "%g", v);
}

static void tick(svg_chart *c, bool horizontal, double v, bool named)
{
    char s[32];
    number(v, s, sizeof s);
    const double at = horizontal ? px(c, v) : py(c, v);
    const char *ink = named ? "#dddddd" : "#f1f1f1";
    if (horizontal) {
        buf_printf(c->out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", at, c->y, at, c->y + c->h, ink);
        if (named) text_at(c->out, at, c->y + c->h + 17, "text-anchor=\"middle\" fill=\"#333333\"", s);
    } else {
        buf_printf(c->out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", c->x, at, c->x + c->w, at, ink);
        if (named) text_at(c->out, c->x - 7, at + 4, "text-anchor=\"end\" fill=\"#333333\"", s);
    }
}

static void ticks(svg_chart *c, bool horizontal)
{
    const svg_axis *a = horizontal ? &c->ax : &c->ay;
    if (a->log) {
        const bool few = a->hi / a->lo < 300;   /* then 2 and 5 have their numbers too */
        for (double d = pow(10, floor(log10(a->lo) + 1e-9)); d <= a->hi * 1.001; d *= 10)
            for (int k = 1; k < 10; k++)
                if (d * k >= a->lo * 0.999 && d * k <= a->hi * 1.001) tick(c, horizontal, d * k, k == 1 || (few && (k == 2 || k == 5)));
        return;
    }
    const double s = step_of(a->hi);
    for (int i = 0; i * s <= a->hi * 1.001; i++) tick(c, horizontal, i * s, true);
}

svg_chart svg_chart_begin(buf *out, double x, double y, double w, double h, svg_axis ax, svg_axis ay)
{
    static const char *const bold = "text-anchor=\"middle\" font-weight=\"bold\" fill=\"#333333\"";
    svg_chart c = { .out = out, .x = x, .y = y, .w = w, .h = h, .ax = ax, .ay = ay };
    ticks(&c, true);
    ticks(&c, false);
    buf_printf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" stroke=\"#333333\"/>\n", x, y, w, h);
    buf_printf(out, "<clipPath id=\"c%.0f\"><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/></clipPath>\n", y, x - 6, y - 6, w + 12, h + 12);
    text_at(out, x + w / 2, y + h + 38, bold, ax.label);
    buf_printf(out, "<g transform=\"translate(%.1f %.1f) rotate(-90)\">", x - 58, y + h / 2);
    text_at(out, 0, 0, bold, ay.label);
    buf_str(out, "</g>\n");
    return c;
}

/* ---- what is in it ---- */

void svg_line(svg_chart *c, const double *x, const double *y, int n, int color, double width, bool dashed)
{
    buf_printf(c->out, "<polyline clip-path=\"url(#c%.0f)\" fill=\"none\" stroke=\"%s\" stroke-width=\"%g\"%s points=\"", c->y, color_of(color), width, dashed ? " stroke-dasharray=\"6 4\"" : "");
    for (int i = 0; i < n; i++) buf_printf(c->out, "%s%.1f,%.1f", i ? " " : "", px(c, x[i]), py(c, y[i]));
    buf_str(c->out, "\"/>\n");
}

static void mark_at(buf *out, double x, double y, int color, svg_mark mark)
{
    const char *ink = color_of(color);
    if (mark == SVG_CIRCLE) buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\" stroke=\"white\"/>\n", x, y, ink);
    else if (mark == SVG_SQUARE) buf_printf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"9\" height=\"9\" fill=\"%s\" stroke=\"white\"/>\n", x - 4.5, y - 4.5, ink);
    else buf_printf(out, "<path d=\"M%.1f %.1fl6 6l-6 6l-6 -6z\" fill=\"%s\" stroke=\"white\"/>\n", x, y - 6, ink);
}

static bool inside(const svg_chart *c, double x, double y)
{
    const double a = share(&c->ax, x), b = share(&c->ay, y);
    return a >= 0 && a <= 1 && b >= 0 && b <= 1;
}

void svg_dot(svg_chart *c, double x, double y, int color, svg_mark mark)
{
    if (inside(c, x, y)) mark_at(c->out, px(c, x), py(c, y), color, mark);
}

void svg_label(svg_chart *c, double x, double y, double dx, double dy, const char *text)
{
    char style[96];
    if (!inside(c, x, y)) return;
    const double width = 6.2 * (double)strlen(text), at_y = py(c, y) + dy;
    const bool left = px(c, x) + dx + width > c->x + c->w;
    const double at_x = left ? px(c, x) - dx : px(c, x) + dx, from = left ? at_x - width : at_x, to = from + width;
    for (int i = 0; i < c->n_labels; i++)
        if (from < c->labels[i].to && to > c->labels[i].from && fabs(at_y - c->labels[i].y) < 10) return;
    if (c->n_labels == SVG_LABELS_MAX) return;
    c->labels[c->n_labels].from = from;
    c->labels[c->n_labels].to = to;
    c->labels[c->n_labels++].y = at_y;
    snprintf(style, sizeof style, "text-anchor=\"%s\" font-size=\"10.5\" fill=\"#444444\"", left ? "end" : "start");
    text_at(c->out, at_x, at_y, style, text);
}

void svg_legend(svg_chart *c, int color, int mark, bool line, bool dashed, const char *text)
{
    const double x = c->x + c->w + 18, y = c->y + 12 + 19 * c->n_legend++;
    if (line) buf_printf(c->out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"2\"%s/>\n", x, y, x + 26, y, color_of(color), dashed ? " stroke-dasharray=\"6 4\"" : "");
    if (mark >= 0) mark_at(c->out, x + 13, y, color, (svg_mark)mark);
    text_at(c->out, x + 33, y + 4, "fill=\"#222222\"", text);
}

void svg_legend_gap(svg_chart *c) { c->n_legend++; }
