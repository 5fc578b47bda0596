#include "load/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

static const double REDRAW_S = 0.1, LINE_S = 5, WINDOW_S = 0.5;

const char *progress_bytes(int64_t n, char dst[16])
{
    static const char *const units[] = { "kB", "MB", "GB", "TB" };
    double v = (double)n;
    int u = -1;
    while (v >= 999.5 && u < 3) {
        v /= 1000;
        u++;
    }
    if (u < 0) snprintf(dst, 16, "%d B", (int)n);
    else snprintf(dst, 16, "%.*f %s", v < 9.95 ? 1 : 0, v, units[u]);
    return dst;
}

void progress_start(progress *p, const char *name, int64_t total, bool on)
{
    double now = clock_now();
    *p = (progress){ .name = name, .total = total, .done = -1, .started = now, .shown = now, .window_at = now, .on = on, .terminal = isatty(2) == 1 };
}

/* "0:42", "1:02:03"; "-:--" while nothing is known. */
static void eta(const progress *p, char *dst, size_t cap)
{
    double s = p->speed > 0 && p->total >= p->done ? (double)(p->total - p->done) / p->speed : -1;
    int t = s < 0 || s > 359999 ? -1 : (int)(s + 0.5);
    if (t < 0) snprintf(dst, cap, "-:--");
    else if (t < 3600) snprintf(dst, cap, "%d:%02d", t / 60, t % 60);
    else snprintf(dst, cap, "%d:%02d:%02d", t / 3600, t / 60 % 60, t % 60);
}

void progress_line(const progress *p, int width, char *dst, size_t cap)
{
    char done[16], total[16], speed[16], left[16], tail[128];
    int percent = p->total > 0 ? (int)((double)p->done * 100 / (double)p->total) : 0;
    eta(p, left, sizeof left);
    progress_bytes(p->done, done);
    progress_bytes((int64_t)p->speed, speed);
    if (p->total < 0) snprintf(tail, sizeof tail, " %s, %s/s", done, speed);
    else snprintf(tail, sizeof tail, " %s/%s, %s/s, ETA %s", done, progress_bytes(p->total, total), speed, left);
    int name = (int)strlen(p->name), bar = width - (int)strlen(tail) - 8; /* 8: the percentage and the bar's ends */
    if (bar < 0) bar = 0;
    if (name > bar * 2 / 3) name = bar * 2 / 3;
    bar -= name;
    if (bar > 40) bar = 40;
    int full = p->total > 0 ? (int)((double)bar * (double)p->done / (double)p->total) : 0;
    if (full > bar) full = bar;
    if (full < 0) full = 0;
    char line[48];
    memset(line, '=', (size_t)full);
    memset(line + full, ' ', (size_t)(bar - full));
    if (full > 0 && full < bar) line[full - 1] = '>';
    line[bar] = 0;
    if (p->total < 0) snprintf(dst, cap, "%.*s%s", name, p->name, tail);
    else if (bar < 4) snprintf(dst, cap, "%.*s %3d%%%s", name, p->name, percent, tail);
    else snprintf(dst, cap, "%.*s %3d%% [%s]%s", name, p->name, percent, line, tail);
}

static void show(progress *p)
{
    char line[512];
    if (p->done < 0) return;
    if (p->terminal) {
        struct winsize ws;
        int width = ioctl(2, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 20 ? ws.ws_col - 1 : 79;
        progress_line(p, width < 300 ? width : 300, line, sizeof line);
        fprintf(stderr, "\r%s\033[K", line);
    } else {
        char done[16], total[16], speed[16], left[16];
        eta(p, left, sizeof left);
        log_info("%s: %s of %s, %s/s, ETA %s", p->name, progress_bytes(p->done, done), p->total < 0 ? "?" : progress_bytes(p->total, total), progress_bytes((int64_t)p->speed, speed), left);
    }
}

void progress_set(progress *p, int64_t done)
{
    double now = clock_now();
    if (p->done < 0) p->start_done = p->window_done = done; /* what an earlier run left */
    if (done < p->done) p->start_done = p->window_done = done;
    p->done = done;
    if (now - p->window_at >= WINDOW_S) {
        double v = (double)(done - p->window_done) / (now - p->window_at);
        p->speed = p->speed > 0 ? 0.8 * p->speed + 0.2 * v : v;
        p->window_at = now;
        p->window_done = done;
    }
    if (!p->on || now - p->shown < (p->terminal ? REDRAW_S : LINE_S)) return;
    p->shown = now;
    show(p);
}

void progress_end(progress *p, bool ok)
{
    if (!p->on) return;
    double took = clock_now() - p->started;
    if (p->terminal) {
        if (ok && took > 0) p->speed = (double)(p->done - p->start_done) / took;
        show(p);
        fputc('\n', stderr);
    } else if (ok) {
        char n[16], speed[16];
        log_info("%s: %s downloaded in %.1f s (%s/s)", p->name, progress_bytes(p->done, n), took, progress_bytes(took > 0 ? (int64_t)((double)(p->done - p->start_done) / took) : 0, speed));
    }
}
