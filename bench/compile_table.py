#!/usr/bin/env python3
"""Compiles models by name on the smallest topology of each generation that holds them (`systolic plan` says which), in the format
that they are shipped in, and writes the tables of docs/compile.md (between their markers).

  python3 bench/compile_table.py --presets all         every model: decode, a mixed step, encoders
  python3 bench/compile_table.py --presets Qwen3-4B --only v6e --buckets step:2048
  python3 bench/compile_table.py --fits                what fits where: `systolic plan` alone, nothing is compiled

Rows that are not made again are kept. One program is compiled at a time; a run that is interrupted goes on where it stopped, since
what is compiled is in --cache (its seconds are those it took then): run it again. --under names what commands are run under
(nice, by default)."""
import argparse, fcntl, json, os, shlex, subprocess, sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
DOC = os.path.join(ROOT, "docs", "compile.md")

# ---- programs ----

PRESETS = ["Llama-3.1-8B-Instruct", "Llama-3.3-70B-Instruct", "Llama-4-Maverick-17B-128E-Instruct", "Llama-4-Scout-17B-16E-Instruct",
           "Llama-Guard-4-12B", "Qwen3-4B", "Qwen3-32B", "Qwen3-30B-A3B", "Qwen3-Coder-480B-A35B-Instruct", "Qwen2.5-VL-7B-Instruct", "Qwen3-Omni-30B-A3B-Instruct", "gemma-3-27b-it", "DeepSeek-V3.1", "Kimi-K2-Thinking", "gpt-oss-120b"]
NEWER, OLDER = "v5e,v6e,v7x", "v3,v4,v5p"
ON_ALL = ("Llama-3.1-8B-Instruct", "Llama-3.3-70B-Instruct", "Qwen3-4B", "Qwen3-32B")   # these on the older ones too
MODELS_BEGIN, MODELS_END = "<!-- compile_table.py --presets: begin -->\n", "<!-- compile_table.py --presets: end -->\n"
MODELS_HEAD = ("| model | target | devices used | page | program | compile s | temporaries MB | room MB | step ms | copies |\n"
               "|---|---|---|---|---|---|---|---|---|---|\n")
LIMITS = ["--max-num-seqs", "64", "--max-num-batched-tokens", "2048", "--max-model-len", "8192"]

