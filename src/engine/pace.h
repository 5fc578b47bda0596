/* How fast steps are, learned from the steps themselves: a step takes about what decoding alone takes, and so much more for each
 * prompt token beside it. From this follows how many prompt tokens a step may have without the waiting of those who
 * decode beside them growing beyond a target. Only the sizes of chunks depend on it, never a result. One thread. */
#ifndef SYSTOLIC_ENGINE_PACE_H
#define SYSTOLIC_ENGINE_PACE_H

#include "engine/engine.h"

enum { PACE_LEAST = 16 };           /* prompt tokens: a prompt always goes on */

typedef struct pace {
    double decode_s;                /* a step without prompt tokens; 0 = none seen yet */
    double token_s;                 /* one prompt token more; 0 = unknown */
} pace;

/* A step that is done. */
void pace_note(pace *p, const engine_step_event *e);
/* Most prompt tokens in a step that also decodes: a multiple of PACE_LEAST, at least one, at most `most`. Decoding alone may take
 * more than half the target; then a step may take twice as long as decoding does. */
int pace_prompt_tokens(const pace *p, double target_s, int most);

#endif
