/* A checkpoint's scales of an fp8 KV cache, end to end on the CPU device. What every case rests on: a checkpoint whose keys and values are
 * a power of two greater, and whose queries and outputs are as much smaller, has the same logits to the last bit if its cache is
 * divided by that power, and others if it is not, for then its keys are beyond what the cache's type holds. */
#include "load/safetensors.h"
#include "tests/golden/rig.h"
#include "tests/unit/load/tmpdir.h"

enum { VOCAB = 40, N_TOKENS = 21, MAX_EXTRAS = 4 };

static const char config_text[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"x\", \"vocab_size\": 40, \"hidden_size\": 48, \"intermediate_size\": 64, \"num_hidden_layers\": 2,"
    " \"num_attention_heads\": 6, \"num_key_value_heads\": 2, \"head_dim\": 20, \"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 256}";

/* A tensor of every layer beside the model's own; n 0: a number without dimensions. */
typedef struct extra { const char *name; float value; int64_t n; bool bf16; } extra;
#define S(tensor, number) { .name = tensor, .value = number }
/* Keys are k times greater, values v times. */
typedef struct made { float k, v; extra extras[MAX_EXTRAS]; } made;

static bool has(const char *name, const char *part) { return strstr(name, part) != NULL; }

/* What a tensor's values are multiplied by. */
static float factor_of(const made *x, const char *name)
{
    if (has(name, "self_attn.k_proj")) return x->k;
    if (has(name, "self_attn.q_proj")) return 1 / x->k;
    if (has(name, "self_attn.v_proj")) return x->v;
    if (has(name, "self_attn.o_proj")) return 1 / x->v;
    return 1;
}

static status put_tensor(buf *header, buf *data, const char *name, const char *type, const int64_t *dim, int rank, const void *values, size_t bytes)
{
    buf_printf(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", header->len > 1 ? "," : "", name, type);
    for (int i = 0; i < rank; i++) buf_printf(header, "%s%lld", i ? "," : "", (long long)dim[i]);
    buf_printf(header, "],\"data_offsets\":[%zu,%zu]}", data->len, data->len + bytes);
    buf_append(data, values, bytes);
    return buf_status(data);
}

static status put_weights(const made *x, const model *m, weight_source *w, buf *header, buf *data)
{
    const graph *g = model_graph(m);
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *n = graph_at(g, id);
        for (int64_t i = 0; n->op == OP_WEIGHT && i < n->a.weight.n_parts; i++) {
            weight_data d;
            const char *name = n->a.weight.parts[i].name;
            TRY(w->get(w, name, &d));
            const size_t count = (size_t)(d.shape[0] * (d.rank == 2 ? d.shape[1] : 1));
            float *f = mem_array(count, sizeof *f);
            if (!f) return err_nomem();
            dtype_to_f32(d.type, d.values, f, count);
            for (size_t k = 0; k < count; k++) f[k] = (d.rank == 1 ? 1 : 250 * f[k]) * factor_of(x, name);   /* norms of 1, products of about 1 */
            status st = put_tensor(header, data, name, "F32", d.shape, d.rank, f, count * sizeof *f);
            mem_free(f);
            w->release(w, name, &d);
            TRY(st);
        }
    }
    return ST_OK;
}

static status put_extras(const made *x, buf *header, buf *data)
{
    for (int i = 0; i < MAX_EXTRAS && x->extras[i].name; i++)
        for (int l = 0; l < 2; l++) {
            const extra *e = &x->extras[i];
            const float wide[] = { e->value, e->value };
            const uint16_t narrow = f32_to_bf16(e->value);
            char name[128];
            snprintf(name, sizeof name, "model.layers.%d.self_attn.%s", l, e->name);
            TRY(put_tensor(header, data, name, e->bf16 ? "BF16" : "F32", &e->n, e->n ? 1 : 0, e->bf16 ? (const void *)&narrow : wide, (size_t)(e->n ? e->n : 1) * (e->bf16 ? 2 : 4)));
        }
    return ST_OK;
}

static void write_files(const buf *header, const buf *data)
{
    buf file = { 0 };
    for (int i = 0; i < 8; i++) buf_char(&file, (char)((uint64_t)header->len >> 8 * i));
    buf_append(&file, header->data, header->len);
    buf_append(&file, data->data, data->len);
    REQUIRE_OK(buf_status(&file));
    tmpdir_new();
    tmpdir_text("config.json", config_text);
    tmpdir_write("model.safetensors", file.data, file.len);
    buf_free(&file);
}

/* The checkpoint, in tmpdir_path. */
static status make(const made *x)
{
    jv *config = NULL;
    model *m = NULL;
    weight_source *w = NULL;
    buf header = { 0 }, data = { 0 };
    status st;
    TRY_OUT(jv_parse(config_text, strlen(config_text), &config));
    TRY_OUT(model_new(config, &(model_options){ .weight_dtype = DT_F32 }, &m));
    TRY_OUT(model_weights_open(m, NULL, true, 5, &w));
    buf_char(&header, '{');
    TRY_OUT(put_weights(x, m, w, &header, &data));
    TRY_OUT(put_extras(x, &header, &data));
    buf_char(&header, '}');
    TRY_OUT(buf_status(&header));
    write_files(&header, &data);
out:
    buf_free(&header);
    buf_free(&data);
    if (w) model_weights_close(w);
    model_free(m);
    jv_free(config);
    return st;
}

static status logits_of(const made *x, dtype kv, bool scales, float out[N_TOKENS * VOCAB])
{
    rig r;
    rig_seq seq = { 0 };
    int32_t ids[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++) ids[i] = i * 7 % VOCAB;
    TRY(make(x));
    TRY(rig_open(&r, tmpdir_path, (rig_options){ .weights = DT_F32, .kv = kv, .threads = 1, .max_model_len = 128, .kv_scales = scales }));
    status st = rig_prompt(&r, &seq, ids, N_TOKENS, 7, out);
    rig_close(&r);
    return st;
}

/* How far off, of the largest. */
static double off_by(const float *got, const float *want)
{
    double worst = 0, most = 0;
    for (int i = 0; i < N_TOKENS * VOCAB; i++) {
        const double d = fabs((double)got[i] - (double)want[i]);
        worst = d > worst ? d : worst;
        most = fabs((double)want[i]) > most ? fabs((double)want[i]) : most;
    }
    return worst / most;
}

static const made plain = { .k = 1, .v = 1 };
enum { K = 1 << 20, V = 1 << 19 };
static float want[N_TOKENS * VOCAB], got[N_TOKENS * VOCAB];

TEST(every_spelling)
{
    static const made all[] = {
        { K, V, { S("k_scale", K), S("v_scale", V) } },
        { K, V, { { "k_scale", K, 1, true }, { "v_scale", V, 1, true } } },
        { K, V, { S("attn.k_scale", K), S("attn.v_scale", V) } },
        { K, V, { S("k_proj.k_scale", K), S("v_proj.v_scale", V) } },
        { K, V, { S("qkv_proj.k_scale", K), S("qkv_proj.v_scale", V) } },
        { K, V, { S("k_proj.output_scale", K), S("v_proj.output_scale", V), S("q_proj.output_scale", 3) } },
        { K, K, { S("kv_scale", K) } },
        { K, K, { S("k_scale", K) } },
        { K, K, { S("k_scale", K), S("v_scale", -1) } },
        { 1, 1, { S("k_scale", -1), S("v_scale", -1), S("q_scale", 7), S("prob_scale", 5) } },
    };
    static const dtype types[] = { DT_F8E4M3, DT_F8E5M2 };
    for (int t = 0; t < 2; t++) {
        REQUIRE_OK(logits_of(&plain, types[t], false, want));
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            REQUIRE_OK(logits_of(&all[i], types[t], true, got));
            if (memcmp(want, got, sizeof want) != 0) FAIL("%s, %s: off by %g", all[i].extras[0].name, dtype_name(types[t]), off_by(got, want));
        }
        REQUIRE_OK(logits_of(&plain, types[t], true, got));     /* none at all */
        CHECK(memcmp(want, got, sizeof want) == 0);
    }
}

