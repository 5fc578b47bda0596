/* Log lines in vLLM's shape: LEVEL MM-DD HH:MM:SS [file.c:line] message. Thread-safe, to stderr. */
#ifndef SYSTOLIC_BASE_LOG_H
#define SYSTOLIC_BASE_LOG_H

#include <stdbool.h>

#include "base/err.h"

typedef enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR } log_level;

/* Reads VLLM_LOGGING_LEVEL (DEBUG INFO WARNING ERROR), VLLM_LOGGING_PREFIX, NO_COLOR. */
void log_init(void);
void log_set_level(log_level l);
/* "DEBUG", "info", ...; ST_INVALID for an unknown name. */
status log_level_parse(const char *name, log_level *out) FALLIBLE;
/* JSON lines instead of text. */
void log_set_json(bool on);
bool log_enabled(log_level l);
/* One write(2) per line. */
void log_write(log_level l, const char *file, int line, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* A line without prefix (access log). */
void log_plain(const char *fmt, ...) PRINTF_LIKE(1, 2);

#define log_debug(...) log_write(LOG_DEBUG, __FILE__, __LINE__, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __FILE__, __LINE__, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARNING, __FILE__, __LINE__, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR, __FILE__, __LINE__, __VA_ARGS__)

#endif
