/* Images and sounds of the multimodal goldens: what the processors make of them is what transformers made. */
#include "tests/file.h"
#include "tests/unit/device/pjrt/help.h"

#include "base/mem.h"
#include "engine/towers.h"
#include "load/safetensors.h"
#include "media/processor.h"

static const char *in_model(const char *model, const char *file)
{
    char rel[256];
    snprintf(rel, sizeof rel, "goldens/%s/%s", model, file);
    return test_shared(rel);
}

static status open_processor(const char *model, media_processor **out)
{
    jv *j = NULL;
    TRY(jv_parse_file(in_model(model, "preprocessor_config.json"), 1 << 20, &j));
    const status st = media_processor_open(j, NULL, out);
    jv_free(j);
    return st;
}

static void compare(const media_features *got, const st_set *want, const char *name, double tol)
{
    const st_tensor *t = st_find(want, name);
    REQUIRE(t);
    REQUIRE(got->rows * got->cols == (int64_t)(t->bytes / 4));
    const float *w = t->data;
    double worst = 0;
    for (int64_t i = 0; i < got->rows * got->cols; i++) worst = fmax(worst, fabs((double)got->values[i] - (double)w[i]));
    if (!(worst <= tol)) FAIL("%s: values are off by %g", name, worst);
}

static void check_grid(const media_features *got, const st_set *want, const char *name)
{
    const st_tensor *t = st_find(want, name);
    for (int i = 0; t && i < 3; i++) CHECK_INT(got->grid[i], ((const int32_t *)t->data)[i]);
}

static void check_model(const char *model)
{
    media_processor *p = NULL;
    st_set *g = NULL;
    if (!in_model(model, "golden.safetensors")) SKIP("no goldens of %s", model);
    REQUIRE_OK(open_processor(model, &p));
    REQUIRE_OK(st_open_file(in_model(model, "golden.safetensors"), &g));
    for (const char *which = "ab"; *which; which++) {
        char file[32], name[64];
        buf bytes = {0};
        image im = {0};
        media_features f = {0};
        snprintf(file, sizeof file, "image_%c.png", *which);
        REQUIRE_OK(test_file(in_model(model, file), &bytes));
        REQUIRE_OK(image_decode(bytes.data, bytes.len, NULL, &im));
        REQUIRE_OK(media_process_image(p, &im, &f));
        snprintf(name, sizeof name, "image_%c.pixel_values", *which);
        compare(&f, g, name, 1e-5);
        snprintf(name, sizeof name, "image_%c.grid_thw", *which);
        check_grid(&f, g, name);
        media_features_free(&f);
        image_free(&im);
        buf_free(&bytes);
    }
    media_processor_close(p);
    st_close(g);
}

TEST(pixels_of_qwen2_5_vl) { check_model("qwen2_5_vl"); }
TEST(pixels_of_gemma3) { check_model("gemma3_mm"); }
TEST(pixels_of_llama4_guard) { check_model("llama4_guard"); }
TEST(pixels_of_llama4_maverick) { check_model("llama4_maverick"); }
TEST(pixels_of_llama4_scout) { check_model("llama4_scout"); }
TEST(pixels_of_qwen3_omni) { check_model("qwen3_omni"); }

TEST(log_mel_of_qwen3_omni)
{
    media_processor *p = NULL;
    st_set *g = NULL;
    buf bytes = {0};
    audio a = {0};
    media_features f = {0};
    if (!in_model("qwen3_omni", "golden.safetensors")) SKIP("no goldens");
    REQUIRE_OK(open_processor("qwen3_omni", &p));
    REQUIRE_OK(st_open_file(in_model("qwen3_omni", "golden.safetensors"), &g));
    REQUIRE_OK(test_file(in_model("qwen3_omni", "audio_a.wav"), &bytes));
    REQUIRE_OK(audio_decode(bytes.data, bytes.len, 16000, &a));
    REQUIRE_OK(media_process_audio(p, &a, &f));
    CHECK_INT(f.cols, 437);
    compare(&f, g, "audio_a.input_features", 1e-4);
    media_features_free(&f);
    audio_free(&a);
    buf_free(&bytes);
    media_processor_close(p);
    st_close(g);
}

/* ---- encoders ---- */

static device *on;      /* that is to run them; NULL: the host's CPU */

