/* Charts as SVG text: a frame with two axes, lines, dots and a legend. Enough for `systolic plan --svg`; no more.
 * Coordinates are those of the data; what lies outside the axes is cut off. Colours are Okabe and Ito's, which colour-blind people
 * tell apart (https://jfly.uni-koeln.de/color/). */
#ifndef SYSTOLIC_CLI_SVG_H
#define SYSTOLIC_CLI_SVG_H

#include <stdbool.h>

#include "base/buf.h"

/* log: decades, lo above 0. */
typedef struct svg_axis { const char *label; double lo, hi; bool log; } svg_axis;
typedef enum svg_mark { SVG_CIRCLE, SVG_SQUARE, SVG_DIAMOND } svg_mark;
enum { SVG_COLORS = 7, SVG_GREY = -1, SVG_LABELS_MAX = 128 };

/* One chart inside of a picture. */
typedef struct svg_chart {
    buf *out;
    double x, y, w, h;          /* of the frame, in pixels */
    svg_axis ax, ay;
    int n_legend;
    struct { double from, to, y; } labels[SVG_LABELS_MAX];  /* one upon another is left out */
    int n_labels;
} svg_chart;

/* The picture, w x h pixels. */
void svg_begin(buf *out, double w, double h, const char *title, const char *subtitle);
void svg_end(buf *out);

/* Axes that hold the values from lo to hi: widened to round numbers, and to 0 if not log. */
svg_axis svg_axis_of(const char *label, double lo, double hi, bool log);
/* Draws the frame, ticks with their numbers, and labels. */
svg_chart svg_chart_begin(buf *out, double x, double y, double w, double h, svg_axis ax, svg_axis ay);
void svg_line(svg_chart *c, const double *x, const double *y, int n, int color, double width, bool dashed);
void svg_dot(svg_chart *c, double x, double y, int color, svg_mark mark);
/* Beside a point: dx, dy in pixels to the right and down; to the left where there is no room. */
void svg_label(svg_chart *c, double x, double y, double dx, double dy, const char *text);
/* A line of the legend, right of the frame; mark below 0: none. */
void svg_legend(svg_chart *c, int color, int mark, bool line, bool dashed, const char *text);
void svg_legend_gap(svg_chart *c);

#endif
