/* The harmony format, in which gpt-oss answers: messages, each with a header that says which channel it is on,
 *
 *   <|channel|>analysis<|message|>what it thinks<|end|><|start|>assistant<|channel|>final<|message|>the answer<|return|>
 *
 * The prompt has ended in <|start|>assistant, so an answer begins inside a header. What is on the analysis channel is reasoning; the
 * final channel, and commentary, are content. Commentary may be addressed to a tool (to=functions.NAME, ended by <|call|>): without a
 * parser of tool calls it stays content, as it was written. (OpenAI 2025, openai-harmony: docs/format.md) */
#ifndef SYSTOLIC_API_HARMONY_H
#define SYSTOLIC_API_HARMONY_H

#include "base/buf.h"
#include "text/tokenizer.h"

/* Ids of the tokens that are never text. */
#define HARMONY_MARKS(X) X(START, "<|start|>") X(CHANNEL, "<|channel|>") X(CONSTRAIN, "<|constrain|>") X(MESSAGE, "<|message|>") X(END, "<|end|>") \
    X(RETURN, "<|return|>") X(CALL, "<|call|>")
enum {
#define HARMONY_MARK(up, text) HARMONY_##up,
    HARMONY_MARKS(HARMONY_MARK)
#undef HARMONY_MARK
    HARMONY_N_MARKS
};
typedef struct harmony_marks { int32_t id[HARMONY_N_MARKS]; } harmony_marks;
/* False if the tokenizer lacks one. */
bool harmony_find_marks(const tokenizer *t, harmony_marks *out);

/* Where an answer is. Zero: at its beginning. */
typedef enum harmony_place { HARMONY_HEADER, HARMONY_REASONING, HARMONY_CONTENT } harmony_place;
typedef struct harmony {
    harmony_place place;      /* of what comes next */
    bool any;                 /* there was a message */
    buf header;               /* the text of the header so far, marks included as they are spelt */
} harmony;

/* Takes a token that may be a mark; false: it is text, which belongs to h->place (in a header: appended to h->header). *fresh: a
 * message has begun on the new place. */
bool harmony_take(harmony *h, const harmony_marks *m, int32_t token, bool *fresh);
void harmony_free(harmony *h);

#endif
