#!/usr/bin/env python3
"""What libtpu's static profile says of the kernel of decode attention: 64 sequences of 2,048 tokens, 32 query and 8 KV heads of 128, one
layer. Writes the table of docs/performance.md (between its markers); rows of targets that are not run are kept.

  python3 bench/attention_profile.py [--bin build/bench/kernels] [--only v6e,v7x]

The profile's cycles take a chip's memory to be a little faster than it is, so a time is the longer of these cycles and of the bytes at the
chip's bandwidth. libtpu has no such profile for v4, and crashes over some programs: such a row says so."""
import argparse, json, os, subprocess, sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
DOC = os.path.join(ROOT, "docs", "performance.md")
BEGIN, END = "<!-- attention_profile.py: begin -->\n", "<!-- attention_profile.py: end -->\n"
HEAD = "| chip | KV | page | cycles | of memory alone | times the bound | beside bf16 |\n|---|---|---|---|---|---|---|\n"
# target, bytes per second and cycles per second of one core's share (src/tpu/chip.c)
TARGETS = {"v5e": ("v5e:2x2", 819e9, 1.5e9), "v5p": ("v5p:2x2x1", 2765e9, 1.75e9), "v6e": ("v6e:1x1", 1638e9, 1.75e9), "v7x": ("v7x:1x1x1", 3690e9, 2.2e9)}
CASES = [(0, "bf16", 64, 2), (4, "bf16", 16, 2), (1, "fp8 (e4m3)", 64, 1), (2, "int8", 64, 1)]    # of kernel ragged_decode
TOKENS, NUMBERS = 64 * 2048, 2 * 8 * 128

def profile(args, target, case):
    env = dict(os.environ)
    env.setdefault("VIRTUAL_ENV", os.path.join(ROOT, "build", "venv"))
    r = subprocess.run([args.bin, "profile", target, "ragged_decode", str(case)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    if not r.stdout.strip(): sys.exit(r.stderr)
    what = json.loads(r.stdout)
    return what, int(what.get("cycles") or 0)

def rows_of(args, chip):
    target, bandwidth, clock = TARGETS[chip]
    out, wide = "", 0
    for case, kv, page, size in CASES:
        what, cycles = profile(args, target, case)
        bound = TOKENS * NUMBERS * size / bandwidth * clock
        if not cycles:
            out += f"| {chip} | {kv} | {page} | - | {bound:,.0f} | {what.get('error', 'no profile')[:60]} | - |\n"
            continue
        time = max(cycles, bound)
        if case == 0: wide = time
        out += f"| {chip} | {kv} | {page} | {cycles:,} | {bound:,.0f} | {time / bound:.2f} | {f'{time / wide:.2f}' if wide else '-'} |\n"
        print(out.splitlines()[-1], flush=True)
    return out

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bin", default=os.path.join(ROOT, "build", "bench", "kernels"))
    ap.add_argument("--only", default=",".join(TARGETS))
    args = ap.parse_args()
    text = open(DOC, encoding="utf-8").read()
    before, rest = text.split(BEGIN)
    old, after = rest.split(END)
    rows = {c: "".join(l + "\n" for l in old.splitlines() if l.startswith(f"| {c} |")) for c in TARGETS}
    for chip in args.only.split(","): rows[chip] = rows_of(args, chip)
    with open(DOC, "w", encoding="utf-8") as f: f.write(before + BEGIN + HEAD + "".join(rows.values()) + END + after)

main()
