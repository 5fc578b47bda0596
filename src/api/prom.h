/* The Prometheus text format: histograms and lines. */
#ifndef SYSTOLIC_API_PROM_H
#define SYSTOLIC_API_PROM_H

#include "base/buf.h"

enum { PROM_MAX_BUCKETS = 64 };
typedef struct prom_hist {
    double bounds[PROM_MAX_BUCKETS];
    uint64_t counts[PROM_MAX_BUCKETS + 1]; /* the last one is above all bounds; not cumulative */
    int n;
    uint64_t count;
    double sum;
} prom_hist;

/* At most PROM_MAX_BUCKETS ascending bounds. */
void prom_hist_init(prom_hist *h, const double *bounds, int n);
/* 1, 2, 5, 10, ... up to max (inclusive). */
void prom_hist_125(prom_hist *h, int64_t max);
void prom_hist_add(prom_hist *h, double x);

void prom_head(buf *out, const char *name, const char *type, const char *help);
/* name{labels} value; `labels` already escaped, e.g. a="b",c="d". */
void prom_line(buf *out, const char *name, const char *labels, double value);
void prom_hist_write(buf *out, const char *name, const char *labels, const prom_hist *h);
/* Appends key="value" (escaped), with a comma before it unless the buffer is empty. */
void prom_label(buf *out, const char *key, const char *value);

#endif
