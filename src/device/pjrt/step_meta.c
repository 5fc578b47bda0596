/* A batch as the integers that a program reads. */
#include "device/pjrt/step_meta.h"

#include <string.h>

enum { Q_TILE_MIN = 8, Q_TILE_MAX = 128 };

/* A quarter of the bucket's tokens, within limits, and a power of two. */
int64_t bucket_q_tile(const lower_bucket *b)
{
    int64_t tile = Q_TILE_MIN;
    if (b->decode) return 1;
    while (tile < Q_TILE_MAX && tile * 4 < b->tokens) tile *= 2;
    return tile < b->tokens ? tile : b->tokens;
}

/* Every sequence of two tokens or more may end in a tile that is not full. */
int64_t bucket_n_tiles(const lower_bucket *b)
{
    if (b->decode) return 0;
    int64_t ragged = b->seqs < b->tokens / 2 ? b->seqs : b->tokens / 2;
    return b->tokens / bucket_q_tile(b) + ragged + 1;
}

/* Most pages that a step's queries of one sequence see, and whether these are less than all. */
static step_group group_of(const lower_bucket *b, const lower_options *o, const kv_group *g)
{
    int64_t pages = kv_group_blocks(g, (int64_t)o->max_pages * o->page, b->decode ? 1 : b->tokens, o->page);
    bool aligned = g->chunk == 0 || (g->window == 0 && g->chunk % o->page == 0), narrow = aligned && pages < o->max_pages;
    return (step_group){ .pages = narrow ? pages : o->max_pages, .narrow = narrow };
}

static int64_t find_groups(const lower_bucket *b, const lower_options *o, step_layout *out)
{
    const kv_group all = { 0 };
    int64_t pages = 0;
    out->n_groups = o->groups ? o->groups->n_groups : 1;
    for (int g = 0; g < out->n_groups; g++) {
        out->group[g] = group_of(b, o, o->groups ? &o->groups->group[g] : &all);
        out->group[g].at = pages * b->seqs;     /* from the table's first number */
        pages += out->group[g].pages;
    }
    return pages;
}

void step_layout_of(const lower_bucket *b, const lower_options *o, step_layout *out)
{
    int64_t tiles = bucket_n_tiles(b), at = 0, pages = find_groups(b, o, out), groups = out->n_groups;
    const int64_t rows_only[STEP_PARTS] = { [STEP_POSITIONS] = b->tokens, [STEP_POSITIONS3] = o->three ? 3 * (int64_t)b->tokens : 0 };
    const int64_t len[STEP_PARTS] = {
        [STEP_TOKENS] = b->tokens, [STEP_POSITIONS] = b->tokens, [STEP_WRITE_PAGE] = groups * b->tokens, [STEP_WRITE_SLOT] = b->tokens, [STEP_ROPE_VARIANT] = b->tokens,
        [STEP_ROWS] = b->rows, [STEP_PAGE_TABLE] = pages * b->seqs, [STEP_POSITIONS3] = o->three ? 3 * (int64_t)b->tokens : 0, [STEP_KV_LENS] = groups * b->seqs,
        [STEP_SEQ_TOKEN] = b->decode ? 0 : b->seqs, [STEP_TOKEN_SEQ] = b->decode ? 0 : b->tokens, [STEP_SEE] = b->decode || !o->see ? 0 : b->tokens,
        [STEP_TILE_SEQ] = tiles, [STEP_TILE_TOKEN] = tiles,
        [STEP_TILE_POS] = groups * tiles, [STEP_TILE_LEN] = tiles, [STEP_TILES] = b->decode ? 0 : 1 };
    for (int i = 0; i < STEP_PARTS; i++) {
        out->at[i] = at;
        out->len[i] = b->encoder ? rows_only[i] : len[i];
        at += out->len[i];
    }
    out->total = at;
}

int64_t step_meta_len(const lower_bucket *b, const lower_options *o)
{
    step_layout l;
    step_layout_of(b, o, &l);
    return l.total;
}

bool bucket_fits(const lower_bucket *b, const batch *x)
{
    if (x->n_tokens > b->tokens || x->n_seqs > b->seqs || x->n_rows > b->rows || (b->decode && x->n_tokens != x->n_seqs)) return false;
    for (int s = 0; b->decode && s < x->n_seqs; s++)
        if (x->cu_q_lens[s + 1] - x->cu_q_lens[s] != 1) return false;
    return true;
}

