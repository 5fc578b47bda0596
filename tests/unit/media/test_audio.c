/* media: decoding sound, resampling, Whisper's features. */
#include "tests/file.h"
#include "tests/test.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/mem.h"
#include "media/processor.h"
#include "tests/unit/media/open_json.h"

static const char *real_audio(const char *name)
{
    char rel[256];
    snprintf(rel, sizeof rel, "realdata/audio/%s", name);
    return test_shared(rel);
}

/* A 16-bit PCM WAV whose data chunk claims `claimed` bytes. */
static void make_wav(buf *b, int channels, int rate, const int16_t *samples, int n, uint32_t claimed)
{
    const uint32_t size = 36 + claimed, sixteen = 16, bytes_s = (uint32_t)(rate * channels * 2);
    const uint16_t pcm = 1, ch = (uint16_t)channels, align = (uint16_t)(channels * 2), bits = 16;
    buf_str(b, "RIFF");
    buf_append(b, &size, 4);
    buf_str(b, "WAVEfmt ");
    buf_append(b, &sixteen, 4);
    buf_append(b, &pcm, 2);
    buf_append(b, &ch, 2);
    buf_append(b, &rate, 4);
    buf_append(b, &bytes_s, 4);
    buf_append(b, &align, 2);
    buf_append(b, &bits, 2);
    buf_str(b, "data");
    buf_append(b, &claimed, 4);
    buf_append(b, samples, (size_t)n * 2);
}

TEST(channels_are_averaged)
{
    static const int16_t s[] = { 16384, -16384, 8192, 8192 };
    buf b = {0};
    audio a;
    make_wav(&b, 2, 16000, s, 4, 8);
    REQUIRE_OK(audio_decode(b.data, b.len, 0, &a));
    CHECK_INT(a.rate, 16000);
    CHECK_INT(a.n, 2);
    CHECK_NEAR(a.samples[0], 0, 1e-9);
    CHECK_NEAR(a.samples[1], 0.25, 1e-9);
    audio_free(&a);
    buf_free(&b);
}

TEST(hostile_headers)
{
    static const int16_t s[100];
    buf b = {0};
    audio a;
    make_wav(&b, 1, 16000, s, 100, 0xfffffff0); /* claims 4 GB, has 200 bytes: what is there is used */
    if (audio_decode(b.data, b.len, 16000, &a) == ST_OK) {
        CHECK(a.n <= 100);
        audio_free(&a);
    }
    b.len = 0;
    make_wav(&b, 1, 1, s, 100, 200);
    CHECK_ERR(audio_decode(b.data, b.len, 16000, &a), ST_INVALID, "1 Hz");
    b.len = 0;
    make_wav(&b, 1, 16000, s, 0, 0);
    CHECK_ERR(audio_decode(b.data, b.len, 16000, &a), ST_INVALID, "no samples");
    CHECK_ERR(audio_decode("", 0, 16000, &a), ST_INVALID, "empty");
    CHECK_ERR(audio_decode("RIFF....WAVEjunk", 16, 16000, &a), ST_INVALID, "cannot read");
    buf_free(&b);
}

/* A sine of 440 Hz keeps its height and its phase at another rate, and one above the new band goes. */
TEST(resampling_a_sine)
{
    enum { N = 44100 };
    const double pi = acos(-1);
    float *in = mem_array(N, sizeof *in), *out = NULL;
    size_t n = 0;
    for (int i = 0; i < N; i++) in[i] = (float)(0.5 * sin(2 * pi * 440 * i / 44100.0));
    REQUIRE_OK(audio_resample(in, N, 44100, 16000, &out, &n));
    CHECK_INT(n, 16000);
    double worst = 0;
    for (size_t i = 1000; i < 15000; i++) worst = fmax(worst, fabs(out[i] - 0.5 * sin(2 * pi * 440 * (double)i / 16000.0)));
    CHECK(worst < 2e-5);
    mem_free(out);
    for (int i = 0; i < N; i++) in[i] = (float)(0.5 * sin(2 * pi * 12000 * i / 44100.0));
    REQUIRE_OK(audio_resample(in, N, 44100, 16000, &out, &n));
    worst = 0;
    for (size_t i = 1000; i < 15000; i++) worst = fmax(worst, fabs(out[i]));
    CHECK(worst < 1e-4);
    mem_free(out);
    mem_free(in);
}

