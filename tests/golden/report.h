/* What golden tests found, for tools/support_models.py. */
#ifndef SYSTOLIC_TESTS_GOLDEN_REPORT_H
#define SYSTOLIC_TESTS_GOLDEN_REPORT_H

#include <stdio.h>
#include <stdlib.h>

/* A line for the tool, which has the format, if SYSTOLIC_GOLDEN_RESULTS names a file. way: the device, as "cpu".
 * note: what the error is of, where that is not all logits, else NULL. */
static inline void golden_report(const char *golden, const char *way, double error, double tolerance, const char *note)
{
    const char *file = getenv("SYSTOLIC_GOLDEN_RESULTS");
    FILE *f = file && *file ? fopen(file, "a") : NULL;
    if (!f) return;
    fprintf(f, "%s\t%s\t%s\t%.3g\t%.3g%s%s\n", golden, way, error <= tolerance ? "pass" : "fail", error, tolerance, note ? "\t" : "", note ? note : "");
    fclose(f);
}

#endif
