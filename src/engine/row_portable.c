#define ROW_OPS row_ops_portable
#define ROW_NAME "portable"
#include "engine/row_impl.h"

const row_ops *row_ops_named(const char *name)
{
    if (strcmp(name, "portable") == 0) return &row_ops_portable;
#ifdef __x86_64__
    if (strcmp(name, "avx512") == 0 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return &row_ops_avx512;
    if (strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &row_ops_avx2;
#endif
    return NULL;
}

const row_ops *row_ops_best(void)
{
    const row_ops *best = row_ops_named("avx512");
    if (!best) best = row_ops_named("avx2");
    return best ? best : &row_ops_portable;
}
