/* Which processor a checkpoint names, and its parameters. */
#include "media/processor.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "media/processor_int.h"

#define HALF { 0.5F, 0.5F, 0.5F }
static const image_class classes[] = {
    { "Qwen2VLImageProcessor", qwen_vl_process,
      { .resize = true, .resample = RESAMPLE_BICUBIC, .mean = { 0.48145466F, 0.4578275F, 0.40821073F }, .std = { 0.26862954F, 0.26130258F, 0.27577711F }, .factor = 1 / 255.0F,
        .min_pixels = 56 * 56, .max_pixels = 28 * 28 * 1280, .patch = 14, .temporal = 2, .merge = 2 } },
    { "Gemma3ImageProcessor", gemma3_process,
      { .resize = true, .resample = RESAMPLE_BILINEAR, .mean = HALF, .std = HALF, .factor = 1 / 255.0F, .height = 224, .width = 224,
        .pan_size = 256, .pan_crops = 4, .pan_ratio = 1.2 } },
    { "Llama4ImageProcessor", llama4_process,
      { .resize = true, .resample = RESAMPLE_BILINEAR, .mean = HALF, .std = HALF, .factor = 1 / 255.0F, .height = 336, .width = 336, .max_tiles = 16 } },
};

/* "Qwen2VLImageProcessorFast" is the same processor. */
static const image_class *class_of(const char *name)
{
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        const size_t n = strlen(classes[i].name);
        if (strncmp(name, classes[i].name, n) == 0 && (!name[n] || strcmp(name + n, "Fast") == 0)) return &classes[i];
    }
    return NULL;
}

static status int_field(const jv *j, const char *name, int64_t least, int64_t most, int64_t *io)
{
    const jv *v = jv_get(j, name);
    if (jv_type(v) <= JV_NULL) return ST_OK;
    const int64_t got = jv_i64(v, least - 1);
    if (got < least || got > most)
        return err_set(ST_INVALID, "%s must be an integer from %" PRId64 " to %" PRId64, name, least, most);
    *io = got;
    return ST_OK;
}

static status int_into(const jv *j, const char *name, int least, int most, int *io)
{
    int64_t v = *io;
    TRY(int_field(j, name, least, most, &v));
    *io = (int)v;
    return ST_OK;
}

static status three(const jv *j, const char *name, float *io)
{
    const jv *v = jv_get(j, name);
    if (jv_type(v) <= JV_NULL) return ST_OK;
    if (!jv_is(v, JV_ARR) || jv_len(v) != 3) return err_set(ST_INVALID, "%s must be a list of three numbers", name);
    for (size_t i = 0; i < 3; i++) {
        const double d = jv_f64(jv_at(v, i), -1e9);
        if (!(d > -1e3 && d < 1e3) || (strcmp(name, "image_std") == 0 && !(d > 1e-6))) return err_set(ST_INVALID, "%s has a bad value", name);
        io[i] = (float)d;
    }
    return ST_OK;
}

static status bool_into(const jv *j, const char *name, bool *io)
{
    const jv *v = jv_get(j, name);
    if (jv_type(v) <= JV_NULL) return ST_OK;
    if (!jv_is(v, JV_BOOL)) return err_set(ST_INVALID, "%s must be true or false, not %s", name, jv_kind_name(jv_type(v)));
    *io = jv_bool(v, false);
    return ST_OK;
}

static status number_into(const jv *j, const char *name, double least, double most, double *io)
{
    const jv *v = jv_get(j, name);
    if (jv_type(v) <= JV_NULL) return ST_OK;
    const double d = jv_f64(v, NAN);
    if (!(d >= least && d <= most)) return err_set(ST_INVALID, "%s must be a number from %g to %g", name, least, most);
    *io = d;
    return ST_OK;
}

static status object_at(const jv *j, const char *name, const jv **out)
{
    *out = jv_get(j, name);
    if (jv_type(*out) <= JV_NULL || jv_is(*out, JV_OBJ)) return ST_OK;
    return err_set(ST_INVALID, "%s must be an object, not %s", name, jv_kind_name(jv_type(*out)));
}

