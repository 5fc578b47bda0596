/* How far a way to compute is from float32, on text of a trained model: perplexity of stories that the float32 model tells. */
#ifndef SYSTOLIC_TESTS_GOLDEN_STORIES_H
#define SYSTOLIC_TESTS_GOLDEN_STORIES_H

#include "tests/golden/rig.h"

enum { STORIES = 8, STORY_LEN = 300, STORIES_VOCAB = 512 };    /* the vocabulary of stories260k, which the model must have */
static int32_t stories_text[STORIES][STORY_LEN];
static float stories_rows[STORY_LEN][STORIES_VOCAB];

static inline double stories_log_sum(const float *row)
{
    double most = -INFINITY, all = 0;
    for (int v = 0; v < STORIES_VOCAB; v++) most = fmax(most, (double)row[v]);
    for (int v = 0; v < STORIES_VOCAB; v++) all += exp((double)row[v] - most);
    return most + log(all);
}

/* At temperature 1: what another model loses on these is how far it is from this one. */
static inline void stories_tell(rig *r)
{
    uint64_t state = 1;
    for (int t = 0; t < STORIES; t++) {
        rig_seq seq = { 0 };
        stories_text[t][0] = 1;
        for (int i = 0; i + 1 < STORY_LEN; i++) {
            REQUIRE_OK(rig_step(r, &(rig_work){ &seq, &stories_text[t][i], 1, stories_rows[0] }, 1));
            state = state * 6364136223846793005u + 1442695040888963407u;
            double u = (double)(state >> 11) * 0x1p-53, sum = 0, all = stories_log_sum(stories_rows[0]);
            int pick = 0;
            while (pick + 1 < STORIES_VOCAB && (sum += exp((double)stories_rows[0][pick] - all)) < u) pick++;
            stories_text[t][i + 1] = pick;
        }
    }
}

static inline double stories_perplexity(rig *r)
{
    double sum = 0;
    for (int t = 0; t < STORIES; t++) {
        rig_seq seq = { 0 };
        CHECK_OK(rig_prompt(r, &seq, stories_text[t], STORY_LEN, 64, stories_rows[0]));
        for (int i = 0; i + 1 < STORY_LEN; i++) sum += stories_log_sum(stories_rows[i]) - (double)stories_rows[i][stories_text[t][i + 1]];
    }
    return exp(sum / (STORIES * (STORY_LEN - 1)));
}

#endif
