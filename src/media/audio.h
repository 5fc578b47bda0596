/* Sound of clients: any file libsndfile reads (WAV, FLAC, Ogg Vorbis and Opus, MP3, AIFF, AU, ...) to one channel of float samples at the rate a model wants, and
 * Whisper's log-mel features of them.
 *
 * The bytes are hostile: what the header promises is not allocated, samples are taken as they come and counted. */
#ifndef SYSTOLIC_MEDIA_AUDIO_H
#define SYSTOLIC_MEDIA_AUDIO_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef struct audio { int rate; size_t n; float *samples; } audio;   /* mono, full scale is -1..1 */

enum { AUDIO_MAX_SAMPLES = 64 << 20 };   /* of one channel, before resampling */

/* Channels are averaged, as librosa does; `rate` 0 keeps the file's. ST_INVALID for what is no sound, is broken or empty; ST_LIMIT for too much of it. */
status audio_decode(const void *data, size_t n, int rate, audio *out) FALLIBLE;
void audio_free(audio *a);

/* Samples at another rate: ceil(n * to / from) of them. Band-limited interpolation with a Kaiser-windowed sinc (J. O. Smith, "Digital Audio Resampling"). */
status audio_resample(const float *in, size_t n, int from, int to, float **out, size_t *n_out) FALLIBLE;

/* How WhisperFeatureExtractor is configured. */
typedef struct mel_config { int rate, n_mels, n_fft, hop; } mel_config;
/* Log-mel features [n_mels][frames], frames = n / hop; n must exceed n_fft / 2. No padding and no truncation. The caller frees out (mem_free). */
status audio_log_mel(const mel_config *c, const float *samples, size_t n, float **out, int *frames) FALLIBLE;

#endif
