#include "base/thread.h"

#include <sched.h>
#include <signal.h>
#include <string.h>

status thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *arg)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(t, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) return err_set(ST_IO, "cannot start the thread %s: %s", name, strerror(rc));
    pthread_setname_np(*t, name);
    return ST_OK;
}

void thread_in_background(void)
{
#ifdef SCHED_IDLE
    const struct sched_param p = { 0 };
    pthread_setschedparam(pthread_self(), SCHED_IDLE, &p);
#endif
}
