// layer: load
/* A safetensors file of arbitrary bytes: opened from memory through /proc/self/fd, then every tensor's bytes are read. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "load/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    st_set *s = NULL;
    if (st_open_file(path, &s) == ST_OK) {
        volatile uint8_t sink = 0;
        size_t sum = 0;
        for (size_t i = 0; i < st_count(s); i++) {
            const st_tensor *t = st_get(s, i);
            const uint8_t *p = t->data;
            for (size_t k = 0; k < t->bytes; k++) sink ^= p[k];
            sum += t->bytes;
            if (st_find(s, t->name) != t) abort();
        }
        if (sum != st_total_bytes(s)) abort();
        st_close(s);
    }
    close(fd);
    return 0;
}
