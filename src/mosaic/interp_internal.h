/* What the files of the interpreter share. */
#ifndef SYSTOLIC_MOSAIC_INTERP_INTERNAL_H
#define SYSTOLIC_MOSAIC_INTERP_INTERNAL_H

#include "mosaic/interp.h"
#include "mosaic/ir.h"

/* Memory of an argument on one device. shadow[i] tells what outstanding copies do to element i: SHADOW_DST, and how many read it. */
enum { SHADOW_DST = 0x8000, SHADOW_READERS = 0x7FFF };
typedef struct mk_mem {
    char *data, *own;               /* own: to be freed, or NULL */
    uint16_t *shadow;               /* NULL until a copy touches it */
    int64_t n;
    dtype type;
    size_t size;                    /* bytes of an element */
} mk_mem;

/* A box of it: where a reference leads. Of semaphores, off is the number of the first one. */
typedef struct mk_region {
    int mem;                        /* argument; -1: the barrier */
    dtype type;                     /* that is seen: differs from the memory's after a bitcast */
    int rank;
    int64_t off, size[MK_RANK], stride[MK_RANK];   /* in elements of the memory; of the second-last dimension in those of the bitcast's rows */
} mk_region;

typedef struct mk_sem { int64_t value; } mk_sem;

/* A copy that was started. */
typedef struct mk_dma {
    int from, to;                   /* devices */
    mk_region src, dst;
    mk_sem *sent, *received;        /* NULL: done, or not asked for */
    bool remote;
    void *staged;                   /* what was sent, if the sender has waited before the receiver */
    int op;                         /* that started it */
} mk_dma;

/* A window: the blocks of this step and the next one. */
typedef struct mk_window { char *next; int64_t at[MK_RANK], next_at[MK_RANK]; bool loaded, next_loaded; } mk_window;

typedef struct mk_device {
    int id;
    mk_mem mem[MK_ARGS];
    mk_mem array[MK_ARGS];          /* of windows: the whole array */
    mk_window window[MK_ARGS];
    mk_sem *sems[MK_ARGS], barrier;
    mk_region *region;              /* by id, of references */
    void **slot;                    /* by id, of values: float or int32_t, one per element */
    char *slots;
    int64_t step[MK_GRID];
    int pc;
    bool started, in_step, finished;
    const char *blocked;            /* on what, or NULL */
} mk_device;

typedef struct mk_machine {
    const mk *k;
    int n_devices;
    mk_device *dev;
    mk_dma *dma;
    int n_dmas, cap_dmas;
    int *jump;                      /* of the body: the other bracket */
    int current;                    /* function that runs: 0 body, i + 1 map */
    int at;                         /* operation that runs */
    int64_t left;                   /* operations until it is too many */
    int64_t bytes_left;
    status st;                      /* of the first failure */
    mk_report report;
} mk_machine;

typedef enum mk_next { MK_GO_ON, MK_BLOCKED, MK_FAILED } mk_next;

/* "kernel fd, device 0, step [3], operation 12 (load): " and the message; MK_FAILED. */
mk_next mk_trap(mk_machine *m, const mk_device *d, const char *fmt, ...) PRINTF_LIKE(3, 4);
mk_next mk_no_memory(mk_machine *m);

static inline int32_t mk_int(const mk_device *d, int id) { return *(const int32_t *)d->slot[id]; }

/* interp_values.c: operations on values alone. */
mk_next mk_run_value(mk_machine *m, mk_device *d, const mk_op *op);
void mk_fill(dtype t, void *slot, int64_t n, double v);
/* In the form of slots: bits of `from` (rows x lanes, as mk_bitcast) as `to`. */
void mk_bitcast_slots(dtype from, const void *src, dtype to, void *dst, int64_t outer, int64_t rows, int64_t lanes);
/* Storage to slots and back, n elements. */
void mk_unpack(dtype t, const void *src, void *dst, int64_t n);
void mk_pack(dtype t, const void *src, void *dst, int64_t n);
size_t mk_element(dtype t);
void mk_poison(dtype t, void *storage, int64_t n);

/* interp_memory.c: loads, stores, references, copies, semaphores. */
mk_next mk_run_memory(mk_machine *m, mk_device *d, const mk_op *op);
/* Nothing outstanding, all semaphores 0. */
mk_next mk_check_end(mk_machine *m);
/* No copy is outstanding to or from a window of this device. */
mk_next mk_check_windows(mk_machine *m, const mk_device *d);
void mk_free_copies(mk_machine *m);

#endif
