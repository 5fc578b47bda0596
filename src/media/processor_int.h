/* Inside of the processors: their parameters and what they share. */
#ifndef SYSTOLIC_MEDIA_PROCESSOR_INT_H
#define SYSTOLIC_MEDIA_PROCESSOR_INT_H

#include "media/processor.h"
#include "media/resize.h"

typedef struct image_params {
    bool resize;
    resample resample;
    float mean[3], std[3];                  /* of values 0..1 */
    float factor;                           /* 0..255 becomes 0..1 by it; 1 = not rescaled */
    int height, width;                      /* gemma3, llama4: of the (tile's) square */
    int64_t min_pixels, max_pixels;         /* qwen */
    int patch, temporal, merge;             /* qwen */
    int max_tiles; bool max_canvas;         /* llama4 */
    bool pan; int pan_size, pan_crops; double pan_ratio;    /* gemma3: pan and scan; least side of a crop, most crops, least ratio of sides */
} image_params;

typedef status image_process_fn(const image_params *p, const image *im, media_features *out);
image_process_fn qwen_vl_process, gemma3_process, llama4_process;
/* Pan and scan's crops of an image; how many. */
int gemma3_crops(const image_params *p, int width, int height, image_box out[MEDIA_MOST_CROPS]);

/* A class in preprocessor_config.json and its defaults. */
typedef struct image_class { const char *name; image_process_fn *process; image_params defaults; } image_class;

struct media_processor {
    image_process_fn *image;                /* NULL = takes none */
    image_params ip;
    bool audio;
    mel_config mel;
};

/* (v - mean / factor) / (std / factor) in float32, the order of operations of the fused normalisation. */
float params_normal(const image_params *p, int channel, uint8_t v);
/* Makes f->values for rows x cols. */
status features_alloc(media_features *f, int64_t rows, int64_t cols) FALLIBLE;

#endif
