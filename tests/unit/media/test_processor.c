/* media: parameters of the processors, from files and from settings; pan and scan. */
#include "tests/test.h"

#include "base/json.h"
#include "base/mem.h"
#include "media/processor.h"
#include "tests/unit/media/open_json.h"

TEST(processor_parameters_are_checked)
{
    media_processor *p = NULL;
    CHECK_ERR(open_json("{}", &p), ST_INVALID, "image_processor_type");
    CHECK_ERR(open_json("{\"image_processor_type\":\"CLIPImageProcessor\"}", &p), ST_UNSUPPORTED, "CLIPImageProcessor");
    CHECK_ERR(open_json("{\"image_processor_type\":\"Qwen2VLImageProcessor\",\"do_resize\":\"yes\"}", &p), ST_INVALID, "do_resize must be true or false");
    CHECK_ERR(open_json("{\"image_processor_type\":\"Qwen2VLImageProcessor\",\"size\":3}", &p), ST_INVALID, "size must be an object");
    CHECK_ERR(open_json("{\"image_processor_type\":\"Qwen2VLImageProcessor\",\"min_pixels\":9000,\"max_pixels\":8000}", &p), ST_INVALID, "min_pixels 9000 is more than max_pixels 8000");
    CHECK_ERR(open_json("{\"image_processor_type\":\"Qwen2VLImageProcessor\",\"max_pixels\":1073741824}", &p), ST_INVALID, "max_pixels must be an integer");
    CHECK_ERR(open_json("{\"image_processor_type\":\"Qwen2VLImageProcessor\",\"rescale_factor\":\"1\"}", &p), ST_INVALID, "rescale_factor must be a number");
    CHECK_ERR(open_json("{\"image_processor_type\":\"Gemma3ImageProcessor\",\"image_std\":[1,0,1]}", &p), ST_INVALID, "image_std");
    CHECK_ERR(open_json("{\"image_processor_type\":\"Qwen2VLImageProcessor\",\"patch_size\":0}", &p), ST_INVALID, "patch_size");
    CHECK_ERR(open_json("{\"feature_extractor_type\":\"WhisperFeatureExtractor\",\"dither\":0.1}", &p), ST_UNSUPPORTED, "dither");
    REQUIRE_OK(open_json("{\"image_processor_type\":\"Llama4ImageProcessorFast\"}", &p));
    CHECK(media_processor_takes(p, MEDIA_IMAGE) && !media_processor_takes(p, MEDIA_AUDIO));
    media_processor_close(p);
}

/* The objects of processor_config.json are taken before preprocessor_config.json; an older file of that name is none. */
TEST(newer_checkpoints_nest_their_processors)
{
    jv *flat = NULL, *nested = NULL, *old = NULL;
    media_processor *p = NULL;
    const char *text = "{\"processor_class\":\"Qwen3OmniMoeProcessor\",\"image_processor\":{\"image_processor_type\":\"Qwen2VLImageProcessor\",\"patch_size\":16},"
                       "\"feature_extractor\":{\"feature_extractor_type\":\"WhisperFeatureExtractor\",\"feature_size\":128}}";
    REQUIRE_OK(jv_parse(text, strlen(text), &nested));
    text = "{\"processor_class\":\"Gemma3Processor\",\"image_seq_length\":256}";
    REQUIRE_OK(jv_parse(text, strlen(text), &old));
    text = "{\"image_processor_type\":\"CLIPImageProcessor\"}";
    REQUIRE_OK(jv_parse(text, strlen(text), &flat));
    CHECK(media_processor_described(NULL, nested) && media_processor_described(flat, NULL) && !media_processor_described(NULL, old) && !media_processor_described(NULL, NULL));
    REQUIRE_OK(media_processor_open(flat, nested, &p));
    CHECK(media_processor_takes(p, MEDIA_IMAGE) && media_processor_takes(p, MEDIA_AUDIO));
    image im = { 64, 64, mem_calloc(64 * 64, 3) };
    media_features f;
    REQUIRE_OK(media_process_image(p, &im, &f));
    CHECK_INT(f.cols, 3 * 2 * 16 * 16);
    media_features_free(&f);
    image_free(&im);
    media_processor_close(p);
    CHECK_ERR(media_processor_open(flat, old, &p), ST_UNSUPPORTED, "preprocessor_config.json: image_processor_type CLIPImageProcessor");
    jv_free(flat);
    jv_free(old);
    jv_free(nested);
}

