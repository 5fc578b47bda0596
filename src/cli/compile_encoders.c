/* The encoders of a multimodal model in `systolic compile`: their stages, as engine/towers.c loads them beside the language model, on its first device. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/compile.h"
#include "engine/towers.h"

static const char *const kinds[ENCODER_KINDS] = { [ENCODER_IMAGE] = "image", [ENCODER_AUDIO] = "audio" };

static status add_stages(compile_plan *p, encoder_kind kind)
{
    const encoder *e = p->encoders[kind];
    const int64_t tokens = towers_most_tokens(kind, p->model.eo.max_model_len);
    for (int i = 0; e && i < encoder_n_stages(e); i++) {
        const device_limits l = towers_limits(e, i, tokens);
        const graph *g = encoder_graph(e, i);
        if (p->n_stages == COMPILE_STAGES) return err_set(ST_INTERNAL, "more than %d stages of encoders", COMPILE_STAGES);
        compile_stage *s = &p->stages[p->n_stages];
        TRY(program_context_new(g, &l, graph_activation_type(g), &s->c));
        snprintf(s->name, sizeof s->name, "%s encoder %d", kinds[kind], i);
        p->n_stages++;
    }
    return ST_OK;
}

status compile_encoders_open(compile_plan *p)
{
    int64_t step = 0;
    if (model_describe(p->model.m)->media == 0) return ST_OK;
    for (int k = 0; k < ENCODER_KINDS; k++) {
        TRY(encoder_new(p->config, (encoder_kind)k, p->model.dt, &p->encoders[k]));
        TRY(add_stages(p, (encoder_kind)k));
    }
    for (int i = 0; i < p->n_stages; i++) {
        const int64_t bytes = program_step_bytes(&p->stages[i].c);
        p->encoder_bytes += program_weight_bytes(&p->stages[i].c);
        step = bytes > step ? bytes : step;
    }
    p->encoder_bytes += step;
    return ST_OK;
}

void compile_encoders_close(compile_plan *p)
{
    for (int i = 0; i < p->n_stages; i++) program_context_free(&p->stages[i].c);
    for (int k = 0; k < ENCODER_KINDS; k++) encoder_free(p->encoders[k]);
}

/* The programs of a stage: the one for so many rows of its largest stage, or all (rows 0). */
static void add_jobs(const compile_plan *p, int64_t rows, compile_jobs *out)
{
    for (int i = 0; i < p->n_stages; i++) {
        const bucket_list *l = &p->stages[i].c.buckets;
        for (int b = 0; b < l->n; b++) {
            const bool enough = b + 1 == l->n || l->v[b].tokens >= rows, first = b == 0 || l->v[b - 1].tokens < rows;
            if (rows && !(enough && first)) continue;
            compile_job *j = &out->v[out->n++];
            j->c = &p->stages[i].c;
            program_step_spec(j->c, b, &j->spec);
            snprintf(j->spec.name, sizeof j->spec.name, "%s t%d", p->stages[i].name, l->v[b].tokens);
        }
    }
}

status compile_encoder_jobs(const compile_plan *p, const char *buckets, compile_jobs *out)
{
    if (!buckets) add_jobs(p, 0, out);
    for (const char *at = buckets; at && *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ',')) {
        char *end;
        if (!compile_names_encoder(at)) continue;
        const long rows = strtol(at + 8, &end, 10);
        if (rows < 1 || rows > INT32_MAX || (*end && *end != ',')) return err_set(ST_INVALID, "argument --buckets: \"%.*s\": encoder:ROWS is expected", (int)strcspn(at, ","), at);
        if (p->n_stages == 0) return err_set(ST_INVALID, "argument --buckets: %.*s: this model has no encoders", (int)strcspn(at, ","), at);
        add_jobs(p, rows, out);
        return ST_OK;   /* each program once */
    }
    return ST_OK;
}
