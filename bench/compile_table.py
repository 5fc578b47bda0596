#!/usr/bin/env python3
"""Compiles two large and two small models for every TPU generation and writes the table of docs/compile.md (between its markers).
Takes a while: --only v6e,v5e narrows it, rows that are not run again are kept. What is in --cache is not compiled again; its
seconds are those it took then. Model configurations (config.json files) come from --configs.

  python3 bench/compile_table.py --configs ../shared/facts/configs [--bin build/systolic] [--only v6e] [--cache DIR]
  python3 bench/compile_table.py --presets all         the fourteen models by name, on the smallest topology of each generation that
                                                       holds them (`systolic plan` says which), in the format that they are shipped in"""
import argparse, fcntl, json, os, re, resource, subprocess, sys

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
    cmd = ["nice", args.bin, "compile", os.path.join(args.configs, model + ".json"), "--target", target, "-tp", str(tp), "--out", args.cache, "--json", *FLAGS]
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
MODELS_HEAD = ("| model | target | devices used | weights GiB/device | KV tokens | program | compile s | temporaries MB | step ms | copies |\n"
               "|---|---|---|---|---|---|---|---|---|---|\n")
LIMITS = ["--max-num-seqs", "64", "--max-num-batched-tokens", "2048", "--max-model-len", "8192"]

def preset_rows(args, model, gen):
    plan = subprocess.run([args.bin, "plan", model, "--json", *LIMITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if plan.returncode: return [f"| {model} | {gen} | - | - | - | cannot be planned: {plan.stderr.strip()[-200:]} | - | - | - | - |"]
    fit = next(t for t in json.loads(plan.stdout)["targets"] if t["target"].startswith(gen + ":"))
    lead = f"| {model} | {fit['target']} "
    if not fit["fits"]: return [lead + f"| - | - | - | does not fit: {fit['shortfall_bytes'] / 2**30:.1f} GiB too little on each device | - | - | - | - |"]
    ep = ["--enable-expert-parallel"] if fit["expert_parallel"] else []
    cmd = ["nice", args.bin, "compile", model, "--target", fit["target"], "-tp", str(fit["tensor_parallel_size"]), "--out", args.cache, "--json", "--buckets", args.buckets, "--no-samplers", *LIMITS, *ep]
    r = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if not r.stdout.strip(): return [lead + f"| - | - | - | failed: {r.stderr.strip()[-200:]} | - | - | - | - |"]
    r = json.loads(r.stdout)
    lead += f"| {r['tensor_parallel_size']} of {r['devices']}{' (experts shared out)' if ep else ''} | {r['weight_bytes_per_device'] / 2**30:.2f} | {r['kv_tokens']:,} "
    return [lead + (f"| {p['name']}: failed: {p['error'][:200]} | - | - | - | - |" if p["error"] else
                    f"| {p['name']} | {p['compile_s']:.1f} | {p['temp_bytes'] / 1e6:.1f} | {p['step_s'] * 1e3:.1f} | {'YES' if p['copies_cache'] else 'no'} |") for p in r["programs"]]

def write_presets(model, gen, lines):
    """Replaces the rows of one model and generation; several runs may work side by side."""
    with open(DOC, "r+", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        text = f.read()
        old = [l for l in text.split(MODELS_BEGIN)[1].split(MODELS_END)[0].split("\n") if l.startswith("| ") and not l.startswith("| model")]
        kept = [l for l in old if not l.startswith(f"| {model} | {gen}")] + lines
        order = {m: i for i, m in enumerate(PRESETS)}
        kept.sort(key=lambda l: order.get(l.split(" | ")[0][2:], len(order)))
        f.seek(0)
        f.write(text.split(MODELS_BEGIN)[0] + MODELS_BEGIN + MODELS_HEAD + "".join(l + "\n" for l in kept) + MODELS_END + text.split(MODELS_END)[1])
        f.truncate()

def presets(args):
    names = PRESETS if args.presets == "all" else args.presets.split(",")
    for gen in args.only.split(","):
        for model in names:
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
    a.add_argument("--buckets", default="decode:64,step:2048", help="of --presets")
    a.add_argument("--cache", default="build/compile-table", help="where the programs go")
    a.add_argument("--only", default="", help="generations, comma-separated")
    args = a.parse_args()
    args.only = args.only or ("v5e,v6e,v7x" if args.presets else ",".join(HOSTS))
    if args.presets: return presets(args)
    if not args.configs: a.error("--configs is missing")
    for gen in args.only.split(","):
        lines = []
        for line in run(args, gen):
            lines.append(line)
            print(line, flush=True)
            write(gen, lines)

main()