static status change(const media_processor *base, const char *kwargs, media_processor **out)
{
    jv *j = NULL;
    TRY(jv_parse(kwargs, strlen(kwargs), &j));
    const status st = media_processor_with(base, j, out);
    jv_free(j);
    return st;
}

TEST(settings_can_be_changed_by_name)
{
    media_processor *base = NULL, *p = NULL;
    REQUIRE_OK(open_json("{\"image_processor_type\":\"Qwen2VLImageProcessor\",\"do_rescale\":true,\"rescale_factor\":0.5}", &base));
    static const char *const same[] = { "{\"max_pixels\":12544}", "{\"size\":{\"longest_edge\":12544}}" };
    for (int i = 0; i < 2; i++) {
        image im = { 640, 480, mem_calloc(640 * 480, 3) };
        media_features f;
        REQUIRE_OK(change(base, same[i], &p));
        REQUIRE_OK(media_process_image(p, &im, &f));
        CHECK_INT(f.grid[1] * 100 + f.grid[2], 608);     /* 84 x 112 pixels */
        CHECK_NEAR(f.values[0], (0 - 0.48145466) / 0.26862954, 1e-5);
        media_features_free(&f);
        image_free(&im);
        media_processor_close(p);
    }
    CHECK_ERR(change(base, "{\"max_pixles\":1}", &p), ST_INVALID, "mm_processor_kwargs: max_pixles: this model's processor has no such setting; it has do_resize");
    CHECK_ERR(change(base, "{\"patch_size\":28}", &p), ST_INVALID, "patch_size: this model's processor has no such setting");
    CHECK_ERR(change(base, "{\"size\":{\"height\":28}}", &p), ST_INVALID, "size.height");
    CHECK_ERR(change(base, "{\"min_pixels\":0}", &p), ST_INVALID, "min_pixels must be an integer");
    CHECK_ERR(change(base, "{\"min_pixels\":4000000}", &p), ST_INVALID, "min_pixels 4000000 is more than max_pixels 1003520");
    CHECK_ERR(change(base, "[]", &p), ST_INVALID, "must be an object");
    media_processor_close(base);
    REQUIRE_OK(open_json("{\"image_processor_type\":\"Gemma3ImageProcessor\"}", &base));
    CHECK_ERR(change(base, "{\"max_pixels\":12544}", &p), ST_INVALID, "max_pixels: this model's processor has no such setting");
    CHECK_ERR(change(base, "{\"do_pan_and_scan\":1}", &p), ST_INVALID, "do_pan_and_scan must be true or false");
    CHECK_ERR(change(base, "{\"pan_and_scan_max_num_crops\":17}", &p), ST_INVALID, "pan_and_scan_max_num_crops must be an integer from 1 to 16");
    CHECK_ERR(change(base, "{\"pan_and_scan_min_crop_size\":0}", &p), ST_INVALID, "pan_and_scan_min_crop_size");
    CHECK_ERR(change(base, "{\"pan_and_scan_min_ratio_to_activate\":\"2\"}", &p), ST_INVALID, "pan_and_scan_min_ratio_to_activate");
    media_processor_close(base);
}

TEST(sizes_of_qwen)
{
    static const struct { int w, h, gw, gh; } cases[] = { { 28, 28, 4, 4 }, { 640, 480, 46, 34 }, { 42, 42, 4, 4 }, { 70, 70, 4, 4 }, { 4000, 3000, 82, 60 } };
    media_processor *p = NULL;
    REQUIRE_OK(open_json("{\"image_processor_type\":\"Qwen2VLImageProcessor\"}", &p));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image im = { cases[i].w, cases[i].h, mem_calloc((size_t)cases[i].w * (size_t)cases[i].h, 3) };
        media_features f;
        REQUIRE_OK(media_process_image(p, &im, &f));
        CHECK_INT(f.grid[2], cases[i].gw);
        CHECK_INT(f.grid[1], cases[i].gh);
        media_features_free(&f);
        image_free(&im);
    }
    image thin = { 2001, 10, mem_calloc(20010, 3) };
    media_features f;
    CHECK_ERR(media_process_image(p, &thin, &f), ST_INVALID, "aspect ratio");
    image_free(&thin);
    media_processor_close(p);
}

