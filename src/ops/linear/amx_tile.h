/* Tiles: eight registers of up to 16 rows of 64 bytes and what multiplies them. Twice the same words: the instructions of AMX, or, with
 * AMX_EMULATED, what Intel's manual (volume 2, "Operation" of each instruction) says that they do, so that the kernels of amx_kernels.h
 * can be run on processors without AMX, bit for bit.
 *
 *   tile_configure(c)          shapes of all tiles, zeroes them;  tile_release()  gives them up: a thread that holds none is cheaper to switch
 *   tile_zero(t)               t = 0
 *   tile_load(t, p, stride)    rows of t from p, p + stride, ...;  tile_keep(t, p, stride)  the other way
 *   tile_dot_bf16(d, a, b)     tdpbf16ps: d[m][n] += sum over pairs k of a[m][2k] b[k][2n] + a[m][2k+1] b[k][2n+1]. Of one instruction, the even and
 *                              the odd elements are a chain of fused multiply-adds each, from zero; their sum is added to d. Rounded to nearest
 *                              even, subnormal numbers are taken as zero and made zero; MXCSR plays no part.
 *   tile_dot_i8(d, a, b)       tdpbsud: the same of four signed bytes of a and unsigned bytes of b, in integers that wrap
 * Tile numbers are literals. The hardware traps where shapes do not fit (a.colsb / 4 == b.rows, ...); the emulation asserts. */
#ifndef SYSTOLIC_OPS_LINEAR_AMX_TILE_H
#define SYSTOLIC_OPS_LINEAR_AMX_TILE_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

enum { TILE_ROWS = 16, TILE_LINE = 64, TILE_BYTES = TILE_ROWS * TILE_LINE };

/* As ldtilecfg reads it. A tile that is not used has 0 rows of 0 bytes. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "the instruction reads 64 bytes");

#ifndef AMX_EMULATED

/* Not the compilers' intrinsics: gcc's do not say that tile_load reads memory. */
#define tile_configure(c) __asm__ volatile("ldtilecfg %0" ::"m"(*(c)) : "memory")
#define tile_release() __asm__ volatile("tilerelease" ::: "memory")
#define tile_zero(t) __asm__ volatile("tilezero %%tmm" #t ::: "memory")
#define tile_load(t, p, stride) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((int64_t)(stride)) : "memory")
#define tile_keep(t, p, stride) __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((int64_t)(stride)) : "memory")
#define tile_dot_bf16(d, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #d ::: "memory")
#define tile_dot_i8(d, a, b) __asm__ volatile("tdpbsud %%tmm" #b ", %%tmm" #a ", %%tmm" #d ::: "memory")

#else

#include <assert.h>

static _Thread_local struct { tile_config c; uint8_t tile[8][TILE_ROWS][TILE_LINE]; } emulated;

static void emulated_configure(const tile_config *c)
{
    assert(c->palette == 1 && c->start_row == 0);
    for (int t = 0; t < 16; t++) assert(c->rows[t] <= TILE_ROWS && c->colsb[t] <= TILE_LINE && !c->rows[t] == !c->colsb[t] && (t < 8 || !c->rows[t]));
    memset(&emulated, 0, sizeof emulated);
    emulated.c = *c;
}

static void emulated_zero(int t)
{
    assert(emulated.c.rows[t]);
    memset(emulated.tile[t], 0, TILE_BYTES);
}

static void emulated_load(int t, const void *p, int64_t stride)
{
    emulated_zero(t);
    for (int r = 0; r < emulated.c.rows[t]; r++) memcpy(emulated.tile[t][r], (const char *)p + r * stride, emulated.c.colsb[t]);
}

static void emulated_keep(int t, void *p, int64_t stride)
{
    assert(emulated.c.rows[t]);
    for (int r = 0; r < emulated.c.rows[t]; r++) memcpy((char *)p + r * stride, emulated.tile[t][r], emulated.c.colsb[t]);
}

static void emulated_check(int d, int a, int b)
{
    const tile_config *c = &emulated.c;
    assert(d != a && d != b && a != b && c->rows[d] && c->rows[d] == c->rows[a] && c->colsb[d] == c->colsb[b] && c->colsb[a] / 4 == c->rows[b]);
    assert(c->colsb[d] % 4 == 0 && c->colsb[a] % 4 == 0);
    (void)c, (void)d, (void)a, (void)b;
}

/* Between these two, float32 arithmetic has the tile instruction's rules. The memory clobbers keep it there: what is computed comes from
 * memory after the first and goes to memory before the second. */
static unsigned emulated_rules(void)
{
    unsigned before = _mm_getcsr();
    _mm_setcsr(0x1F80u | 0x8040u); /* no exceptions, nearest even; results flushed, inputs taken as zero */
    __asm__ volatile("" ::: "memory");
    return before;
}

static void emulated_rules_end(unsigned before)
{
    __asm__ volatile("" ::: "memory");
    _mm_setcsr(before);
}

static __attribute__((noinline)) void emulated_dot_bf16(int d, int a, int b)
{
    emulated_check(d, a, b);
    unsigned csr = emulated_rules();
    for (int m = 0; m < emulated.c.rows[d]; m++) {
        __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
        for (int k = 0; k < emulated.c.colsb[a] / 4; k++) {
            int32_t pair;
            memcpy(&pair, &emulated.tile[a][m][4 * k], 4);
            const __m512i high = _mm512_set1_epi32((int)0xFFFF0000u), x = _mm512_set1_epi32(pair), w = _mm512_loadu_si512(emulated.tile[b][k]);
            even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), even);
            odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, high)), _mm512_castsi512_ps(_mm512_and_si512(w, high)), odd);
        }
        void *to = emulated.tile[d][m];
        _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), _mm512_add_ps(even, odd)));
    }
    emulated_rules_end(csr);
}

static __attribute__((noinline)) void emulated_dot_i8(int d, int a, int b)
{
    emulated_check(d, a, b);
    for (int m = 0; m < emulated.c.rows[d]; m++) {
        uint32_t sum[TILE_LINE / 4];
        memcpy(sum, emulated.tile[d][m], sizeof sum);
        for (int k = 0; k < emulated.c.colsb[a] / 4; k++)
            for (int n = 0; n < emulated.c.colsb[d] / 4; n++)
                for (int i = 0; i < 4; i++) sum[n] += (uint32_t)((int8_t)emulated.tile[a][m][4 * k + i] * (int)emulated.tile[b][k][4 * n + i]);
        memcpy(emulated.tile[d][m], sum, sizeof sum);
    }
}

#define tile_configure(c) emulated_configure(c)
#define tile_release() memset(&emulated, 0, sizeof emulated)
#define tile_zero(t) emulated_zero(t)
#define tile_load(t, p, stride) emulated_load(t, p, (int64_t)(stride))
#define tile_keep(t, p, stride) emulated_keep(t, p, (int64_t)(stride))
#define tile_dot_bf16(d, a, b) emulated_dot_bf16(d, a, b)
#define tile_dot_i8(d, a, b) emulated_dot_i8(d, a, b)

#endif
#endif
