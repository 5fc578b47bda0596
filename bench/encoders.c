/* A preset's encoder at full size with made-up weights on the CPU, item after item.
 *   encoders PRESET image ROWS COLUMNS | audio FRAMES   [--dtype bf16|f32] [--threads N] [--rounds N] [--isa NAME]
 * ROWS x COLUMNS: patches, where a model takes pictures of any size; elsewhere one picture or tile. Prints a JSON object: seconds of each round after a
 * first one that is not counted, and of these what each stage took. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/towers.h"
#include "model/presets.h"

enum { STAGES = 8 };
typedef struct tower { device_model *dm[STAGES]; double spent[STAGES]; int64_t rows[STAGES]; } tower;

static void check(status st)
{
    if (st == ST_OK) return;
    fprintf(stderr, "encoders: %s\n", err_msg());
    exit(1);
}

static status run_stage(void *arg, int stage, const batch *b)
{
    tower *t = arg;
    const double start = clock_now();
    const status st = device_run(t->dm[stage], b);
    t->spent[stage] += clock_now() - start;
    t->rows[stage] += b->n_tokens;
    return st;
}

/* The values of one item, all from -1 to 1. */
static encoder_input item_of(const jv *config, encoder_kind kind, int a, int b)
{
    const jv *thinker = jv_get(config, "thinker_config"), *top = thinker ? thinker : config;
    const jv *v = jv_get(top, kind == ENCODER_IMAGE ? "vision_config" : "audio_config");
    const int64_t patch = jv_get_i64(v, "patch_size", thinker ? 16 : 14), side = thinker ? 0 : jv_get_i64(v, "image_size", 0);     /* Qwen's is no limit */
    encoder_input in = { .rows = (int64_t)a * b, .cols = 3 * jv_get_i64(v, "temporal_patch_size", 2) * patch * patch, .grid = { 1, a, b } };
    if (kind == ENCODER_AUDIO) in = (encoder_input){ .rows = jv_get_i64(v, "num_mel_bins", 128), .cols = a, .grid = { 1, 1, 1 } };
    else if (side) in = (encoder_input){ .rows = 1, .cols = 3 * side * side, .grid = { 1, 1, 1 } };
    float *values = mem_array((size_t)in.rows, (size_t)in.cols * sizeof *values);
    if (!values) check(err_nomem());
    uint32_t x = 1;
    for (int64_t i = 0; i < in.rows * in.cols; i++) {
        x = x * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)x * 0x1p-31f;
    }
    in.values = values;
    return in;
}

static void print(const tower *t, const double *seconds, int rounds, const encoder *e, int64_t tokens, const device_info *di)
{
    printf("{\"isa\": \"%s\", \"threads\": %d, \"tokens\": %lld, \"seconds\": [", di->isa, di->n_threads, (long long)tokens);
    for (int i = 0; i < rounds; i++) printf("%s%.4f", i ? ", " : "", seconds[i]);
    printf("], \"stages\": [");
    for (int s = 0; s < encoder_n_stages(e); s++) printf("%s{\"rows\": %lld, \"seconds\": %.4f}", s ? ", " : "", (long long)(t->rows[s] / rounds), t->spent[s] / rounds);
    printf("]}\n");
}

int main(int argc, char **argv)
{
    const bool sound = argc > 3 && strcmp(argv[2], "audio") == 0;
    const char *isa = NULL;
    int at = sound ? 4 : 5, threads = 0, rounds = 3;
    dtype type = DT_BF16;
    jv *config;
    encoder *e;
    weight_source *w;
    device *d;
    device_info di;
    tower t = { .rows = { 0 } };
    double seconds[64];
    if (argc < at) {
        fprintf(stderr, "usage: encoders PRESET image ROWS COLUMNS | audio FRAMES [--dtype bf16|f32] [--threads N] [--rounds N] [--isa NAME]\n");
        return 2;
    }
    for (; at + 1 < argc; at += 2) {
        if (strcmp(argv[at], "--dtype") == 0) type = strcmp(argv[at + 1], "f32") == 0 ? DT_F32 : DT_BF16;
        if (strcmp(argv[at], "--threads") == 0) threads = atoi(argv[at + 1]);
        if (strcmp(argv[at], "--rounds") == 0) rounds = atoi(argv[at + 1]);
        if (strcmp(argv[at], "--isa") == 0) isa = argv[at + 1];
    }
    rounds = rounds < 1 ? 1 : rounds > 64 ? 64 : rounds;
    const preset *p = preset_find(argv[1]);
    if (!p) check(err_set(ST_NOT_FOUND, "no preset %s", argv[1]));
    check(preset_config(p, &config));
    const encoder_kind kind = sound ? ENCODER_AUDIO : ENCODER_IMAGE;
    check(encoder_new(config, kind, type, &e));
    if (!e) check(err_set(ST_UNSUPPORTED, "%s has no such encoder", argv[1]));
    encoder_input in = item_of(config, kind, atoi(argv[3]), sound ? 1 : atoi(argv[4]));
    int64_t n, made;
    check(encoder_n_tokens(e, &in, &n));
    check(encoder_weights_dummy(e, 0, &w));
    check(device_open("cpu", &(device_options){ .n_threads = threads, .isa = isa }, &d));
    device_describe(d, &di);
    for (int s = 0; s < encoder_n_stages(e); s++) {
        const device_limits l = towers_limits(e, s, n);
        check(device_load(d, encoder_graph(e, s), w, &l, NULL, NULL, &t.dm[s]));
    }
    for (int i = -1; i < rounds; i++) {
        float *out;
        const double start = clock_now();
        check(encoder_run(e, &in, run_stage, &t, &out, &made));
        if (i >= 0) seconds[i] = clock_now() - start;
        else memset(t.spent, 0, sizeof t.spent), memset(t.rows, 0, sizeof t.rows);
        mem_free(out);
    }
    print(&t, seconds, rounds, e, n, &di);
    for (int s = 0; s < encoder_n_stages(e); s++) device_unload(t.dm[s]);
    device_close(d);
    encoder_weights_close(w);
    encoder_free(e);
    mem_free((void *)(uintptr_t)in.values);
    jv_free(config);
    return 0;
}
