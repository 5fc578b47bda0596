/* How a step's inputs lie in the one integer array that is uploaded for it: lower.c reads it in the program, step_meta.c writes it. */
#ifndef SYSTOLIC_DEVICE_PJRT_STEP_META_H
#define SYSTOLIC_DEVICE_PJRT_STEP_META_H

#include "device/pjrt/lower.h"

typedef enum step_part {
    STEP_TOKENS, STEP_POSITIONS,                                                        /* [T] */
    STEP_WRITE_PAGE,                                                                    /* [groups][T] */
    STEP_WRITE_SLOT, STEP_ROPE_VARIANT,                                                 /* [T] */
    STEP_ROWS,                                                                          /* [R] */
    STEP_PAGE_TABLE,                                                                    /* [groups][S][max_pages] */
    STEP_KV_LENS,                                                                       /* [S] of hlo_step.kv_lens */
    STEP_SEQ_TOKEN,                                                                     /* [S] from here on: not in decode buckets */
    STEP_TOKEN_SEQ,                                                                     /* [T] */
    STEP_TILE_SEQ, STEP_TILE_TOKEN, STEP_TILE_POS, STEP_TILE_LEN,                       /* [n_tiles] */
    STEP_TILES,                                                                         /* [1] */
    STEP_PARTS
} step_part;

typedef struct step_layout { int64_t at[STEP_PARTS], len[STEP_PARTS], total; } step_layout;
void step_layout_of(const lower_bucket *b, const lower_options *o, step_layout *out);

#endif