def plan_of(args, model, *more):
    r = subprocess.run([args.bin, "plan", model, "--json", *LIMITS, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if r.returncode: sys.exit(f"{model} cannot be planned: {r.stderr.strip()}")
    return json.loads(r.stdout)

def of_generation(args, model, gen):
    """Of the plan's targets the one of this generation, and whether there are encoders."""
    plan = plan_of(args, model)
    return dict(next(t for t in plan["targets"] if t["target"].startswith(gen + ":")), encoders=plan["parameters"]["encoders"] > 0)

def used(fit): return f"{fit['tensor_parallel_size']} of {fit['devices']}{', experts shared out' if fit['expert_parallel'] else ''}"

def compile_preset(args, model, fit, bucket):
    """The report, or why there is none."""
    ep = ["--enable-expert-parallel"] if fit["expert_parallel"] else []
    cmd = [*shlex.split(args.under), args.bin, "compile", model, "--target", fit["target"], "-tp", str(fit["tensor_parallel_size"]), "--out", args.cache, "--json", "--buckets", bucket, "--no-samplers", *LIMITS, *ep]
    r = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return (json.loads(r.stdout), "") if r.stdout.strip() else (None, r.stderr.strip()[-200:].replace("\n", " ") or f"exit {r.returncode}")

def preset_rows(args, model, gen):
    fit = of_generation(args, model, gen)
    lead = f"| {model} | {fit['target']} "
    if not fit["fits"]: return [lead + f"| does not fit: {fit['shortfall_bytes'] / 2**30:.1f} GiB too little on each device | - | - | - | - | - | - | - |"]
    lead += f"| {used(fit)} "
    rows = []
    for bucket in args.buckets.split(","):
        if bucket.startswith("encoder") and not fit["encoders"]: continue
        r, why = compile_preset(args, model, fit, bucket)
        if not r: rows.append(lead + f"| - | {bucket}: failed: {why} | - | - | - | - | - |")
        else: rows += [lead + f"| {r['block_size']} " + (f"| {p['name']}: failed: {p['error'][:200]} | - | - | - | - | - |" if p["error"] else
                       f"| {p['name']} | {p['compile_s']:.1f} | {p['temp_bytes'] / 1e6:.1f} | {p['room_bytes'] / 1e6:.0f} | {p['step_s'] * 1e3:.1f} | {'YES' if p['copies_cache'] else 'no'} |") for p in r["programs"]]
    return rows

# ---- what fits ----

FITS_BEGIN, FITS_END = "<!-- compile_table.py --fits: begin -->\n", "<!-- compile_table.py --fits: end -->\n"
FITS_HEAD = ("| model | too small: GiB short per device | smallest that holds it | devices used by one replica | GiB per device: memory, weights, KV | KV tokens | sequences of 8,192 |\n"
             "|---|---|---|---|---|---|---|\n")
SIZES = {"v5e": "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16", "v6e": "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16", "v7x": "1x1x1 2x2x1 2x2x2 2x2x4 2x4x4 4x4x4"}

def fits_rows(args, model):
    rows = []
    for gen in (args.only or NEWER).split(","):
        best = of_generation(args, model, gen)
        sizes = [f"{gen}:{s}" for s in SIZES[gen].split()]
        small = sizes[:sizes.index(best["target"])] if best["fits"] else sizes
        short = [f"{t['target']} {t['shortfall_bytes'] / 2**30:.1f}" for t in plan_of(args, model, "--target", *small)["targets"]] if small else []
        gib = ", ".join(f"{best[k + '_bytes_per_device'] / 2**30:.2f}" for k in ("memory", "weight", "kv"))
        rows.append(f"| {model} | {', '.join(short) or '-'} | " + (f"{best['target']} | {used(best)} | {gib} | {best['kv_tokens']:,} | {best['max_sequences']} |" if best["fits"] else "none | - | - | - | - |"))
    return rows

def fits(args):
    body = FITS_HEAD + "".join(l + "\n" for m in PRESETS for l in fits_rows(args, m))
    text = open(DOC, encoding="utf-8").read()
    open(DOC, "w", encoding="utf-8").write(text.split(FITS_BEGIN)[0] + FITS_BEGIN + body + FITS_END + text.split(FITS_END)[1])

def is_replaced(old, model, gen, lines):
    """Of this model and generation, and either of another layout or page or the same program."""
    cells = [[c.strip() for c in l.strip("| ").split(" | ")] for l in (old, *lines)]
    if cells[0][0] != model or not cells[0][1].startswith(gen + ":"): return False
    return any(cells[0][:4] != c[:4] or cells[0][4] == c[4] for c in cells[1:])

def write_presets(model, gen, lines):
    """Replaces what is new of the rows of one model and generation; several runs may work side by side."""
    with open(DOC, "r+", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        text = f.read()
        old = [l for l in text.split(MODELS_BEGIN)[1].split(MODELS_END)[0].split("\n") if l.startswith("| ") and not l.startswith("| model")]
        kept = [l for l in old if not is_replaced(l, model, gen, lines)] + lines
        order = {m: i for i, m in enumerate(PRESETS)}
        kept.sort(key=lambda l: (order.get(l.split(" | ")[0][2:], len(order)), *(l.split(" | ")[i] for i in (1, 4))))
        f.seek(0)
        f.write(text.split(MODELS_BEGIN)[0] + MODELS_BEGIN + MODELS_HEAD + "".join(l + "\n" for l in kept) + MODELS_END + text.split(MODELS_END)[1])
        f.truncate()

def presets(args):
    for model in PRESETS if args.presets == "all" else args.presets.split(","):
        for gen in (args.only or NEWER + ("," + OLDER if model in ON_ALL else "")).split(","):
            lines = preset_rows(args, model, gen)
            print("\n".join(lines), flush=True)
            write_presets(model, gen, lines)

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--bin", default="build/systolic")
    a.add_argument("--presets", help="all, or names with commas between")
    a.add_argument("--fits", action="store_true", help="what fits where")
    a.add_argument("--under", default="nice", help="what compilations are run under")
    a.add_argument("--buckets", default="decode:64,step:2048,encoder:4096,encoder:32768", help="of --presets; encoders where there are any")
    a.add_argument("--cache", default="build/compile-table", help="where the programs go")
    a.add_argument("--only", default="", help="generations, comma-separated")
    args = a.parse_args()
    if args.presets: presets(args)
    elif args.fits: fits(args)
    else: a.error("--presets or --fits is missing")

main()
