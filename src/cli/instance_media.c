/* Images and sounds of an instance: the processor of its checkpoint, and its encoders. */
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/instance.h"

/* Of a configuration alone (`compile`, `plan`) nobody knows what else there is: it is taken to be served with all that the model can. */
static bool wants_media(const instance *s)
{
    return (!s->files || media_processor_described(s->files->preprocessor_config, s->files->processor_config)) && strcmp(flags_str(s->f, "load-format"), "dummy") != 0 && !flags_bool(s->f, "language-model-only", false);
}

status instance_media_levels(const instance *s, const jv *config, int *out)
{
    *out = 0;
    if (!wants_media(s)) return ST_OK;
    for (int k = 0; k < ENCODER_KINDS; k++) {
        encoder *e = NULL;
        TRY(encoder_new(config, (encoder_kind)k, s->dt, &e));
        if (e && *out < 1 + encoder_levels(e)) *out = 1 + encoder_levels(e);
        encoder_free(e);
    }
    return ST_OK;
}

status instance_open_media(instance *s)
{
    const flags *f = s->f;
    if (model_describe(s->m)->media == 0) return ST_OK;
    TRY(media_processor_open(s->files->preprocessor_config, s->files->processor_config, &s->processor));
    if (flags_json(f, "mm-processor-kwargs")) {
        media_processor *own;
        const status st = media_processor_with(s->processor, flags_json(f, "mm-processor-kwargs"), &own);
        if (st != ST_OK) return err_wrap(st, "--mm-processor-kwargs");
        media_processor_close(s->processor);
        s->processor = own;
    }
    const double t0 = clock_now();
    device_info di;
    device_describe(s->dev, &di);
    const towers_options o = { .dir = s->dir, .type = s->dt, .n_threads = (int)instance_i64(f, "threads", 0), .isa = flags_str(f, "isa"), .dev = di.loops && !di.own_time ? s->dev : NULL, .most_tokens = s->eo.max_model_len,
                               .cache_bytes = (int64_t)(flags_f64(f, "mm-processor-cache-gb", 4) * 1073741824) };
    TRY(towers_open(s->files->config, &o, &s->towers));
    const int64_t taken = s->towers ? towers_device_bytes(s->towers) : 0;
    log_info("Loading the encoders of images and sounds took %.2f seconds; they run on %s", clock_now() - t0, taken > 0 ? di.name : "the host's CPU");
    return ST_OK;
}

void instance_close_media(instance *s)
{
    towers_close(s->towers);
    if (s->processor) media_processor_close(s->processor);
    s->towers = NULL;
    s->processor = NULL;
}
