#include "ops/isa.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
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
