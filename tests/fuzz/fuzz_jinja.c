// layer: text
/* Any bytes as a template, rendered on a small conversation under tight limits. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/buf.h"
#include "base/json.h"
#include "text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char json[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9 {x}\"},{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}],"
                               "\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{\"n\":[1,2.5,null,true]}}}],\"s\":\"a,b c\",\"n\":3}";
    static jv *vars;
    if (!vars && jv_parse(json, sizeof json - 1, &vars) != ST_OK) return 0;
    jinja *t = NULL;
    if (jinja_parse((const char *)data, size, &t) != ST_OK) return 0;
    jinja_limits lim = { .seconds = 0.2, .output_bytes = 1 << 16, .memory_bytes = 8 << 20, .depth = 20 };
    buf out = { 0 };
    jinja_error why = JINJA_OK;
    status st = jinja_render(t, vars, &lim, 1, &out, &why);
    if ((st == ST_OK) != (why == JINJA_OK) && st != ST_NOMEM) __builtin_trap();
    (void)jinja_wants_content_parts(t);
    buf_free(&out);
    jinja_free(t);
    return 0;
}