static status image_fields(const jv *j, image_params *p)
{
    enum { MOST_PIXELS = 1 << 26, MOST_SIDE = 8192 };     /* of a request that may say so, these are memory */
    int64_t how = p->resample;
    TRY(int_field(j, "resample", RESAMPLE_BILINEAR, RESAMPLE_BICUBIC, &how));
    p->resample = (resample)how;
    bool rescale = true, normalize = true;
    TRY(bool_into(j, "do_resize", &p->resize));
    TRY(bool_into(j, "do_rescale", &rescale));
    TRY(bool_into(j, "do_normalize", &normalize));
    TRY(three(j, "image_mean", p->mean));
    TRY(three(j, "image_std", p->std));
    double factor = (double)p->factor;
    TRY(number_into(j, "rescale_factor", 1e-9, 1e3, &factor));
    p->factor = rescale ? (float)factor : 1;
    if (!normalize)
        for (int c = 0; c < 3; c++) p->mean[c] = 0, p->std[c] = 1;
    const jv *size;
    TRY(object_at(j, "size", &size));
    TRY(int_into(size, "height", 1, MOST_SIDE, &p->height));
    TRY(int_into(size, "width", 1, MOST_SIDE, &p->width));
    TRY(int_field(size, "shortest_edge", 1, MOST_PIXELS, &p->min_pixels));
    TRY(int_field(size, "longest_edge", 1, MOST_PIXELS, &p->max_pixels));
    TRY(int_field(j, "min_pixels", 1, MOST_PIXELS, &p->min_pixels));
    TRY(int_field(j, "max_pixels", 1, MOST_PIXELS, &p->max_pixels));
    if (p->patch) TRY(int_into(j, "patch_size", 1, 256, &p->patch));
    TRY(int_into(j, "temporal_patch_size", 1, 16, &p->temporal));
    TRY(int_into(j, "merge_size", 1, 16, &p->merge));
    TRY(int_into(j, "max_patches", 1, 256, &p->max_tiles));
    if (p->patch && p->min_pixels > p->max_pixels) return err_set(ST_INVALID, "min_pixels %" PRId64 " is more than max_pixels %" PRId64, p->min_pixels, p->max_pixels);
    return bool_into(j, "resize_to_max_canvas", &p->max_canvas);
}

/* Of mm_processor_kwargs alone: in transformers the processor around Gemma3ImageProcessor hands it these four, at their defaults unless the call has others, so that
 * what a checkpoint's file says of them is never looked at. */
static status pan_fields(const jv *j, image_params *p)
{
    TRY(bool_into(j, "do_pan_and_scan", &p->pan));
    TRY(int_into(j, "pan_and_scan_min_crop_size", 1, 8192, &p->pan_size));
    TRY(int_into(j, "pan_and_scan_max_num_crops", 1, MEDIA_MOST_CROPS, &p->pan_crops));
    return number_into(j, "pan_and_scan_min_ratio_to_activate", 0, 1e6, &p->pan_ratio);
}

static status audio_fields(const jv *j, mel_config *m)
{
    *m = (mel_config){ 16000, 80, 400, 160 };
    TRY(int_into(j, "sampling_rate", 1000, 192000, &m->rate));
    TRY(int_into(j, "feature_size", 1, 1024, &m->n_mels));
    TRY(int_into(j, "n_fft", 16, 4096, &m->n_fft));
    TRY(int_into(j, "hop_length", 1, 4096, &m->hop));
    double dither = 0;
    TRY(number_into(j, "dither", -1e3, 1e3, &dither));
    if (dither != 0) return err_set(ST_UNSUPPORTED, "dither is not supported: features would not be reproducible");
    return ST_OK;
}

static status open_image(const jv *j, media_processor *p)
{
    const char *name = jv_get_str(j, "image_processor_type", NULL);
    if (!name) return ST_OK;
    const image_class *c = class_of(name);
    if (!c) return err_set(ST_UNSUPPORTED, "image_processor_type %.80s is not supported", name);
    p->image = c->process;
    p->ip = c->defaults;
    if (jv_get_bool(j, "do_pan_and_scan", false)) log_warn("do_pan_and_scan of the checkpoint's file has no effect, as in transformers: --mm-processor-kwargs '{\"do_pan_and_scan\": true}' switches it on");
    return image_fields(j, &p->ip);
}

static status open_audio(const jv *j, media_processor *p)
{
    const char *name = jv_get_str(j, "feature_extractor_type", NULL);
    if (!name) return ST_OK;
    if (strcmp(name, "WhisperFeatureExtractor") != 0) return err_set(ST_UNSUPPORTED, "feature_extractor_type %.80s is not supported", name);
    p->audio = true;
    return audio_fields(j, &p->mel);
}

static status open_part(status (*open)(const jv *j, media_processor *p), const jv *own, const jv *nested, media_processor *p)
{
    const status st = open(nested ? nested : own, p);
    return st == ST_OK ? ST_OK : err_wrap(st, nested ? "processor_config.json" : "preprocessor_config.json");
}

