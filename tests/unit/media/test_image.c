/* media: decoding images: of every kind against what Pillow makes of it, broken and hostile files, orientation, transparency; resizing. */
#include "tests/file.h"
#include "tests/test.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/mem.h"
#include "media/image.h"
#include "media/resize.h"

static const char *real_image(const char *name)
{
    char rel[256];
    snprintf(rel, sizeof rel, "realdata/images/%s", name);
    return test_shared(rel);
}

static const image_options as_pillow = { .keep_orientation = true, .drop_alpha = true };

/* The index says what Pillow thinks of each file and may name the pixels. */
static void check_file(const char *name, const jv *says)
{
    buf file = {0}, want = {0};
    image im = {0};
    status st = test_file(real_image(name), &file);
    if (st != ST_OK && jv_get_i64(says, "bytes", -1) != 0) FAIL("%s: %s", name, err_msg());
    st = image_decode(file.data, file.len, &as_pillow, &im);
    if (!jv_get_bool(says, "valid", false)) {
        if (st == ST_OK) FAIL("%s: accepted, it is broken", name);
    } else if (st != ST_OK) {
        FAIL("%s: %s", name, err_msg());
    } else {
        CHECK_INT(im.width, jv_i64(jv_at(jv_get(says, "size"), 0), 0));
        CHECK_INT(im.height, jv_i64(jv_at(jv_get(says, "size"), 1), 0));
    }
    const char *raw = jv_get_str(says, "raw_rgb", NULL);
    if (st == ST_OK && raw && test_file(real_image(raw), &want) == ST_OK) {
        int worst = 0;
        REQUIRE(want.len == (size_t)im.width * (size_t)im.height * 3);
        for (size_t i = 0; i < want.len; i++) {
            const int d = abs(im.rgb[i] - (uint8_t)want.data[i]);
            if (d > worst) worst = d;
        }
        if (worst > (strstr(name, ".jpg") ? 3 : 0)) FAIL("%s: pixels are off by %d", name, worst);
    }
    if (st == ST_OK) image_free(&im);
    buf_free(&file);
    buf_free(&want);
}

TEST(files_as_pillow_reads_them)
{
    jv *index = NULL;
    if (!real_image("index.json")) SKIP("no real images");
    REQUIRE_OK(jv_parse_file(real_image("index.json"), 1 << 20, &index));
    CHECK(jv_len(index) > 20);
    for (jv_iter it = jv_begin(index); jv_next(&it);) check_file(it.key, it.val);
    jv_free(index);
}

/* ---- files made here ---- */

/* A BMP of 24 bits whose pixel (x, y) is (x, y, 7). */
static void make_bmp(buf *b, int w, int h)
{
    uint8_t head[54] = { 'B', 'M' };
    head[10] = 54;
    head[14] = 40;
    memcpy(head + 18, &w, 4);
    memcpy(head + 22, &h, 4);
    head[28] = 24;
    buf_append(b, head, sizeof head);
    for (int y = h - 1; y >= 0; y--) {
        for (int x = 0; x < w; x++) buf_append(b, (uint8_t[]){ 7, (uint8_t)y, (uint8_t)x }, 3);
        for (int i = w * 3; i % 4; i++) buf_char(b, 0);
    }
}

/* A PNG of 2 x 1 pixels, RGBA: (200, 100, 0) at alpha 255 and alpha 0. */
static const uint8_t tiny_png[] = {
    0x89, 'P', 'N', 'G', 13, 10, 26, 10, 0, 0, 0, 13, 'I', 'H', 'D', 'R', 0, 0, 0, 2, 0, 0, 0, 1, 8, 6, 0, 0, 0, 0xf4, 0x22, 0x7f, 0x8a,
};

TEST(bmp_and_its_limits)
{
    buf b = {0};
    image im = {0};
    make_bmp(&b, 5, 3);
    REQUIRE_OK(image_decode(b.data, b.len, NULL, &im));
    CHECK_INT(im.width, 5);
    CHECK_INT(im.height, 3);
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 5; x++) {
            const uint8_t *p = im.rgb + (y * 5 + x) * 3;
            CHECK(p[0] == x && p[1] == y && p[2] == 7);
        }
    image_free(&im);
    for (size_t n = 0; n < b.len; n++)
        if (image_decode(b.data, n, NULL, &im) == ST_OK) FAIL("accepted the first %zu bytes", n);
    CHECK_ERR(image_decode(b.data, b.len, &(image_options){ .max_pixels = 14 }, &im), ST_LIMIT, "5 x 3");
    CHECK_ERR(image_decode(b.data, b.len, &(image_options){ .max_bytes = 50 }, &im), ST_LIMIT, "bytes");
    memcpy(b.data + 18, &(int){ 60000 }, 4);
    memcpy(b.data + 22, &(int){ 60000 }, 4);
    CHECK_ERR(image_decode(b.data, b.len, NULL, &im), ST_LIMIT, "60000 x 60000");
    buf_free(&b);
}

TEST(what_is_no_image)
{
    image im;
    CHECK_ERR(image_decode("", 0, NULL, &im), ST_INVALID, "empty");
    CHECK_ERR(image_decode("<html></html>", 13, NULL, &im), ST_INVALID, "cannot identify");
    CHECK_ERR(image_decode(tiny_png, sizeof tiny_png, NULL, &im), ST_INVALID, "PNG");
    CHECK_ERR(image_decode("GIF89a", 6, NULL, &im), ST_INVALID, "GIF");
    CHECK_ERR(image_decode("\xff\xd8\xff\xe0", 4, NULL, &im), ST_INVALID, "JPEG");
    CHECK_ERR(image_decode("RIFF\x10\0\0\0WEBPVP8 ", 16, NULL, &im), ST_INVALID, "WebP");
}