static void fill_tiles(const lower_bucket *b, const batch *x, int s, const step_layout *l, int32_t *meta, int *n)
{
    int64_t tile = bucket_q_tile(b);
    int first = x->cu_q_lens[s], len = x->cu_q_lens[s + 1] - first;
    for (int i = 0; i < len; i += (int)tile, (*n)++) {
        meta[l->at[STEP_TILE_SEQ] + *n] = s;
        meta[l->at[STEP_TILE_TOKEN] + *n] = first + i;
        meta[l->at[STEP_TILE_LEN] + *n] = len - i < tile ? len - i : (int32_t)tile;
    }
}

/* Where a group's layers write and read. Tiles come in the order of sequences. */
static void fill_group(const lower_bucket *b, const lower_options *o, const batch *x, int group, const step_layout *l, int32_t *meta)
{
    const step_group *g = &l->group[group];
    int32_t *write = meta + l->at[STEP_WRITE_PAGE] + (int64_t)group * b->tokens, *table = meta + l->at[STEP_PAGE_TABLE] + g->at;
    int32_t *kv_lens = meta + l->at[STEP_KV_LENS] + (int64_t)group * b->seqs, *tile_pos = meta + l->at[STEP_TILE_POS] + group * bucket_n_tiles(b);
    for (int t = 0; t < x->n_tokens; t++) write[t] = batch_slots(x, group)[t] / o->page;
    for (int s = 0; s < x->n_seqs; s++) {
        int len = x->cu_q_lens[s + 1] - x->cu_q_lens[s], pos = x->kv_lens[s] - len;
        int64_t first = g->narrow ? kv_first_seen(&o->groups->group[group], pos) / o->page : 0, used = ((int64_t)x->kv_lens[s] + o->page - 1) / o->page - first;
        memcpy(table + s * g->pages, batch_pages(x, group, s) + first, (size_t)used * sizeof *table);
        pos -= (int32_t)(first * o->page);
        if (len == 1) kv_lens[s] = pos + 1;
        else for (int i = 0; i < len; i += (int)bucket_q_tile(b)) *tile_pos++ = pos + i;
    }
}

/* What models with images have beside. A decode bucket's tokens are the last of their sequences: there is nothing behind them to see. */
static void fill_media(const batch *x, const step_layout *l, int32_t *meta)
{
    int32_t *three = meta + l->at[STEP_POSITIONS3];
    for (int t = 0; l->len[STEP_POSITIONS3] && t < x->n_tokens; t++)
        for (int k = 0; k < 3; k++) three[3 * t + k] = x->positions3 ? x->positions3[3 * t + k] : x->positions[t];
    for (int t = 0; l->len[STEP_SEE] && x->see && t < x->n_tokens; t++)
        if (x->see[t] > x->positions[t]) meta[l->at[STEP_SEE] + t] = x->see[t] - x->positions[t] - 1;
}

void step_meta_fill(const lower_bucket *b, const lower_options *o, const batch *x, int32_t *meta)
{
    step_layout l;
    int n_tiles = 0;
    step_layout_of(b, o, &l);
    memset(meta, 0, (size_t)l.total * sizeof *meta);
    if (b->encoder) {
        fill_media(x, &l, meta);
        return;
    }
    memcpy(meta + l.at[STEP_TOKENS], x->token_ids, (size_t)x->n_tokens * sizeof *meta);
    memcpy(meta + l.at[STEP_POSITIONS], x->positions, (size_t)x->n_tokens * sizeof *meta);
    memcpy(meta + l.at[STEP_ROWS], x->rows, (size_t)x->n_rows * sizeof *meta);
    for (int t = 0; t < x->n_tokens; t++) meta[l.at[STEP_WRITE_SLOT] + t] = x->slots[t] % o->page; /* the same in all groups */
    for (int g = 0; g < batch_groups(x); g++) fill_group(b, o, x, g, &l, meta);
    fill_media(x, &l, meta);
    for (int64_t i = 0; i < l.len[STEP_TOKEN_SEQ]; i++) meta[l.at[STEP_TOKEN_SEQ] + i] = -1;
    for (int s = 0; s < x->n_seqs; s++) {
        int first = x->cu_q_lens[s], len = x->cu_q_lens[s + 1] - first;
        for (int t = first; x->rope_variant && t < first + len; t++) meta[l.at[STEP_ROPE_VARIANT] + t] = x->rope_variant[s];
        if (b->decode) continue;
        if (len == 1) {
            meta[l.at[STEP_SEQ_TOKEN] + s] = first;
            meta[l.at[STEP_TOKEN_SEQ] + first] = s;
        } else {
            fill_tiles(b, x, s, &l, meta, &n_tiles);
        }
    }
    if (!b->decode) meta[l.at[STEP_TILES]] = n_tiles;
}
