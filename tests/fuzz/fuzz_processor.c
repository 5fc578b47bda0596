// layer: media
/* preprocessor_config.json, processor_config.json, mm_processor_kwargs and media_io_kwargs, with a byte 1 between them: what comes of them is asked for crops, and
 * processes a small image or sound where it makes something small of it. */
#include <string.h>

#include "media/processor_int.h"

/* [*at, end) up to the next separator, parsed; NULL if it is no JSON. */
static jv *next_json(const uint8_t **at, const uint8_t *end)
{
    const uint8_t *stop = *at < end ? memchr(*at, 1, (size_t)(end - *at)) : NULL;
    jv *j = NULL;
    if (!stop) stop = end;
    if (*at < stop && jv_parse((const char *)*at, (size_t)(stop - *at), &j) != ST_OK) j = NULL;
    *at = stop < end ? stop + 1 : end;
    return j;
}

static void check_crops(const media_processor *p, int width, int height)
{
    image_box box[MEDIA_MOST_CROPS];
    const image im = { width, height, NULL };
    const int n = media_image_crops(p, &im, box);
    int64_t area = 0;
    if (n < 0 || n > media_most_crops(p)) __builtin_trap();
    for (int i = 0; i < n; i++) {
        if (box[i].x < 0 || box[i].y < 0 || box[i].width < 1 || box[i].height < 1 || box[i].x + box[i].width > width || box[i].y + box[i].height > height) __builtin_trap();
        area += (int64_t)box[i].width * box[i].height;
    }
    if (n && area != (int64_t)width * height) __builtin_trap();
}

/* Only time would go into large ones. */
static bool is_small(const image_params *p)
{
    return p->height <= 64 && p->width <= 64 && p->min_pixels <= 1 << 14 && p->patch <= 32 && p->merge <= 4 && p->temporal <= 4 && p->max_tiles <= 16;
}

static void process(const media_processor *p)
{
    static uint8_t rgb[61 * 43 * 3];
    float sound[800] = { 0.5f };
    media_features f;
    if (media_processor_takes(p, MEDIA_IMAGE) && is_small(&p->ip) && media_process_image(p, &(image){ 61, 43, rgb }, &f) == ST_OK) media_features_free(&f);
    if (media_processor_takes(p, MEDIA_AUDIO) && media_process_audio(p, &(audio){ .samples = sound, .n = 800, .rate = 16000 }, &f) == ST_OK) media_features_free(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *at = data, *end = data + size;
    jv *flat = next_json(&at, end), *nested = next_json(&at, end), *kwargs = next_json(&at, end), *io = next_json(&at, end);
    media_processor *p = NULL, *changed = NULL;
    image_options options = image_defaults;
    if (io && image_options_with(io, &options) != ST_OK) err_clear();
    if (media_processor_open(flat, nested, &p) == ST_OK) {
        process(p);
        if (kwargs && media_processor_with(p, kwargs, &changed) == ST_OK) {
            static const int sizes[][2] = { { 1, 1 }, { 300, 256 }, { 1024, 256 }, { 255, 5000 }, { 30000, 1 }, { 7, 3 } };
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check_crops(changed, sizes[i][0], sizes[i][1]);
            process(changed);
            media_processor_close(changed);
        }
        media_processor_close(p);
    }
    jv_free(flat);
    jv_free(nested);
    jv_free(kwargs);
    jv_free(io);
    return 0;
}
