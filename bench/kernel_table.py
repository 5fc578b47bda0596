#!/usr/bin/env python3
"""Compiles every case of every registered Mosaic kernel, at a real model's size, for every chip with libtpu, profiles what can be profiled,
and writes the tables of docs/kernels.md. No TPU is needed, libtpu is (`make libtpu`).

    make build/bench/kernels && python3 bench/kernel_table.py [--chips v6e,v5e] [--kernels mla] [--build build]

Results are kept in BUILD/kernel_table.jsonl, so a part can be measured again alone; --write only writes the tables from there."""
import argparse, json, os, re, subprocess, sys

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
TARGETS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "v7x": "v7x:2x2x1"}

NEAR = 0.25      # bounds of less than this part of the greatest are not written


def measure(tool, chip, kernel, case, mode):
    command = [tool, "profile" if mode == "profile" else "compile", TARGETS[chip], kernel, case] + (["full"] if mode == "full" else [])
    out = subprocess.run(command, capture_output=True, text=True)
    rows = [json.loads(line) for line in out.stdout.splitlines() if line.startswith("{")]
    if not rows: print(f"{chip} {kernel}: {out.stderr.strip()[-300:]}", file=sys.stderr)
    for r in rows: r["chip"] = chip
    return rows


def short(error):
    """A compiler's message in a few words."""
    if "not for this chip: " in error: return error.split("not for this chip: ")[1]
    m = re.search(r"(Mosaic failed[^:]*: )?([A-Z][A-Z_]+: )?([^\n]*)", error.split("PJRT error")[0].split(": ", 1)[-1])
    return "refused: " + (m.group(3) if m else error)[:120].replace("|", "/")


def compiled(r):
    if r is None: return "–"
    if "error" in r: return short(r["error"])
    mb = r["temp_bytes"] / 1e6
    return f"{r['seconds']:.1f} s" + (f", {mb:.1f} MB" if mb >= 0.05 else "")


def profiled(r):
    if r is None or "error" in r: return "–"
    bounds = {"m": r["hbm_us"], "f": r.get("unit_us", 0), "l": r.get("link_us", 0)}
    most = max(bounds.values())
    beside = sorted(((b, w) for w, b in bounds.items() if b >= NEAR * most and b > 0), reverse=True)
    return f"{r['cycles']:,.0f} (" + ", ".join(f"{r['us'] / b:.2f} {w}" for b, w in beside) + ")"


def table(title, found, mode, cell, chips):
    keys = sorted({(r["kernel"], r["case"], r["description"]) for r in found.values() if r["size"] == mode and not (mode == "profile" and "error" in r)})
    if not keys: return ""
    lines = [title, "", "| kernel | case | " + " | ".join(chips) + " |", "|---|---|" + "---|" * len(chips)]
    for kernel, _, text in keys:
        lines.append(f"| {kernel} | {text} | " + " | ".join(cell(found.get((kernel, text, mode, c))) for c in chips) + " |")
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--chips", default=",".join(TARGETS))
    p.add_argument("--kernels", help="only these")
    p.add_argument("--case", default="all", help="only this one of each kernel")
    p.add_argument("--modes", default="full,profile")
    p.add_argument("--write", action="store_true", help="measure nothing")
    a = p.parse_args()
    tool, kept = os.path.join(a.build, "bench", "kernels"), os.path.join(a.build, "kernel_table.jsonl")
    env = os.path.join(a.build, "venv")
    if os.path.exists(os.path.join(env, "bin")): os.environ.setdefault("VIRTUAL_ENV", os.path.abspath(env))
    listed = subprocess.run([tool, "list"], check=True, capture_output=True, text=True).stdout.splitlines()
    names = list(dict.fromkeys(line.split(" ", 1)[0] for line in listed))
    chosen = a.kernels.split(",") if a.kernels else names
    found = {}
    if os.path.exists(kept):
        for line in open(kept):
            r = json.loads(line)
            found[r["kernel"], r.get("description"), r["size"], r["chip"]] = r
    for chip in [] if a.write else a.chips.split(","):
        for kernel in chosen:
            for mode in a.modes.split(","):
                if mode == "profile" and chip == "v4": continue      # libtpu has no latency model for it
                for r in measure(tool, chip, kernel, a.case, mode):
                    found[r["kernel"], r["description"], r["size"], r["chip"]] = r
                    print(json.dumps(r), flush=True)
        with open(kept, "w") as f: f.writelines(json.dumps(r) + "\n" for r in found.values())
    cases = {(line.split(" ", 2)[0], line.split(" ", 2)[2]): int(line.split(" ", 2)[1]) for line in listed}     # what a case is, not its number, tells whose a figure is
    found = {k: {**r, "case": cases[k[:2]]} for k, r in found.items() if k[:2] in cases}
    path = os.path.join(ROOT, "docs", "kernels.md")
    doc = open(path).read()
    body = table("Seconds to compile, and megabytes of temporaries where there are any, at a model's size:", found, "full", compiled, list(TARGETS)) + "\n" + \
        table("libtpu's static profile of one call with constants baked in: cycles, and in parentheses their time over the least that is possible, by bytes of HBM (m), products (f) "
              "or links (l), the greatest of them first and others if they are not far below it. Below 1 the profile takes the memory to be faster than it is. v4 has no profile:", found, "profile", profiled, [c for c in TARGETS if c != "v4"])
    begin, end = "<!-- kernel_table.py -->\n", "<!-- end -->"
    head, rest = doc.split(begin)
    open(path, "w").write(head + begin + body.rstrip() + "\n" + end + rest.split(end, 1)[1])


main()
