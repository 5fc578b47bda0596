#include "api/harmony.h"

#include <string.h>

static const char *const spellings[HARMONY_N_MARKS] = {
#define HARMONY_MARK(up, text) text,
    HARMONY_MARKS(HARMONY_MARK)
#undef HARMONY_MARK
};

bool harmony_find_marks(const tokenizer *t, harmony_marks *out)
{
    for (int i = 0; i < HARMONY_N_MARKS; i++) {
        out->id[i] = t ? tokenizer_token_id(t, spellings[i], strlen(spellings[i])) : -1;
        if (out->id[i] < 0) return false;
    }
    return true;
}

/* The header's channel, by its first letters; a message without one is content. */
static harmony_place place_of(const buf *header)
{
    const char *at = strstr(buf_cstr(header), spellings[HARMONY_CHANNEL]);
    return at && strncmp(at + strlen(spellings[HARMONY_CHANNEL]), "analysis", 8) == 0 ? HARMONY_REASONING : HARMONY_CONTENT;
}

bool harmony_take(harmony *h, const harmony_marks *m, int32_t token, bool *fresh)
{
    int mark = 0;
    *fresh = false;
    while (mark < HARMONY_N_MARKS && m->id[mark] != token) mark++;
    switch (mark) {
    case HARMONY_CHANNEL:
    case HARMONY_CONSTRAIN:
        h->place = HARMONY_HEADER;
        buf_str(&h->header, spellings[mark]);
        return true;
    case HARMONY_MESSAGE:
        h->place = place_of(&h->header);
        h->any = *fresh = true;
        return true;
    case HARMONY_N_MARKS:
        return false;
    default: /* start, and what ends a message */
        h->place = HARMONY_HEADER;
        buf_clear(&h->header);
        return true;
    }
}

void harmony_free(harmony *h)
{
    buf_free(&h->header);
    *h = (harmony){ 0 };
}
