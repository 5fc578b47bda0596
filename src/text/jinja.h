/* Chat templates: a Jinja engine that renders what jinja2's ImmutableSandboxedEnvironment renders with transformers'
 * settings (trim_blocks, lstrip_blocks, loop controls, the generation tag, raise_exception, strftime_now, tojson as
 * transformers defines it), with limits. A parsed template is immutable: any number of threads may render it at once. */
#ifndef SYSTOLIC_TEXT_JINJA_H
#define SYSTOLIC_TEXT_JINJA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

typedef struct jinja jinja;

/* Parses a template. Errors: "template line 12: unexpected '}'". */
status jinja_parse(const char *text, size_t n, jinja **out) FALLIBLE;
void jinja_free(jinja *t);

typedef struct jinja_limits {
    double seconds;         /* wall-clock; 0 = 30 (VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT) */
    size_t output_bytes;    /* 0 = 64 MiB */
    size_t memory_bytes;    /* 0 = 512 MiB of intermediate values */
    int depth;              /* nesting of expressions, blocks, macro calls; 0 = 200 */
} jinja_limits;

/* What kind of Python exception a failed render would have been. */
typedef enum jinja_error {
    JINJA_OK,
    JINJA_TEMPLATE_ERROR,   /* raise_exception(...) and jinja2.TemplateError: message is the template's own */
    JINJA_UNDEFINED,        /* jinja2.UndefinedError */
    JINJA_TYPE,             /* TypeError */
    JINJA_VALUE,            /* ValueError */
    JINJA_SECURITY,         /* SecurityError of the sandbox */
    JINJA_OTHER,            /* any other Python exception: KeyError, IndexError, ZeroDivisionError, ... */
    JINJA_LIMIT             /* one of jinja_limits */
} jinja_error;

/* Appends the rendering with the members of the object `vars` as global variables (messages, tools,
 * add_generation_prompt, bos_token, ...). On failure returns a status with the message set and, if why is not NULL,
 * *why. `now` is the time for strftime_now in seconds since 1970 (local time zone), 0 = the clock. */
status jinja_render(const jinja *t, const jv *vars, const jinja_limits *limits, double now, buf *out, jinja_error *why) FALLIBLE;

/* True if the template iterates over message content (vLLM's "openai" content format: a list of parts), false if it
 * wants a string. */
bool jinja_wants_content_parts(const jinja *t);

#endif
