// layer: media
/* Sound files of any kind: decoded, mixed down, resampled, turned into features. */
#include "base/mem.h"
#include "media/audio.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    audio a;
    if (audio_decode(data, size, 0, &a) != ST_OK) return 0;
    if (a.n > 20000) a.n = 20000;
    float *y = NULL, *f = NULL;
    size_t n = 0;
    int frames = 0;
    if (audio_resample(a.samples, a.n, a.rate, 16000, &y, &n) == ST_OK && n < 100000 && audio_log_mel(&(mel_config){ 16000, 80, 400, 160 }, y, n, &f, &frames) == ST_OK) mem_free(f);
    mem_free(y);
    audio_free(&a);
    return 0;
}
