#!/usr/bin/env python3
"""CPU figures of one build as a table: prefill and decode tokens/s, the bytes of weights read per second beside the read bandwidth
measured in the same run, and peak memory.

    make bench                                   (bundled model, Qwen3-0.6B and Llama-3.2-1B shapes with random weights)
    bench/cpu.py [--model DIR ...] [--runs 3] [--decode 1,8,32] [--dtype bfloat16] [--json]

Only config.json is needed (random weights where there are none). Every figure is min / median / max over the runs, which alternate between models so
that a slow minute of the machine does not fall on one of them."""
import argparse, json, os, statistics, subprocess, sys, tempfile

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))

def limits(build):
    out = {}
    for line in subprocess.run([os.path.join(build, "bench", "limits"), "--json"], capture_output=True, text=True, check=True).stdout.splitlines():
        d = json.loads(line)
        out[(d["limit"], d["threads"])] = d
    return out

def latency(args, model, n_in, n_out, batch):
    """Seconds of one batch: the fastest of the command's own iterations, and its peak RSS in bytes."""
    with tempfile.NamedTemporaryFile(suffix=".json") as f:
        cmd = [os.path.join(args.build, "systolic"), "bench", "latency", "--model", model, "--input-len", str(n_in), "--output-len", str(n_out), "--batch-size", str(batch),
               "--num-iters-warmup", "1", "--num-iters", "3", "--dtype", args.dtype, "--max-model-len", str(max(1024, n_in + n_out)), "--no-enable-prefix-caching", "--output-json", f.name, *args.extra]
        if not any(x.endswith(".safetensors") for x in os.listdir(model)): cmd += ["--load-format", "dummy"]
        p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        _, err = p.communicate()
        if p.returncode: sys.exit(f"{' '.join(cmd)} failed:\n{err[-2000:]}")
        d = json.load(open(f.name))
        return d["percentiles"]["50"], d

def spread(x): return {"min": min(x), "median": statistics.median(x), "max": max(x)}
def show(s, digits=1): return f"{s['min']:.{digits}f} / {s['median']:.{digits}f} / {s['max']:.{digits}f}"

def weight_bytes(model, dtype):
    """Bytes of weights that one decode step reads: every layer's matrices and the head, not the embedding rows."""
    c = json.load(open(os.path.join(model, "config.json")))
    d, f, L, V = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"], c["vocab_size"]
    h = c.get("head_dim") or d // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * h, (c.get("num_key_value_heads") or c["num_attention_heads"]) * h
    return (L * (d * (2 * q + 2 * kv) + 3 * d * f) + V * d) * (4 if dtype == "float32" else 2), L * (d * (2 * q + 2 * kv) + 3 * d * f)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", default=os.path.join(ROOT, "build"))
    ap.add_argument("--model", nargs="*", default=[os.path.join(ROOT, p) for p in ("models/systolic-tiny", "bench/shapes/qwen3-0.6b", "bench/shapes/llama-3.2-1b")])
    ap.add_argument("--runs", type=int, default=3)
    ap.add_argument("--decode", default="1,8,32")
    ap.add_argument("--dtype", default="bfloat16")
    ap.add_argument("--json", action="store_true")
    args, args.extra = ap.parse_known_args()
    batches = [int(b) for b in args.decode.split(",")]
    lim = limits(args.build)
    threads = max(t for _, t in lim)
    read = lim[("streaming read", threads)]
    # the best instruction that accumulates in float32, of those the type can use
    kinds = ("f32 FMA", "bf16 dot") if args.dtype == "bfloat16" else ("f32 FMA",)
    peak = max((d for (name, _), d in lim.items() if name.startswith(kinds)), key=lambda d: d["median"], default=None)
    rows, raw = [], {m: {"prefill": [], **{b: [] for b in batches}} for m in args.model}
    rss = {}
    for _ in range(args.runs):
        for m in args.model:
            t, _d = latency(args, m, 512, 1, 1)
            raw[m]["prefill"].append(512 / t)
            for b in batches:
                one, _d = latency(args, m, 32, 1, b)
                many, d = latency(args, m, 32, 33, b)
                raw[m][b].append(b * 32 / (many - one))
                rss[m] = max(rss.get(m, 0), d.get("peak_rss_bytes", 0))
    result = {"limits": list(lim.values()), "models": {}}
    for m in args.model:
        total, per_token = weight_bytes(m, args.dtype)
        r = result["models"][os.path.basename(m)] = {"prefill_512": spread(raw[m]["prefill"]), "decode": {b: spread(raw[m][b]) for b in batches}, "weight_bytes": total, "peak_rss_bytes": rss[m]}
        r["read_gbs"] = {b: r["decode"][b]["median"] / b * total / 1e9 for b in batches}
        r["prefill_gops"] = r["prefill_512"]["median"] * 2 * per_token / 1e9
    if args.json: return print(json.dumps(result, indent=1))
    print(f"streaming read, {threads} threads: {show(read)} GB/s" + (f"; {peak['limit']}: {show(peak)} Gop/s" if peak else ""))
    print(f"{'model (' + args.dtype + ')':22} {'what':14} {'tokens/s min / median / max':30} {'of the limit':>26}  peak RSS")
    for name, r in result["models"].items():
        share = f"{r['prefill_gops']:.0f} Gop/s = {100 * r['prefill_gops'] / peak['median']:.0f}% of peak" if peak else ""
        print(f"{name:22} {'prefill 512':14} {show(r['prefill_512']):30} {share:>26}  {r['peak_rss_bytes'] / 2**20:.0f} MiB (weights {r['weight_bytes'] / 2**20:.0f})")
        for b in batches:
            print(f"{'':22} {'decode x' + str(b):14} {show(r['decode'][b]):30} {r['read_gbs'][b]:.1f} GB/s = {100 * r['read_gbs'][b] / read['median']:.0f}% of read")

if __name__ == "__main__": main()