/* What Gemma3ImageProcessor.pan_and_scan of transformers 4.57.6 cuts: how many, and sizes of the first and the last. */
TEST(pan_and_scan_cuts_as_transformers_does)
{
    static const struct { int w, h, size, crops; double ratio; int n, each_w, each_h, last_w, last_h; } cases[] = {
        { 512, 512, 256, 4, 1.2, 0, 0, 0, 0, 0 }, { 614, 512, 256, 4, 1.2, 0, 0, 0, 0, 0 }, { 615, 512, 256, 4, 1.2, 2, 308, 512, 307, 512 },
        { 700, 300, 256, 4, 1.2, 2, 350, 300, 350, 300 }, { 300, 700, 256, 4, 1.2, 2, 300, 350, 300, 350 }, { 511, 256, 256, 4, 1.2, 2, 256, 256, 255, 256 },
        { 1000, 256, 256, 4, 1.2, 3, 334, 256, 332, 256 }, { 1025, 300, 256, 4, 1.2, 3, 342, 300, 341, 300 }, { 4000, 300, 256, 4, 1.2, 4, 1000, 300, 1000, 300 },
        { 300, 4000, 256, 4, 1.2, 4, 300, 1000, 300, 1000 }, { 255, 1000, 256, 4, 1.2, 0, 0, 0, 0, 0 }, { 1280, 512, 256, 4, 1.2, 3, 427, 512, 426, 512 },
        { 1281, 512, 256, 4, 1.2, 3, 427, 512, 427, 512 }, { 1000, 100, 50, 16, 2.0, 10, 100, 100, 100, 100 }, { 1000, 100, 100, 3, 9.5, 3, 334, 100, 332, 100 },
        { 1000, 100, 100, 1, 1.2, 1, 1000, 100, 1000, 100 }, { 641, 640, 10, 4, 0, 2, 321, 640, 320, 640 } };
    media_processor *base = NULL, *p = NULL;
    image_box box[MEDIA_MOST_CROPS];
    REQUIRE_OK(open_json("{\"image_processor_type\":\"Gemma3ImageProcessor\",\"do_pan_and_scan\":true}", &base));      /* alone it has no effect */
    CHECK_INT(media_image_crops(base, &(image){ 4000, 300, NULL }, box), 0);
    CHECK_INT(media_most_crops(base), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char kwargs[256];
        snprintf(kwargs, sizeof kwargs, "{\"do_pan_and_scan\":true,\"pan_and_scan_min_crop_size\":%d,\"pan_and_scan_max_num_crops\":%d,\"pan_and_scan_min_ratio_to_activate\":%g}",
                 cases[i].size, cases[i].crops, cases[i].ratio);
        REQUIRE_OK(change(base, kwargs, &p));
        const int n = media_image_crops(p, &(image){ cases[i].w, cases[i].h, NULL }, box);
        CHECK_INT(n, cases[i].n);
        CHECK(n <= media_most_crops(p));
        for (int j = 0, at = 0; j < n && n == cases[i].n; j++) {
            const bool wide = cases[i].w >= cases[i].h, last = j + 1 == n;
            CHECK_INT(box[j].width, last ? cases[i].last_w : cases[i].each_w);
            CHECK_INT(box[j].height, last ? cases[i].last_h : cases[i].each_h);
            CHECK_INT(wide ? box[j].x : box[j].y, at);
            CHECK_INT(wide ? box[j].y : box[j].x, 0);
            at += wide ? box[j].width : box[j].height;
        }
        media_processor_close(p);
    }
    media_processor_close(base);
}

