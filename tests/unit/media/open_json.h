/* A media processor from the text of a preprocessor_config.json. */
#ifndef SYSTOLIC_TESTS_MEDIA_OPEN_JSON_H
#define SYSTOLIC_TESTS_MEDIA_OPEN_JSON_H

#include <string.h>

#include "base/json.h"
#include "media/processor.h"

static status open_json(const char *text, media_processor **out)
{
    jv *j = NULL;
    TRY(jv_parse(text, strlen(text), &j));
    const status st = media_processor_open(j, NULL, out);
    jv_free(j);
    return st;
}

#endif
