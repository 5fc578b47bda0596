#include "ops/isa.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static bool has_portable(void) { return true; }
#if defined(__x86_64__)
/* Not every compiler's __builtin_cpu_supports knows F16C. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }
static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
static bool has_avx512_bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

/* ---- AMX. Intel's manual, volume 1, chapter 18; the kernel's Documentation/arch/x86/xstate.rst ---- */

bool isa_tiles(const isa_tile_sources *s)
{
    enum { OSXSAVE = 27, BF16 = 22, TILE = 24, INT8 = 25 };
    const uint32_t tiles = 1u << BF16 | 1u << TILE | 1u << INT8;
    const uint64_t state = 3u << 17;    /* XTILECFG, XTILEDATA */
    uint32_t c, d;
    if (!s->leaf(1, &c, &d) || !(c >> OSXSAVE & 1)) return false;
    if (!s->leaf(7, &c, &d) || (d & tiles) != tiles) return false;
    return (s->xcr0() & state) == state && s->permit();
}

static bool cpuid_leaf(uint32_t leaf, uint32_t *ecx, uint32_t *edx)
{
    uint32_t a, b;
    return __get_cpuid_count(leaf, 0, &a, &b, ecx, edx);
}

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* For all threads, those there are and those to come. A kernel that knows nothing of it says EINVAL. */
static bool ask_for_tiles(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
}

static bool has_avx512_amx(void)
{
    static _Atomic int known; /* 0: nobody has asked yet */
    int k = atomic_load_explicit(&known, memory_order_relaxed);
    if (!k) {
        k = has_avx512_bf16() && isa_tiles(&(isa_tile_sources){ cpuid_leaf, read_xcr0, ask_for_tiles }) ? 2 : 1;
        atomic_store_explicit(&known, k, memory_order_relaxed);
    }
    return k == 2;
}
static bool has_avx512_amx_emulated(void) { return has_avx512_bf16(); }
#endif

static const struct { const char *name; bool (*has)(void); } isas[] = {
#define ISA_ROW(n) { #n, has_##n },
    ISA_VARIANTS(ISA_ROW)
#undef ISA_ROW
};

const char *isa_name(isa i) { return (unsigned)i < ISA_COUNT ? isas[i].name : "?"; }
bool isa_available(isa i) { return (unsigned)i < ISA_COUNT && isas[i].has(); }

isa isa_best(void)
{
    isa best = ISA_portable;
#define ISA_BETTER(n) if (has_##n()) best = ISA_##n;
    ISA_VECTORS(ISA_BETTER)
#undef ISA_BETTER
    return best;
}

status isa_parse(const char *name, isa *out)
{
    char have[128] = "";
    for (isa i = 0; i < ISA_COUNT; i++) {
        if (!isas[i].has()) continue;
        if (name && strcmp(name, isas[i].name) == 0) { *out = i; return ST_OK; }
        if (have[0]) strncat(have, ", ", sizeof have - strlen(have) - 1);
        strncat(have, isas[i].name, sizeof have - strlen(have) - 1);
    }
    if (name) return err_set(ST_INVALID, "instruction set '%s' is not available here; available: %s", name, have);
    *out = isa_best();
    return ST_OK;
}