TEST(a_crop_is_the_part_in_its_box)
{
    uint8_t px[4 * 3 * 3];
    for (int i = 0; i < 36; i++) px[i] = (uint8_t)i;
    image out = { 0 };
    REQUIRE_OK(image_crop(&(image){ 4, 3, px }, (image_box){ 1, 1, 2, 2 }, &out));
    const uint8_t want[] = { 15, 16, 17, 18, 19, 20, 27, 28, 29, 30, 31, 32 };
    CHECK(out.width == 2 && out.height == 2 && memcmp(out.rgb, want, sizeof want) == 0);
    image_free(&out);
}

static status read_with(const char *kwargs, image_options *io)
{
    jv *j = NULL;
    TRY(jv_parse(kwargs, strlen(kwargs), &j));
    *io = image_defaults;
    const status st = image_options_with(j, io);
    jv_free(j);
    return st;
}

TEST(settings_of_reading)
{
    image_options io;
    REQUIRE_OK(read_with("{\"image\":{\"rgba_background_color\":[1,2,3]},\"audio\":{}}", &io));
    CHECK(io.background[0] == 1 && io.background[1] == 2 && io.background[2] == 3);
    REQUIRE_OK(read_with("{\"image\":{}}", &io));
    CHECK_INT(io.background[0], 255);
    static const struct { const char *text, *says; } bad[] = {
        { "[]", "must be an object, not" }, { "{\"image\":[]}", "image must be an object" }, { "{\"image\":{\"rgba_background_color\":[1,2]}}", "list of three" },
        { "{\"image\":{\"rgba_background_color\":[1,2,256]}}", "from 0 to 255" }, { "{\"image\":{\"rgba_background_color\":[1,2,0.5]}}", "from 0 to 255" },
        { "{\"image\":{\"image_mode\":\"L\"}}", "image.image_mode: there is no such setting" }, { "{\"video\":{\"num_frames\":3}}", "video is not read" },
        { "{\"audio\":{\"rate\":3}}", "audio has no settings" }, { "{\"text\":{}}", "there is no such kind" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK_ERR(read_with(bad[i].text, &io), ST_INVALID, bad[i].says);
}

TEST(out_of_memory)
{
    media_processor *base = NULL, *p = NULL;
    image_options io;
    const char *gemma = "{\"image_processor_type\":\"Gemma3ImageProcessor\",\"size\":{\"height\":28,\"width\":28}}", *pan = "{\"do_pan_and_scan\":true,\"image_mean\":[0.1,0.2,0.3]}";
    const char *files[] = { gemma, "{\"image_processor_type\":\"Qwen2VLImageProcessor\"}", "{\"image_processor_type\":\"Llama4ImageProcessor\"}", "{\"feature_extractor_type\":\"WhisperFeatureExtractor\"}" };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) CHECK_EVERY_ALLOCATION(open_json(files[i], &base), media_processor_close(base));
    jv *nested = NULL;
    const char *both = "{\"image_processor\":{\"image_processor_type\":\"Qwen2VLImageProcessor\"},\"feature_extractor\":{\"feature_extractor_type\":\"WhisperFeatureExtractor\"}}";
    REQUIRE_OK(jv_parse(both, strlen(both), &nested));
    CHECK_EVERY_ALLOCATION(media_processor_open(NULL, nested, &base), media_processor_close(base));
    jv_free(nested);
    REQUIRE_OK(open_json(gemma, &base));
    CHECK_EVERY_ALLOCATION(change(base, pan, &p), media_processor_close(p));
    CHECK_EVERY_ALLOCATION(read_with("{\"image\":{\"rgba_background_color\":[1,2,3]}}", &io), (void)io);
    REQUIRE_OK(change(base, pan, &p));
    image im = { 700, 300, mem_calloc(700 * 300, 3) }, part = { 0 };
    image_box box[MEDIA_MOST_CROPS];
    media_features f;
    CHECK_INT(media_image_crops(p, &im, box), 2);
    CHECK_EVERY_ALLOCATION(image_crop(&im, box[1], &part), image_free(&part));
    CHECK_EVERY_ALLOCATION(media_process_image(p, &im, &f), media_features_free(&f));
    image_free(&im);
    media_processor_close(p);
    media_processor_close(base);
}

TEST_MAIN