/* An object of processor_config.json that says what it is: older files of this name say other things. */
static const jv *nested_in(const jv *processor_config, const char *name, const char *type)
{
    const jv *v = jv_get(processor_config, name);
    return jv_get_str(v, type, NULL) ? v : NULL;
}

static const jv *nested_image(const jv *processor_config) { return nested_in(processor_config, "image_processor", "image_processor_type"); }
static const jv *nested_audio(const jv *processor_config) { return nested_in(processor_config, "feature_extractor", "feature_extractor_type"); }

bool media_processor_described(const jv *preprocessor_config, const jv *processor_config)
{
    return preprocessor_config || nested_image(processor_config) || nested_audio(processor_config);
}

status media_processor_open(const jv *preprocessor_config, const jv *processor_config, media_processor **out)
{
    media_processor *p = mem_calloc(1, sizeof *p);
    if (!p) return err_nomem();
    status st = open_part(open_image, preprocessor_config, nested_image(processor_config), p);
    if (st == ST_OK) st = open_part(open_audio, preprocessor_config, nested_audio(processor_config), p);
    if (st == ST_OK && !p->image && !p->audio) st = err_set(ST_INVALID, "preprocessor_config.json names neither image_processor_type nor feature_extractor_type");
    if (st != ST_OK) {
        mem_free(p);
        return st;
    }
    *out = p;
    return ST_OK;
}

static void append_name(char *dst, size_t cap, const char *name)
{
    const size_t n = strlen(dst);
    snprintf(dst + n, cap - n, "%s%s", n ? ", " : "", name);
}

/* What may be set by name. Sizes that the encoder was made for (patch_size, a tile's) stay as they are. */
static status check_kwargs(const media_processor *p, const jv *kwargs)
{
    static const char *const every[] = { "do_resize", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "resample", NULL };
    static const char *const qwen[] = { "min_pixels", "max_pixels", "size", NULL }, *const llama[] = { "max_patches", "resize_to_max_canvas", NULL };
    static const char *const gemma[] = { "do_pan_and_scan", "pan_and_scan_min_crop_size", "pan_and_scan_max_num_crops", "pan_and_scan_min_ratio_to_activate", NULL };
    const char *const *own = p->image == qwen_vl_process ? qwen : p->image == gemma3_process ? gemma : llama;
    for (jv_iter it = jv_begin(kwargs); jv_next(&it);) {
        bool known = false;
        for (int i = 0; p->image && every[i]; i++) known = known || strcmp(it.key, every[i]) == 0;
        for (int i = 0; p->image && own[i]; i++) known = known || strcmp(it.key, own[i]) == 0;
        if (known) continue;
        if (!p->image) return err_set(ST_INVALID, "%.80s: this model's processor has no such setting", it.key);
        char names[512] = "";
        for (int i = 0; every[i]; i++) append_name(names, sizeof names, every[i]);
        for (int i = 0; own[i]; i++) append_name(names, sizeof names, own[i]);
        return err_set(ST_INVALID, "%.80s: this model's processor has no such setting; it has %s", it.key, names);
    }
    for (jv_iter it = jv_begin(jv_get(kwargs, "size")); jv_next(&it);)
        if (strcmp(it.key, "shortest_edge") != 0 && strcmp(it.key, "longest_edge") != 0)
            return err_set(ST_INVALID, "size.%.80s: this model's size has shortest_edge and longest_edge, both in pixels of the whole image", it.key);
    return ST_OK;
}

status media_processor_with(const media_processor *base, const jv *kwargs, media_processor **out)
{
    if (!jv_is(kwargs, JV_OBJ)) return err_set(ST_INVALID, "mm_processor_kwargs must be an object, not %s", jv_kind_name(jv_type(kwargs)));
    media_processor *p = mem_alloc(sizeof *p);
    if (!p) return err_nomem();
    *p = *base;
    status st = check_kwargs(p, kwargs);
    if (st == ST_OK) st = image_fields(kwargs, &p->ip);
    if (st == ST_OK) st = pan_fields(kwargs, &p->ip);
    if (st == ST_OK) *out = p;
    else mem_free(p);
    return st == ST_OK ? ST_OK : err_wrap(st, "mm_processor_kwargs");
}

void media_processor_close(media_processor *p) { mem_free(p); }
bool media_processor_takes(const media_processor *p, media_kind kind) { return kind == MEDIA_IMAGE ? p->image != NULL : p->audio; }

