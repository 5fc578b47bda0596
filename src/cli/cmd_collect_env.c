/* `systolic collect-env`: what a bug report needs to know of this machine and build. Secrets are not printed. */
#include <stdio.h>
#include <string.h>
#include <gnu/libc-version.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/buf.h"
#include "cli/command.h"
#include "device/device.h"
#include "model/model.h"

extern char **environ;

static const flag_set set = { "systolic collect-env", "prints a report of the machine and the build", NULL, 0, NULL, NULL, false };

/* The value of KEY=... or "KEY: ..." in a small system file; "" when there is none. */
static void file_value(const char *path, const char *key, char *dst, size_t cap)
{
    dst[0] = 0;
    FILE *f = fopen(path, "r");
    if (!f) return;
    char line[1024];
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        const char *v = line + strlen(key);
        v += strspn(v, "= :\t\"");
        snprintf(dst, cap, "%.*s", (int)strcspn(v, "\"\n"), v);
        break;
    }
    fclose(f);
}

static void row(const char *name, const char *value) { printf("%-26s: %s\n", name, value && *value ? value : "unknown"); }

static void title(const char *text) { printf("\n==============================\n  %s\n==============================\n", text); }

static void device_rows(void)
{
    device *d = NULL;
    device_info di;
    char text[64];
    if (device_open("cpu", &(device_options){ 0 }, &d) != ST_OK) {
        row("CPU device", err_msg());
        return;
    }
    device_describe(d, &di);
    row("CPU", di.name);
    row("Kernels", di.isa);
    snprintf(text, sizeof text, "%d", di.n_threads);
    row("Compute threads", text);
    snprintf(text, sizeof text, "%.1f GiB, %.1f GiB free", (double)di.memory_bytes / (1 << 30), (double)di.free_bytes / (1 << 30));
    row("Memory", text);
    device_close(d);
}

/* Names that matter here; anything that looks like a secret shows only that it is set. */
static void environment_rows(void)
{
    static const char *const prefixes[] = { "VLLM_", "HF_", "SYSTOLIC_", "TPU_", "OPENAI_", "PYTHONHASHSEED", "TRANSFORMERS_OFFLINE", "http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy" };
    static const char *const secret[] = { "TOKEN", "KEY", "SECRET", "PASS", "AUTH", "CREDENTIAL", "PROXY" };
    for (char **e = environ; *e; e++) {
        bool ours = false, hide = false;
        const char *eq = strchr(*e, '=');
        if (!eq) continue;
        for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) ours |= strncmp(*e, prefixes[i], strlen(prefixes[i])) == 0;
        char name[128];
        snprintf(name, sizeof name, "%.*s", (int)(eq - *e), *e);
        for (size_t i = 0; i < sizeof secret / sizeof *secret; i++) hide |= strcasestr(name, secret[i]) != NULL;
        const char *host = strstr(eq, "://");
        hide |= host && strchr(host, '@'); /* https://user:password@host */
        if (ours) printf("%s=%s\n", name, hide ? "(set)" : eq + 1);
    }
}

int collect_env_main(int argc, char **argv)
{
    flags *f;
    int rc;
    if (!command_flags(&set, argc, argv, &f, &rc)) return rc;
    flags_free(f);
    char text[256];
    struct utsname u;
    title("System");
    file_value("/etc/os-release", "PRETTY_NAME", text, sizeof text);
    row("OS", text);
    if (uname(&u) == 0) {
        snprintf(text, sizeof text, "%s %s %s", u.sysname, u.release, u.machine);
        row("Kernel", text);
    }
    row("libc", gnu_get_libc_version());
    title("Systolic");
    row("Version", SYSTOLIC_VERSION);
    row("Compiler", __VERSION__);
    buf archs = {0};
    for (const char *const *a = model_architectures(); *a; a++) buf_printf(&archs, "%s%s", archs.len ? " " : "", *a);
    row("Architectures", buf_cstr(&archs));
    buf_free(&archs);
    title("Device");
    device_rows();
    file_value("/sys/fs/cgroup/cpu.max", "", text, sizeof text);
    row("cgroup cpu.max", text);
    file_value("/sys/fs/cgroup/memory.max", "", text, sizeof text);
    row("cgroup memory.max", text);
    title("Environment variables");
    environment_rows();
    return 0;
}