/* What the scales are for: without them such keys and values are cut off. And they make a cache no worse than its type is. */
TEST(large_keys_need_them)
{
    static const made large = { K, V, { S("k_scale", K), S("v_scale", V) } }, odd = { 1, 1, { S("k_scale", 0.0123f), S("v_scale", 0.0321f) } };
    REQUIRE_OK(logits_of(&plain, DT_F32, false, want));
    REQUIRE_OK(logits_of(&large, DT_F8E4M3, false, got));
    printf("  without scales: off by %g of the largest logit", off_by(got, want));
    CHECK(off_by(got, want) > 1);
    REQUIRE_OK(logits_of(&large, DT_F8E4M3, true, got));
    printf(", with %g\n", off_by(got, want));
    CHECK(off_by(got, want) < 0.2);
    REQUIRE_OK(logits_of(&odd, DT_F8E4M3, true, got));
    CHECK(off_by(got, want) < 0.2);
    REQUIRE_OK(logits_of(&odd, DT_F32, false, got));            /* other caches do without */
    CHECK(memcmp(want, got, sizeof want) == 0);
}

TEST(wrong_ones_are_refused)
{
    static const struct { made m; const char *says; } all[] = {
        { { 1, 1, { S("k_scale", 0), S("v_scale", 1) } }, "tensor model.layers.0.self_attn.k_scale is 0, expected a positive number" },
        { { 1, 1, { S("k_scale", 1), S("v_scale", -2) } }, "tensor model.layers.0.self_attn.v_scale is -2, expected a positive number" },
        { { 1, 1, { S("k_scale", INFINITY), S("v_scale", 1) } }, "self_attn.k_scale is inf" },
        { { 1, 1, { S("k_proj.k_scale", NAN) } }, "self_attn.k_proj.k_scale is" },
        { { 1, 1, { { "k_scale", 1, 2, false }, { "v_scale", 1, 2, false } } }, "self_attn.k_scale is f32 of 8 bytes, expected one number of f32, bf16 or f16" },
        { { 1, 1, { S("v_scale", 1) } }, "tensor model.layers.0.self_attn.v_scale has no k_scale beside it" },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) CHECK_ERR(logits_of(&all[i].m, DT_F8E4M3, true, got), ST_INVALID, all[i].says);
}

TEST(what_a_checkpoint_holds)
{
    static const made all[] = { { 1, 1, { S("k_proj.k_scale", 1) } }, { 1, 1, { S("kv_scale", 1) } } };
    bool stored = true;
    REQUIRE_OK(make(&plain));
    CHECK_OK(model_kv_scales_stored(tmpdir_path, &stored));
    CHECK(!stored);
    for (int i = 0; i < 2; i++) {
        REQUIRE_OK(make(&all[i]));
        CHECK_OK(model_kv_scales_stored(tmpdir_path, &stored));
        CHECK(stored);
    }
    CHECK_ERR(model_kv_scales_stored("/nonexistent", &stored), ST_NOT_FOUND, "");
}

TEST_MAIN
