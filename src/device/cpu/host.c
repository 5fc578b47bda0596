#include "device/cpu/host.h"

#include <ctype.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* First line of a small file without its newline; false if there is none. */
static bool read_line(const char *path, char *dst, size_t cap)
{
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool ok = fgets(dst, (int)cap, f) != NULL;
    fclose(f);
    if (ok) dst[strcspn(dst, "\n")] = 0;
    return ok;
}

/* ---- control groups ---- */

/* Our group's path under a v1 controller ("cpu", "memory") or of v2 (""). */
static bool group_path(const char *controller, char *dst, size_t cap)
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[512];
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f)) {
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        names++;
        for (char *save = NULL, *t = strtok_r(names, ",", &save); t && controller[0]; t = strtok_r(NULL, ",", &save)) found |= strcmp(t, controller) == 0;
        if (!controller[0] && !names[0]) found = true;
        if (found) snprintf(dst, cap, "%s", path);
    }
    if (f) fclose(f);
    return found;
}

typedef void group_fn(void *arg, const char *dir);

/* Calls fn for our group's directory and every one above it. */
static void each_group(const char *mount, const char *controller, group_fn *fn, void *arg)
{
    char path[512], dir[640];
    if (!group_path(controller, path, sizeof path)) return;
    for (;;) {
        snprintf(dir, sizeof dir, "%s%s", mount, strcmp(path, "/") == 0 ? "" : path);
        fn(arg, dir);
        char *slash = strrchr(path, '/');
        if (!slash || !path[0]) return;
        *slash = 0;
    }
}

static bool group_number(const char *dir, const char *file, double *out)
{
    char path[768], line[128];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    if (!read_line(path, line, sizeof line) || !isdigit((unsigned char)line[0])) return false;
    *out = strtod(line, NULL);
    return true;
}

static void least_quota(void *arg, const char *dir)
{
    double *cpus = arg, quota = 0, period = 0;
    char path[768], line[128];
    snprintf(path, sizeof path, "%s/cpu.max", dir);
    bool v2 = read_line(path, line, sizeof line) && sscanf(line, "%lf %lf", &quota, &period) == 2;
    if (!v2 && !(group_number(dir, "cpu.cfs_quota_us", &quota) && group_number(dir, "cpu.cfs_period_us", &period))) return;
    if (quota > 0 && period > 0 && quota / period < *cpus) *cpus = quota / period;
}

typedef struct mem_limit { double total, free; } mem_limit;

static void least_memory(void *arg, const char *dir)
{
    mem_limit *m = arg;
    double max, used = 0;
    if (!group_number(dir, "memory.max", &max) && !group_number(dir, "memory.limit_in_bytes", &max)) return;
    if (!group_number(dir, "memory.current", &used)) (void)group_number(dir, "memory.usage_in_bytes", &used);
    if (max < m->total) m->total = max;
    if (max - used < m->free) m->free = max - used;
}

/* ---- processors ---- */

static status parse_list(const char *text, cpu_set_t *set)
{
    const char *p = text;
    CPU_ZERO(set);
    while (*p && *p != '|') {
        char *end;
        long from = strtol(p, &end, 10), to = from;
        if (end != p && *end == '-') {
            p = end + 1;
            to = strtol(p, &end, 10);
        }
        if (end == p || from < 0 || to < from || to >= CPU_SETSIZE || (*end && *end != ',' && *end != '|'))
            return err_set(ST_INVALID, "VLLM_CPU_OMP_THREADS_BIND='%s': expected auto, all, nobind or a list of processors such as 0-3,8", text);
        for (long i = from; i <= to; i++) CPU_SET((size_t)i, set);
        p = *end == ',' ? end + 1 : end;
    }
    return ST_OK;
}

/* True if a processor that shares `cpu`'s core comes before it in the set. */
static bool sibling_before(int cpu, const cpu_set_t *set)
{
    char path[128], line[256];
    cpu_set_t siblings;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    if (!read_line(path, line, sizeof line) || parse_list(line, &siblings) != ST_OK) return false;
    for (int i = 0; i < cpu; i++)
        if (CPU_ISSET((size_t)i, &siblings) && CPU_ISSET((size_t)i, set)) return true;
    return false;
}

status host_pick_cpus(const char *bind, int want, host_cpus *out)
{
    cpu_set_t allowed, set;
    if (want < 0 || want > HOST_MAX_CPUS) return err_set(ST_INVALID, "%d compute threads, expected 0 to %d", want, HOST_MAX_CPUS);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return err_errno("sched_getaffinity");
    bool list = bind && bind[0] && strcmp(bind, "auto") != 0 && strcmp(bind, "all") != 0 && strcmp(bind, "nobind") != 0;
    set = allowed;
    if (list) {
        TRY(parse_list(bind, &set));
        CPU_AND(&set, &set, &allowed);
        if (CPU_COUNT(&set) == 0) return err_set(ST_INVALID, "VLLM_CPU_OMP_THREADS_BIND='%s': none of these processors is available", bind);
    }
    host_cpus h = { .pinned = !(bind && strcmp(bind, "nobind") == 0) };
    for (int i = 0; i < CPU_SETSIZE && h.n < HOST_MAX_CPUS; i++)
        if (CPU_ISSET((size_t)i, &set) && (list || !sibling_before(i, &set))) h.cpu[h.n++] = i;
    double quota = h.n;
    each_group("/sys/fs/cgroup", "", least_quota, &quota);
    each_group("/sys/fs/cgroup/cpu", "cpu", least_quota, &quota);
    int most = quota < 1 ? 1 : (int)quota;
    if (want == 0) want = h.n < most ? h.n : most;
    if (want > h.n || want < h.n) h.pinned = h.pinned && list && want <= h.n; /* a choice among cores is the kernel's, unless it was made */
    h.n = want;
    *out = h;
    return ST_OK;
}

void host_name(char *dst, size_t cap)
{
    snprintf(dst, cap, "CPU");
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = 0;
        snprintf(dst, cap, "%s", colon);
        break;
    }
    if (f) fclose(f);
}

void host_identity(char *dst, size_t cap)
{
    static const char *const fields[] = { "vendor_id", "cpu family", "model", "stepping", "microcode", "CPU implementer", "CPU part" };
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];
    size_t at = (size_t)snprintf(dst, cap, "CPU");
    while (f && fgets(line, sizeof line, f) && line[0] != '\n') { /* the first processor */
        char *colon = strchr(line, ':');
        if (!colon) continue;
        line[strcspn(line, "\n")] = 0;
        for (size_t i = 0; i < sizeof fields / sizeof *fields && at < cap; i++)
            if (strncmp(line, fields[i], strlen(fields[i])) == 0) {
                at += (size_t)snprintf(dst + at, cap - at, " |%s", colon + 1);
                break;
            }
    }
    if (f) fclose(f);
}

void host_memory(int64_t *total, int64_t *available)
{
    mem_limit m = { 0, 0 };
    FILE *f = fopen("/proc/meminfo", "re");
    char line[256];
    double kib;
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "MemTotal: %lf", &kib) == 1) m.total = kib * 1024;
        if (sscanf(line, "MemAvailable: %lf", &kib) == 1) m.free = kib * 1024;
    }
    if (f) fclose(f);
    each_group("/sys/fs/cgroup", "", least_memory, &m);
    each_group("/sys/fs/cgroup/memory", "memory", least_memory, &m);
    *total = (int64_t)m.total;
    *available = (int64_t)(m.free > 0 ? m.free : 0);
}