/* The .npy beside a recording holds Whisper's features of it and 0.1 s of silence: 80 mels. */
static void check_mel(const char *name)
{
    char npy[128];
    buf file = {0}, want = {0};
    audio a;
    float *f = NULL;
    int frames = 0;
    snprintf(npy, sizeof npy, "%s.whisper80.npy", name);
    if (!real_audio(npy)) SKIP("no real audio");
    REQUIRE_OK(test_file(real_audio(name), &file));
    REQUIRE_OK(test_file(real_audio(npy), &want));
    REQUIRE_OK(audio_decode(file.data, file.len, 16000, &a));
    a.samples = mem_realloc_array(a.samples, a.n + 1600, sizeof *a.samples);
    REQUIRE(a.samples);
    memset(a.samples + a.n, 0, 1600 * sizeof *a.samples);
    REQUIRE_OK(audio_log_mel(&(mel_config){ 16000, 80, 400, 160 }, a.samples, a.n + 1600, &f, &frames));
    const size_t head = 10 + ((size_t)(uint8_t)want.data[8] | (size_t)(uint8_t)want.data[9] << 8), count = (want.len - head) / 4;
    CHECK_INT(count, 80 * frames);
    double worst = 0;
    for (size_t i = 0; i < count && i < 80 * (size_t)frames; i++) {
        float w;
        memcpy(&w, want.data + head + 4 * i, 4);
        worst = fmax(worst, fabs((double)w - (double)f[i]));
    }
    if (!(worst < 1e-4)) FAIL("%s: features are off by %g", name, worst);
    mem_free(f);
    audio_free(&a);
    buf_free(&file);
    buf_free(&want);
}

TEST(features_of_speech) { check_mel("jfk.wav"); }
TEST(features_of_a_sine) { check_mel("sine16k_s16.wav"); }

TEST(files_that_are_readable)
{
    jv *index = NULL;
    if (!real_audio("index.json")) SKIP("no real audio");
    REQUIRE_OK(jv_parse_file(real_audio("index.json"), 1 << 20, &index));
    for (jv_iter it = jv_begin(index); jv_next(&it);) {
        buf file = {0};
        audio a;
        REQUIRE_OK(test_file(real_audio(it.key), &file));
        const status st = audio_decode(file.data, file.len, 16000, &a);
        const bool has_sound = jv_get_bool(it.val, "valid", false) && strcmp(it.key, "empty_data.wav") != 0;
        if ((st == ST_OK) != has_sound) FAIL("%s: %s", it.key, st == ST_OK ? "accepted" : err_msg());
        if (st == ST_OK) audio_free(&a);
        buf_free(&file);
    }
    jv_free(index);
}

TEST(features_need_enough_sound)
{
    float s[200] = { 0 }, *f;
    int frames;
    CHECK_ERR(audio_log_mel(&(mel_config){ 16000, 80, 400, 160 }, s, 200, &f, &frames), ST_INVALID, "200 samples");
    CHECK_ERR(audio_log_mel(&(mel_config){ 16000, 80, 4 * 127, 160 }, s, 200, &f, &frames), ST_UNSUPPORTED, "prime factor");
}

TEST(out_of_memory)
{
    int16_t s[800];
    buf b = {0};
    audio a;
    media_features f;
    media_processor *p = NULL;
    for (int i = 0; i < 800; i++) s[i] = (int16_t)(i * 37 % 2000);
    make_wav(&b, 1, 8000, s, 800, 1600);
    CHECK_EVERY_ALLOCATION(audio_decode(b.data, b.len, 16000, &a), audio_free(&a));
    CHECK_EVERY_ALLOCATION(open_json("{\"feature_extractor_type\":\"WhisperFeatureExtractor\"}", &p), media_processor_close(p));
    REQUIRE_OK(open_json("{\"feature_extractor_type\":\"WhisperFeatureExtractor\"}", &p));
    REQUIRE_OK(audio_decode(b.data, b.len, 16000, &a));
    CHECK_EVERY_ALLOCATION(media_process_audio(p, &a, &f), media_features_free(&f));
    audio_free(&a);
    media_processor_close(p);
    buf_free(&b);
}

TEST_MAIN
