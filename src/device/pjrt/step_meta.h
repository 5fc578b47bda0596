/* How a step's inputs lie in the one integer array that is uploaded for it: lower.c reads it in the program, step_meta.c writes it. */
#ifndef SYSTOLIC_DEVICE_PJRT_STEP_META_H
#define SYSTOLIC_DEVICE_PJRT_STEP_META_H

#include "device/pjrt/lower.h"

typedef enum step_part {
    STEP_TOKENS, STEP_POSITIONS,                                                        /* [T] */
    STEP_WRITE_PAGE,                                                                    /* [groups][T] */
    STEP_WRITE_SLOT, STEP_ROPE_VARIANT,                                                 /* [T] */
    STEP_ROWS,                                                                          /* [R] */
    STEP_PAGE_TABLE,                                                                    /* [groups][S][pages of the group] */
    STEP_POSITIONS3,                                                                    /* [T][3], with lower_options.three */
    STEP_KV_LENS,                                                                       /* [groups][S] of hlo_step.kv_lens */
    STEP_SEQ_TOKEN,                                                                     /* [S] from here on: not in decode buckets */
    STEP_TOKEN_SEQ,                                                                     /* [T] */
    STEP_SEE,                                                                           /* [T] keys behind the own, with lower_options.see */
    STEP_TILE_POS,                                                                      /* [groups][n_tiles] */
    STEP_TILE_SEQ, STEP_TILE_TOKEN, STEP_TILE_LEN,                                      /* [n_tiles] */
    STEP_TILES,                                                                         /* [1] */
    STEP_PARTS
} step_part;

/* A group's rows in the page table. Of a group with a window or chunk only the pages that a step can see are there: a row begins at
 * the first of them, and the group's kv_lens and tile positions count from its first token on. Attention only compares positions,
 * and chunks begin with a page there, so to the program this is a short sequence. */
typedef struct step_group { int64_t at, pages; bool narrow; } step_group;
typedef struct step_layout { int64_t at[STEP_PARTS], len[STEP_PARTS], total; int n_groups; step_group group[KV_MAX_GROUPS]; } step_layout;
void step_layout_of(const lower_bucket *b, const lower_options *o, step_layout *out);

#endif
