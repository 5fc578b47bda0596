/* Writes the few fields of an HloModuleProto that device/pjrt/hlo_cost.c reads, and a module with one of everything. Stands alone: a made-up plugin uses it too. */
#ifndef SYSTOLIC_TESTS_HLO_PROTO_H
#define SYSTOLIC_TESTS_HLO_PROTO_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct pb { unsigned char d[8192]; size_t n; } pb;

static inline void pb_varint(pb *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7) b->d[b->n++] = (unsigned char)(v | 0x80);
    b->d[b->n++] = (unsigned char)v;
}
static inline void pb_int(pb *b, int field, int64_t v) { pb_varint(b, (uint64_t)field << 3); pb_varint(b, (uint64_t)v); }
static inline void pb_bytes(pb *b, int field, const void *data, size_t n)
{
    pb_varint(b, (uint64_t)field << 3 | 2);
    pb_varint(b, n);
    memcpy(b->d + b->n, data, n);
    b->n += n;
}
static inline void pb_text(pb *b, int field, const char *s) { pb_bytes(b, field, s, strlen(s)); }
static inline void pb_sub(pb *b, int field, const pb *sub) { pb_bytes(b, field, sub->d, sub->n); }
static inline void pb_ints(pb *b, int field, const int64_t *v, int n)
{
    pb p = { .n = 0 };
    for (int i = 0; i < n; i++) pb_varint(&p, (uint64_t)v[i]);
    pb_sub(b, field, &p);
}

typedef struct hlo_line { const char *opcode; int64_t id, dim[2], operands[2], called[2], line; int n_operands, n_called; const char *config, *target; int64_t scalar; } hlo_line;

static inline void pb_instruction(pb *computation, const hlo_line *l)
{
    pb x = { .n = 0 }, s = { .n = 0 }, e = { .n = 0 };
    pb_text(&x, 1, "an.instruction");
    pb_text(&x, 2, l->opcode);
    pb_ints(&s, 3, l->dim, l->dim[1] ? 2 : l->dim[0] ? 1 : 0);
    pb_sub(&x, 3, &s);
    if (l->line) { pb_int(&e, 4, l->line); pb_sub(&x, 7, &e); }
    if (!strcmp(l->opcode, "constant")) { e.n = 0; pb_ints(&e, 4, &l->scalar, 1); pb_sub(&x, 8, &e); }
    if (!strcmp(l->opcode, "convolution")) { e.n = 0; pb_int(&e, 3, 0); pb_int(&e, 4, 1); pb_sub(&x, 16, &e); }
    if (!strcmp(l->opcode, "dot")) { const int64_t one = 1; e.n = 0; pb_ints(&e, 1, &one, 1); pb_sub(&x, 30, &e); }
    if (!strcmp(l->opcode, "compare")) pb_text(&x, 63, "LT");
    if (l->target) pb_text(&x, 28, l->target);
    pb_int(&x, 35, l->id);
    if (l->n_operands) pb_ints(&x, 36, l->operands, l->n_operands);
    if (l->n_called) pb_ints(&x, 38, l->called, l->n_called);
    if (l->config) pb_text(&x, 43, l->config);
    pb_sub(computation, 2, &x);
}

static inline void pb_computation(pb *module, int64_t id, int64_t root, const hlo_line *l, int n)
{
    pb c = { .n = 0 };
    pb_text(&c, 1, "a.computation");
    for (int i = 0; i < n; i++) pb_instruction(&c, &l[i]);
    pb_int(&c, 5, id);
    pb_int(&c, 6, root);
    pb_sub(module, 3, &c);
}

/* Lines of the text that the module below came from. */
#define HLO_SOURCE "line 1\ncall {kernel_name = \"quantised_matmul\", x}\ncall {kernel_name = \"ragged_decode\"}\n"

/* Entry: a fusion of 1000 cycles, a loop of 28 and one of unknown length; a dot of [64, 16] by sums of 32, 65,536 FLOP.
 * Loop of 28: 100 cycles, a collective, a convolution in a fusion (a kernel of [32, 16], result [64, 16]: the same), two kernels. */
static inline void pb_module(pb *out, const char *cycles_key, const char *kernel_config)
{
    char config[256];
    pb m = { .n = 0 };
#define CYCLES(n) (strcpy(config, "{\"flag_configs\":[],\""), strcat(config, cycles_key), strcat(config, "\":{\"other\":[],\"estimated_cycles\":\"" n "\"}}"), config)
    const hlo_line fused[] = { { .opcode = "parameter", .id = 1, .dim = { 64, 32 } }, { .opcode = "parameter", .id = 2, .dim = { 32, 16 } }, { .opcode = "convolution", .id = 3, .dim = { 64, 16 }, .operands = { 1, 2 }, .n_operands = 2 } };
    pb_computation(&m, 10, 3, fused, 3);
    const hlo_line bound[] = { { .opcode = "parameter", .id = 1 }, { .opcode = "constant", .id = 2, .scalar = 28 }, { .opcode = "compare", .id = 3, .operands = { 1, 2 }, .n_operands = 2 } };
    pb_computation(&m, 11, 3, bound, 3);
    const hlo_line open[] = { { .opcode = "parameter", .id = 1 }, { .opcode = "parameter", .id = 2 }, { .opcode = "compare", .id = 3, .operands = { 1, 2 }, .n_operands = 2 } };
    pb_computation(&m, 12, 3, open, 3);
    char c100[256], c7[256];
    strcpy(c100, CYCLES("100"));
    strcpy(c7, CYCLES("7"));
    const hlo_line body[] = { { .opcode = "fusion", .id = 1, .dim = { 64, 16 }, .called = { 10 }, .n_called = 1, .config = c100 }, { .opcode = "all-reduce", .id = 2, .config = c7 }, { .opcode = "copy", .id = 3, .config = "{\"window_config\":{\"estimated_cycles\":\"9223372036854775807\"}}" },
                              { .opcode = "custom-call", .id = 4, .target = "tpu_custom_call", .line = 2, .config = kernel_config }, { .opcode = "custom-call", .id = 5, .target = "tpu_custom_call", .line = 3, .config = c7 } };
    pb_computation(&m, 13, 1, body, 5);
    const hlo_line other[] = { { .opcode = "add", .id = 1, .dim = { 8 }, .config = c7 }, { .opcode = "dot", .id = 2, .dim = { 64, 16 }, .operands = { 3, 3 }, .n_operands = 2 }, { .opcode = "parameter", .id = 3, .dim = { 64, 32 } } };
    pb_computation(&m, 14, 1, other, 3);
    const hlo_line entry[] = { { .opcode = "parameter", .id = 1, .dim = { 64, 32 } }, { .opcode = "fusion", .id = 2, .dim = { 8 }, .config = CYCLES("1000") }, { .opcode = "while", .id = 3, .called = { 13, 11 }, .n_called = 2 }, { .opcode = "while", .id = 4, .called = { 14, 12 }, .n_called = 2 },
                               { .opcode = "dot", .id = 5, .dim = { 64, 16 }, .operands = { 1, 1 }, .n_operands = 2 } };
    pb_computation(&m, 15, 5, entry, 5);
#undef CYCLES
    pb_int(&m, 6, 15);
    out->n = 0;
    pb_sub(out, 1, &m);
}

#endif