/* Two pixels, the second transparent, by the smallest LZW stream: clear, 0, 1, end at 3 bits each. */
static const uint8_t tiny_gif[] = {
    'G', 'I', 'F', '8', '9', 'a', 2, 0, 1, 0, 0x80, 0, 0, 200, 100, 0, 10, 20, 30,
    0x21, 0xf9, 4, 1, 0, 0, 1, 0, 0x2c, 0, 0, 0, 0, 2, 0, 1, 0, 0, 2, 2, 0x44, 0x0a, 0, 0x3b,
};

TEST(transparency_over_a_background)
{
    image im;
    REQUIRE_OK(image_decode(tiny_gif, sizeof tiny_gif, NULL, &im));
    CHECK_INT(im.width, 2);
    CHECK(memcmp(im.rgb, "\xc8\x64\0\xff\xff\xff", 6) == 0);
    image_free(&im);
    REQUIRE_OK(image_decode(tiny_gif, sizeof tiny_gif, &(image_options){ .background = { 1, 2, 3 } }, &im));
    CHECK(memcmp(im.rgb + 3, "\1\2\3", 3) == 0);
    image_free(&im);
    REQUIRE_OK(image_decode(tiny_gif, sizeof tiny_gif, &as_pillow, &im));
    CHECK(memcmp(im.rgb + 3, "\x0a\x14\x1e", 3) == 0);
    image_free(&im);
    for (size_t n = 0; n + 3 < sizeof tiny_gif; n++)
        if (image_decode(tiny_gif, n, NULL, &im) == ST_OK) FAIL("accepted the first %zu bytes", n);
}

TEST(orientation_turns_the_image)
{
    image flat, turned;
    buf b = {0};
    if (!real_image("jpeg_exif6.jpg")) SKIP("no real images");
    REQUIRE_OK(test_file(real_image("jpeg_exif6.jpg"), &b));
    REQUIRE_OK(image_decode(b.data, b.len, &as_pillow, &flat));
    REQUIRE_OK(image_decode(b.data, b.len, NULL, &turned));
    CHECK_INT(turned.width, flat.height);
    CHECK_INT(turned.height, flat.width);
    /* 6: the stored left column, from the bottom, is the upright top row */
    for (int x = 0; x < turned.width; x++) CHECK(memcmp(turned.rgb + x * 3, flat.rgb + (size_t)(flat.height - 1 - x) * (size_t)flat.width * 3, 3) == 0);
    image_free(&flat);
    image_free(&turned);
    b.len = 0;
    REQUIRE_OK(test_file(real_image("jpeg_exif3.jpg"), &b));
    REQUIRE_OK(image_decode(b.data, b.len, &as_pillow, &flat));
    REQUIRE_OK(image_decode(b.data, b.len, NULL, &turned));
    const size_t last = (size_t)flat.width * (size_t)flat.height - 1;
    CHECK(memcmp(turned.rgb, flat.rgb + last * 3, 3) == 0);
    CHECK(memcmp(turned.rgb + last * 3, flat.rgb, 3) == 0);
    image_free(&flat);
    image_free(&turned);
    buf_free(&b);
}

/* ---- resizing ---- */

TEST(resize_keeps_what_is_flat_and_sizes)
{
    static const int sizes[][2] = { { 1, 1 }, { 7, 3 }, { 40, 40 }, { 3, 64 } };
    image in = { 13, 9, mem_alloc(13 * 9 * 3) }, out;
    memset(in.rgb, 93, 13 * 9 * 3);
    for (int r = RESAMPLE_BILINEAR; r <= RESAMPLE_BICUBIC; r++)
        for (int i = 0; i < 4; i++) {
            REQUIRE_OK(image_resize(&in, sizes[i][0], sizes[i][1], (resample)r, &out));
            CHECK_INT(out.width, sizes[i][0]);
            for (int k = 0; k < out.width * out.height * 3; k++) CHECK(out.rgb[k] == 93);
            image_free(&out);
        }
    CHECK_ERR(image_resize(&in, 0, 4, RESAMPLE_BILINEAR, &out), ST_INVALID, "0 x 4");
    image_free(&in);
}

TEST(resize_halves_by_the_triangle)
{
    /* 4 pixels to 2: weights 3/8 3/8 1/8 after normalisation within the image */
    uint8_t px[12];
    for (int i = 0; i < 4; i++) memset(px + 3 * i, (const int[]){ 0, 80, 160, 240 }[i], 3);
    image in = { 4, 1, px }, out;
    REQUIRE_OK(image_resize(&in, 2, 1, RESAMPLE_BILINEAR, &out));
    CHECK_INT(out.rgb[0], 57);  /* (3 * 0 + 3 * 80 + 160) / 7 = 57.1 */
    CHECK_INT(out.rgb[3], 183);
    image_free(&out);
}

TEST(out_of_memory)
{
    buf b = {0};
    image im = {0}, out = {0};
    make_bmp(&b, 5, 3);
    CHECK_EVERY_ALLOCATION(image_decode(b.data, b.len, NULL, &im), image_free(&im));
    CHECK_EVERY_ALLOCATION(image_decode(tiny_gif, sizeof tiny_gif, NULL, &im), image_free(&im));
    REQUIRE_OK(image_decode(b.data, b.len, NULL, &im));
    CHECK_EVERY_ALLOCATION(image_resize(&im, 4, 7, RESAMPLE_BICUBIC, &out), image_free(&out));
    image_free(&im);
    buf_free(&b);
    if (!real_image("rgba.png")) return;
    REQUIRE_OK(test_file(real_image("rgba.png"), &b));
    CHECK_EVERY_ALLOCATION(image_decode(b.data, b.len, NULL, &im), image_free(&im));
    buf_free(&b);
}

TEST_MAIN
