#!/usr/bin/env python3
"""Compiles two large and two small models for every TPU generation and writes the table of docs/compile.md (between its markers).
Takes a while: --only v6e,v5e narrows it, rows that are not run again are kept. What is in --cache is not compiled again; its
seconds are those it took then. Model configurations (config.json files) come from --configs.

  python3 bench/compile_table.py --configs ../shared/facts/configs [--bin build/systolic] [--only v6e] [--cache DIR]
  python3 bench/compile_table.py --presets all         the fourteen models by name, on the smallest topology of each generation that
                                                       holds them (`systolic plan` says which), in the format that they are shipped in
  python3 bench/compile_table.py --fits                what fits where: `systolic plan` alone, nothing is compiled

One program is compiled at a time. A run that is interrupted goes on where it stopped, since what is compiled is in --cache: run it
again. --under names what commands are run under (nice, by default)."""
import argparse, fcntl, json, os, re, resource, shlex, subprocess, sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
DOC = os.path.join(ROOT, "docs", "compile.md")
BEGIN, END = "<!-- compile_table.py: begin -->\n", "<!-- compile_table.py: end -->\n"
HEAD = ("| target | model | devices used | fits | weights GiB/device | KV tokens | CPU s for both | program | compile s | temporaries MB | step ms | copies the cache |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|\n")
FLAGS = ["--max-num-seqs", "64", "--max-num-batched-tokens", "2048", "--max-model-len", "8192", "--buckets", "decode:64,step:2048", "--no-samplers"]
SMALL, LARGE = ("Llama-3.1-8B", "Qwen3-4B"), ("Llama-3.3-70B-Instruct", "Qwen3-32B")
HOSTS = {"v6e": "v6e:2x2", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v7x": "v7x:2x2x1", "v4": "v4:2x2x1", "v3": "v3:2x2x1"}
EIGHT = {"v6e": "v6e:2x4", "v5e": "v5e:2x4", "v5p": "v5p:2x2x2", "v7x": "v7x:2x2x1", "v4": "v4:2x2x1", "v3": "v3:2x2x1"}

SIXTEEN = {"v5e": "v5e:4x4", "v4": "v4:2x2x2", "v3": "v3:4x2x1"}    # for what does not fit eight of 16 GB

def cpu_s():
    """Of the children that have ended: what a compilation costs, whatever else the machine does meanwhile."""
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime

def compile_one(args, model, target, tp):
    cmd = [*shlex.split(args.under), args.bin, "compile", os.path.join(args.configs, model + ".json"), "--target", target, "-tp", str(tp), "--out", args.cache, "--json", *FLAGS]
    before = cpu_s()
    r = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if not r.stdout.strip(): sys.exit(f"{' '.join(cmd)}: {r.stderr}")
    return dict(json.loads(r.stdout), cpu_s=cpu_s() - before)

def known_cpu(lead):
    """What the table says already of a row whose programs came from the cache."""
    for l in open(DOC, encoding="utf-8"):
        if l.startswith(lead) and len(l.split(" | ")) == 12: return l.split(" | ")[6]
    return "-"

def rows_of(model, target, r):
    lead = f"| {target} | {model} | {r['tensor_parallel_size']} of {r['devices']} "
    weights = f"| {r['weight_bytes_per_device'] / 2**30:.2f} "
    if not r["fits"]: return [lead + f"| no: {r['shortfall_bytes'] / 2**30:.1f} GiB too much " + weights + "| - | - | - | - | - | - | - |"]
    out = []
    cpu = known_cpu(lead) if r["n_cached"] else f"{r['cpu_s']:.0f}"
    for p in r["programs"]:
        what = f"| {p['name']} | failed: {p['error']} | - | - | - |" if p["error"] else \
            f"| {p['name']} | {p['compile_s']:.1f} | {p['temp_bytes'] / 1e6:.1f} | {p['step_s'] * 1e3:.1f} | {'YES' if p['copies_cache'] else 'no'} |"
        out.append(lead + "| yes " + weights + f"| {r['kv_tokens']:,} | {cpu} " + what)
    return out

def run(args, gen):
    """The least tensor parallel size that fits for the small ones, eight devices for the large ones, or sixteen."""
    for model in SMALL:
        for tp in (1, 2, 4, 8):
            r = compile_one(args, model, HOSTS[gen], tp)
            if r["fits"] or tp == r["devices"]: break
        yield from rows_of(model, HOSTS[gen], r)
    for model in LARGE:
        r = compile_one(args, model, EIGHT[gen], 8)
        yield from rows_of(model, EIGHT[gen], r)
        if not r["fits"] and gen in SIXTEEN: yield from rows_of(model, SIXTEEN[gen], compile_one(args, model, SIXTEEN[gen], 16))

# ---- by name ----

PRESETS = ["Llama-3.1-8B-Instruct", "Llama-3.3-70B-Instruct", "Llama-4-Maverick-17B-128E-Instruct", "Llama-Guard-4-12B", "Qwen3-4B", "Qwen3-32B", "Qwen3-30B-A3B", "Qwen3-Coder-480B-A35B-Instruct",
           "Qwen2.5-VL-7B-Instruct", "Qwen3-Omni-30B-A3B-Instruct", "gemma-3-27b-it", "DeepSeek-V3.1", "Kimi-K2-Thinking", "gpt-oss-120b"]
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
    for gen in args.only.split(","):
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
        for gen in args.only.split(","):
            lines = preset_rows(args, model, gen)
            print("\n".join(lines), flush=True)
            write_presets(model, gen, lines)

def old_rows(text):
    body = text.split(BEGIN)[1].split(END)[0] if BEGIN in text else ""
    rows = [l for l in body.split("\n") if re.match(r"\| v\d", l)]
    return {g: [l for l in rows if l.startswith(f"| {g}:")] for g in HOSTS}

def write(gen, lines):
    """Replaces the rows of one generation. Several runs may work side by side."""
    with open(DOC, "r+", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        text = f.read()
        rows = dict(old_rows(text), **{gen: lines})
        f.seek(0)
        f.write(text.split(BEGIN)[0] + BEGIN + HEAD + "".join(l + "\n" for g in HOSTS for l in rows[g]) + END + text.split(END)[1])
        f.truncate()

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--bin", default="build/systolic")
    a.add_argument("--configs", help="folder with MODEL.json files")
    a.add_argument("--presets", help="all, or names with commas between")
    a.add_argument("--fits", action="store_true", help="what fits where")
    a.add_argument("--under", default="nice", help="what compilations are run under")
    a.add_argument("--buckets", default="decode:64,step:2048,encoder:4096,encoder:32768", help="of --presets")
    a.add_argument("--cache", default="build/compile-table", help="where the programs go")
    a.add_argument("--only", default="", help="generations, comma-separated")
    args = a.parse_args()
    args.only = args.only or ("v5e,v6e,v7x" if args.presets or args.fits else ",".join(HOSTS))
    if args.fits: return fits(args)
    if args.presets: return presets(args)
    if not args.configs: a.error("--configs is missing")
    for gen in args.only.split(","):
        lines = []
        for line in run(args, gen):
            lines.append(line)
            print(line, flush=True)
            write(gen, lines)

main()
