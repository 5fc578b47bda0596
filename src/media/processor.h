/* From a decoded image or sound to the numbers a model's encoder eats, as the processors of the model families define it; parameters come from
 * preprocessor_config.json, or from the objects of processor_config.json that newer checkpoints have in its place, with the defaults of the classes it names. Values, their layout and the number of placeholder tokens are those of the transformers library
 * (its torchvision backend). Immutable after opening: any thread may use it.
 *
 *   Qwen2VLImageProcessor  (qwen_vl.c)  [patches][3 * 2 * p * p], patches in the order of the merged 2 x 2 squares; grid t, h, w
 *   Gemma3ImageProcessor   (gemma3.c)   [1][3][size][size]
 *   Llama4ImageProcessor   (llama4.c)   [tiles][3][size][size], the whole image last when there are several; grid 1, rows, columns of tiles
 *   WhisperFeatureExtractor             [mels][frames] */
#ifndef SYSTOLIC_MEDIA_PROCESSOR_H
#define SYSTOLIC_MEDIA_PROCESSOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "media/audio.h"
#include "media/image.h"

typedef enum media_kind { MEDIA_IMAGE, MEDIA_AUDIO, MEDIA_KINDS } media_kind;

/* One image or sound, ready for the encoder. */
typedef struct media_features {
    media_kind kind;
    float *values; int64_t rows, cols;      /* [rows][cols]; of tiles a row is one tile */
    int grid[3];                            /* 1, 1, 1 where a family has none */
    int width, height;                      /* of the image before processing; 0 */
    int64_t n_samples;                      /* of the sound at the model's rate; 0 */
} media_features;

typedef struct media_processor media_processor;
/* The nested objects win, as in transformers; either file may be NULL. ST_UNSUPPORTED for a class that is not known; ST_INVALID names a bad field. */
status media_processor_open(const jv *preprocessor_config, const jv *processor_config, media_processor **out) FALLIBLE;
/* Is there one in these files? Either may be NULL. */
bool media_processor_described(const jv *preprocessor_config, const jv *processor_config);
/* Another one with some settings changed (mm_processor_kwargs); ST_INVALID names a setting that this class does not have. */
status media_processor_with(const media_processor *base, const jv *kwargs, media_processor **out) FALLIBLE;
void media_processor_close(media_processor *p);
bool media_processor_takes(const media_processor *p, media_kind kind);

/* Parts of an image that are images of their own behind it in the prompt (Gemma 3's pan and scan, which only mm_processor_kwargs switch on); how many. */
enum { MEDIA_MOST_CROPS = 16 };
int media_image_crops(const media_processor *p, const image *im, image_box out[MEDIA_MOST_CROPS]);
int media_most_crops(const media_processor *p);     /* of one image; 0: it makes none */
/* media_io_kwargs: how files are read. {"image": {"rgba_background_color": [r, g, b]}}, of which any may be missing. */
status image_options_with(const jv *kwargs, image_options *io) FALLIBLE;

status media_process_image(const media_processor *p, const image *im, media_features *out) FALLIBLE;
/* a is resampled if need be. */
status media_process_audio(const media_processor *p, const audio *a, media_features *out) FALLIBLE;
void media_features_free(media_features *f);

#endif
