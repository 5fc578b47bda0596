/* What the two halves of the filters share. */
#ifndef SYSTOLIC_TEXT_JINJA_FILTERS_H
#define SYSTOLIC_TEXT_JINJA_FILTERS_H

#include "text/jinja_value.h"

/* An attribute path as filters take it ("a.b.0", an index, nothing), with what jinja2 applies to its result. */
typedef struct jpath { jvec parts; bool lower; jval def; } jpath;

status jj_path(jrt *r, jval attr, bool lower, jval def, jpath *out) FALLIBLE;
status jj_path_get(jrt *r, const jpath *p, jval v, jval *out) FALLIBLE;
const jfn *jj_find_text_filter(const char *name, size_t n);

#endif
