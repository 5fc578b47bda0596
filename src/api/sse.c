#include "api/app.h"

const char sse_done[] = "data: [DONE]\n\n";
const char sse_content_type[] = "text/event-stream; charset=utf-8";

void sse_event(buf *out, const char *json, size_t n)
{
    buf_str(out, "data: ");
    buf_append(out, json, n);
    buf_str(out, "\n\n");
}