float params_normal(const image_params *p, int channel, uint8_t v)
{
    const float to_255 = 1 / p->factor;
    return ((float)v - p->mean[channel] * to_255) / (p->std[channel] * to_255);
}

status features_alloc(media_features *f, int64_t rows, int64_t cols)
{
    f->values = mem_array((size_t)rows, (size_t)cols * sizeof *f->values);
    if (!f->values) return err_nomem();
    f->rows = rows;
    f->cols = cols;
    return ST_OK;
}

int media_image_crops(const media_processor *p, const image *im, image_box out[MEDIA_MOST_CROPS])
{
    return p->image == gemma3_process ? gemma3_crops(&p->ip, im->width, im->height, out) : 0;
}

int media_most_crops(const media_processor *p) { return p->image == gemma3_process && p->ip.pan ? p->ip.pan_crops : 0; }

/* ---- reading ---- */

static status colour(const jv *v, uint8_t out[3])
{
    uint8_t rgb[3];
    if (!jv_is(v, JV_ARR) || jv_len(v) != 3) return err_set(ST_INVALID, "image.rgba_background_color must be a list of three integers from 0 to 255");
    for (size_t i = 0; i < 3; i++) {
        const int64_t part = jv_is(jv_at(v, i), JV_INT) ? jv_i64(jv_at(v, i), -1) : -1;
        if (part < 0 || part > 255) return err_set(ST_INVALID, "image.rgba_background_color must be a list of three integers from 0 to 255");
        rgb[i] = (uint8_t)part;
    }
    memcpy(out, rgb, sizeof rgb);
    return ST_OK;
}

static status image_io(const jv *kwargs, image_options *io)
{
    if (!jv_is(kwargs, JV_OBJ)) return err_set(ST_INVALID, "image must be an object, not %s", jv_kind_name(jv_type(kwargs)));
    for (jv_iter it = jv_begin(kwargs); jv_next(&it);) {
        if (strcmp(it.key, "rgba_background_color") != 0) return err_set(ST_INVALID, "image.%.80s: there is no such setting; there is rgba_background_color", it.key);
        TRY(colour(jv_get(kwargs, it.key), io->background));
    }
    return ST_OK;
}

status image_options_with(const jv *kwargs, image_options *io)
{
    if (!jv_is(kwargs, JV_OBJ)) return err_set(ST_INVALID, "media_io_kwargs must be an object, not %s", jv_kind_name(jv_type(kwargs)));
    for (jv_iter it = jv_begin(kwargs); jv_next(&it);) {
        const jv *of = jv_get(kwargs, it.key);
        status st = ST_OK;
        if (strcmp(it.key, "image") == 0) st = image_io(of, io);
        else if (strcmp(it.key, "audio") == 0 && jv_is(of, JV_OBJ) && jv_len(of) == 0) st = ST_OK;
        else if (strcmp(it.key, "audio") == 0) st = err_set(ST_INVALID, "audio has no settings");
        else st = err_set(ST_INVALID, "%.80s: settings are of image; %s", it.key, strcmp(it.key, "video") == 0 ? "video is not read" : "there is no such kind");
        if (st != ST_OK) return err_wrap(st, "media_io_kwargs");
    }
    return ST_OK;
}

status media_process_image(const media_processor *p, const image *im, media_features *out)
{
    if (!p->image) return err_set(ST_UNSUPPORTED, "this model takes no images");
    media_features f = { .kind = MEDIA_IMAGE, .grid = { 1, 1, 1 }, .width = im->width, .height = im->height };
    const status st = p->image(&p->ip, im, &f);
    if (st == ST_OK) *out = f;
    else mem_free(f.values);
    return st;
}

status media_process_audio(const media_processor *p, const audio *a, media_features *out)
{
    if (!p->audio) return err_set(ST_UNSUPPORTED, "this model takes no audio");
    audio own = {0};
    if (a->rate != p->mel.rate) {
        TRY(audio_resample(a->samples, a->n, a->rate, p->mel.rate, &own.samples, &own.n));
        a = &own;
    }
    media_features f = { .kind = MEDIA_AUDIO, .grid = { 1, 1, 1 }, .rows = p->mel.n_mels, .n_samples = (int64_t)a->n };
    int frames = 0;
    const status st = audio_log_mel(&p->mel, a->samples, a->n, &f.values, &frames);
    audio_free(&own);
    f.cols = frames;
    if (st == ST_OK) *out = f;
    return st;
}

void media_features_free(media_features *f)
{
    mem_free(f->values);
    *f = (media_features){0};
}
