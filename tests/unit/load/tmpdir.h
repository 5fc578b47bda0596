/* Scratch folders and files for the tests of src/load. */
#ifndef SYSTOLIC_TESTS_UNIT_LOAD_TMPDIR_H
#define SYSTOLIC_TESTS_UNIT_LOAD_TMPDIR_H

#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char tmpdir_path[64];

static inline int tmpdir_rm_one(const char *p, const struct stat *sb, int flag, struct FTW *ftw)
{
    (void)sb, (void)flag, (void)ftw;
    return remove(p);
}

/* Makes an empty folder (removing the last one) and returns its path. */
static inline const char *tmpdir_new(void)
{
    if (*tmpdir_path) nftw(tmpdir_path, tmpdir_rm_one, 16, FTW_DEPTH | FTW_PHYS);
    snprintf(tmpdir_path, sizeof tmpdir_path, "/tmp/systolic-test-XXXXXX");
    if (!mkdtemp(tmpdir_path)) abort();
    return tmpdir_path;
}

__attribute__((destructor)) static void tmpdir_end(void)
{
    if (*tmpdir_path) nftw(tmpdir_path, tmpdir_rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* The path of `name` in the folder; four may be in use at a time. */
static inline const char *tmpdir_at(const char *name)
{
    static char paths[4][512];
    static unsigned next;
    char *p = paths[next++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", tmpdir_path, name);
    return p;
}

static inline const char *tmpdir_write(const char *name, const void *data, size_t n)
{
    const char *path = tmpdir_at(name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0) abort();
    return path;
}

static inline const char *tmpdir_text(const char *name, const char *text) { return tmpdir_write(name, text, strlen(text)); }

/* A safetensors file from its header and `data_bytes` bytes 0, 1, 2, ... */
static inline const char *tmpdir_safetensors(const char *name, const char *header, size_t header_len, size_t data_bytes)
{
    size_t total = 8 + header_len + data_bytes;
    uint8_t *file = malloc(total);
    if (!file) abort();
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)header_len >> 8 * i);
    memcpy(file + 8, header, header_len);
    for (size_t i = 0; i < data_bytes; i++) file[8 + header_len + i] = (uint8_t)i;
    const char *path = tmpdir_write(name, file, total);
    free(file);
    return path;
}


#endif