static status open_towers_with(const char *model, int n_threads, int64_t cache_bytes, towers **out)
{
    jv *config = NULL;
    char dir[4096];
    snprintf(dir, sizeof dir, "%s", in_model(model, "config.json"));
    TRY(jv_parse_file(dir, 1 << 20, &config));
    *strrchr(dir, '/') = 0;
    const status st = towers_open(config, &(towers_options){ .dir = dir, .type = DT_F32, .n_threads = n_threads, .dev = on, .most_tokens = 4096, .cache_bytes = cache_bytes }, out);
    jv_free(config);
    return st;
}

static status open_towers(const char *model, towers **out) { return open_towers_with(model, 0, 1 << 20, out); }

static void check_rows(const media_rows *r, const st_set *g, const char *name, int64_t first, int64_t col)
{
    const st_tensor *t = st_find(g, name);
    REQUIRE(t);
    const int64_t cols = t->shape[t->rank - 1];
    const float *want = (const float *)t->data + first * cols;
    double worst = 0;
    for (int64_t i = 0; i < r->n; i++)
        for (int64_t j = 0; j < cols; j++) worst = fmax(worst, fabs((double)r->rows[i * r->width + col + j] - (double)want[i * cols + j]));
    if (!(worst < 1e-4)) FAIL("%s: features are off by %g", name, worst);
}

/* Image `which` of a model through its processor and tower. */
static status encode_image(const char *model, char which, towers *ts, media_rows **out)
{
    media_processor *p = NULL;
    char file[32];
    buf bytes = {0};
    image im = {0};
    media_features f = {0};
    uint8_t hash[32] = { (uint8_t)which };
    TRY(open_processor(model, &p));
    snprintf(file, sizeof file, "image_%c.png", which);
    TRY(test_file(in_model(model, file), &bytes));
    TRY(image_decode(bytes.data, bytes.len, NULL, &im));
    TRY(media_process_image(p, &im, &f));
    const status st = towers_encode(ts, ENCODER_IMAGE, &(encoder_input){ f.values, f.rows, f.cols, { f.grid[0], f.grid[1], f.grid[2] } }, hash, out);
    media_features_free(&f);
    image_free(&im);
    buf_free(&bytes);
    media_processor_close(p);
    return st;
}

static void check_features(const char *model, const char *name, int levels)
{
    towers *ts = NULL;
    st_set *g = NULL;
    media_rows *r = NULL, *again = NULL;
    if (!in_model(model, "golden.safetensors")) SKIP("no goldens of %s", model);
    REQUIRE_OK(open_towers(model, &ts));
    REQUIRE(ts);
    CHECK((towers_device_bytes(ts) > 0) == (on != NULL));
    REQUIRE_OK(st_open_file(in_model(model, "golden.safetensors"), &g));
    REQUIRE_OK(encode_image(model, 'a', ts, &r));
    check_rows(r, g, name, 0, 0);
    for (int k = 0; k < levels; k++) {
        char level[64];
        snprintf(level, sizeof level, "image_a.deepstack_%d", k);
        check_rows(r, g, level, 0, (k + 1) * r->width / (levels + 1));
    }
    REQUIRE_OK(encode_image(model, 'a', ts, &again));
    CHECK(again == r);  /* kept */
    media_rows_release(again);
    REQUIRE_OK(encode_image(model, 'b', ts, &again));
    if (strcmp(name, "image_features") == 0) check_rows(again, g, name, again->n, 0);
    media_rows_release(again);
    media_rows_release(r);
    st_close(g);
    towers_close(ts);
}

TEST(features_of_qwen2_5_vl) { check_features("qwen2_5_vl", "image_a.features", 0); }
TEST(features_of_gemma3) { check_features("gemma3_mm", "image_features", 0); }
TEST(features_of_llama4_scout) { check_features("llama4_scout", "image_a.features", 0); }
TEST(features_of_llama4_guard) { check_features("llama4_guard", "image_a.features", 0); }
TEST(features_of_qwen3_omni) { check_features("qwen3_omni", "image_a.features", 2); }

