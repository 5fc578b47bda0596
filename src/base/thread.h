/* Threads. */
#ifndef SYSTOLIC_BASE_THREAD_H
#define SYSTOLIC_BASE_THREAD_H

#include <pthread.h>

#include "base/err.h"

/* pthread_create with a name (at most 15 characters) and with all signals blocked: they are for the main thread. */
status thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *arg) FALLIBLE;

/* The calling thread runs only where nobody else wants to, as far as the system can do that. */
void thread_in_background(void);

#endif