static void check_audio(void)
{
    media_processor *p = NULL;
    towers *ts = NULL;
    st_set *g = NULL;
    buf bytes = {0};
    audio a = {0};
    media_features f = {0};
    media_rows *r = NULL;
    const uint8_t hash[32] = { 7 };
    if (!in_model("qwen3_omni", "golden.safetensors")) SKIP("no goldens");
    REQUIRE_OK(open_processor("qwen3_omni", &p));
    REQUIRE_OK(open_towers("qwen3_omni", &ts));
    REQUIRE_OK(st_open_file(in_model("qwen3_omni", "golden.safetensors"), &g));
    REQUIRE_OK(test_file(in_model("qwen3_omni", "audio_a.wav"), &bytes));
    REQUIRE_OK(audio_decode(bytes.data, bytes.len, 16000, &a));
    REQUIRE_OK(media_process_audio(p, &a, &f));
    REQUIRE_OK(towers_encode(ts, ENCODER_AUDIO, &(encoder_input){ f.values, f.rows, f.cols, { 1, 1, 1 } }, hash, &r));
    CHECK_INT(r->n, 57);
    check_rows(r, g, "audio_a.features", 0, 0);
    media_rows_release(r);
    media_features_free(&f);
    audio_free(&a);
    buf_free(&bytes);
    media_processor_close(p);
    st_close(g);
    towers_close(ts);
}

TEST(audio_features_of_qwen3_omni) { check_audio(); }

/* The same on a device that compiles programs: XLA:CPU. */
TEST(features_of_all_on_a_device)
{
    NEED_CPU;
    static char cache_dir[] = "/tmp/systolic-programs-XXXXXX";
    char spec[4400], command[128];
    if (!in_model("gemma3_mm", "golden.safetensors")) SKIP("no goldens");
    REQUIRE(mkdtemp(cache_dir));
    snprintf(spec, sizeof spec, "pjrt:%s", plugin_path);
    REQUIRE_OK(device_open(spec, &(device_options){ .lazy_compile = true, .program_cache = cache_dir }, &on));
    check_features("qwen2_5_vl", "image_a.features", 0);
    check_features("gemma3_mm", "image_features", 0);
    check_features("llama4_scout", "image_a.features", 0);
    check_features("qwen3_omni", "image_a.features", 2);
    check_audio();
    device_close(on);
    on = NULL;
    snprintf(command, sizeof command, "rm -rf %s", cache_dir);
    if (system(command) != 0) perror(command);
}

/* Every allocation of building an encoder's graphs, of opening the towers and of encoding an item fails once. */
static void check_allocations(const char *model, encoder_kind kind, const media_features *f)
{
    jv *config = NULL;
    encoder *e = NULL;
    towers *ts = NULL;
    media_rows *r = NULL;
    const uint8_t hash[32] = { 1 };
    REQUIRE_OK(jv_parse_file(in_model(model, "config.json"), 1 << 20, &config));
    CHECK_EVERY_ALLOCATION(encoder_new(config, kind, DT_F32, &e), encoder_free(e));
    jv_free(config);
    REQUIRE_OK(open_towers_with(model, 1, 0, &ts));
    const encoder_input in = { f->values, f->rows, f->cols, { f->grid[0], f->grid[1], f->grid[2] } };
    CHECK_EVERY_ALLOCATION(towers_encode(ts, kind, &in, hash, &r), media_rows_release(r));
    towers_close(ts);
}

static void check_image_allocations(const char *model)
{
    media_processor *p = NULL;
    buf bytes = {0};
    image im = {0};
    media_features f = {0};
    if (!in_model(model, "golden.safetensors")) return;
    REQUIRE_OK(open_processor(model, &p));
    REQUIRE_OK(test_file(in_model(model, "image_a.png"), &bytes));
    REQUIRE_OK(image_decode(bytes.data, bytes.len, NULL, &im));
    REQUIRE_OK(media_process_image(p, &im, &f));
    check_allocations(model, ENCODER_IMAGE, &f);
    media_features_free(&f);
    image_free(&im);
    buf_free(&bytes);
    media_processor_close(p);
}

TEST(out_of_memory_in_encoders)
{
    if (!in_model("gemma3_mm", "golden.safetensors")) SKIP("no goldens");
    static const char *const models[] = { "qwen2_5_vl", "gemma3_mm", "llama4_scout", "qwen3_omni" };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) check_image_allocations(models[i]);
    towers *ts = NULL;
    CHECK_EVERY_ALLOCATION(open_towers_with("gemma3_mm", 1, 0, &ts), towers_close(ts));
    float mel[128 * 64] = { 0 };
    check_allocations("qwen3_omni", ENCODER_AUDIO, &(media_features){ .values = mel, .rows = 128, .cols = 64, .grid = { 1, 1, 1 } });
}

TEST_MAIN
