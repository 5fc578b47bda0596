#!/usr/bin/env python3
"""The simulator against published figures (bench/sim_published.tsv): fits its constants on half of the rows, judges them on the others.

    calibrate_sim.py --claim          v6e over v5e on three models and four kinds of work
    calibrate_sim.py [--bin build/systolic] [--fit] [--only NAME,...] [--refine libtpu] [--set mxu=0.6,hbm=0.8,...] [--markdown]

Without --fit the constants of the binary are judged. Measured rows and the floors of the lane that a threshold was set on (v6e) count as
figures, with another weight (loss): error = simulated / published - 1. `bound` rows are floors alone: they are met or missed. Errors are fitted and judged in
logarithms, so that twice and half weigh the same. docs/simulator.md has the outcome.
"""
import argparse, concurrent.futures, json, math, os, statistics, subprocess, sys

HERE = os.path.dirname(os.path.abspath(__file__))
# Weights and activations of 8 bits in blocks, as the published FP8 checkpoint says in its config.json.
FP8 = ["--hf-overrides", json.dumps({"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}})]
# Constants, where they start and what they may be: shares of data sheet rates, microseconds, milliseconds. A share below a third would be
# another machine. Links are not fitted: 178.8 of 180 GB/s were measured around a ring (docs/chips.md).
START = {"mxu": 0.55, "hbm": 0.75, "op_us": 3.0, "step_ms": 1.0}
RANGE = {"mxu": (0.33, 0.95), "hbm": (0.33, 0.95), "op_us": (0.5, 20.0), "step_ms": (0.2, 10.0)}

def rows():
    names = None
    for line in open(os.path.join(HERE, "sim_published.tsv")):
        cells = line.rstrip("\n").split("\t")
        if line.startswith("# name"): names = [cells[0][2:]] + cells[1:]
        elif not line.startswith("#"): yield dict(zip(names, cells))

REFINE = []     # flags of --refine

def simulate(binary, row, constants):
    options = ",".join(f"{k}={v:.6g}" for k, v in constants.items())
    flags = FP8 if row["flags"] == "FP8" else [] if row["flags"] in ("-", "no-ep") else row["flags"].split()
    args = [binary, "plan", row["model"], "--json", "--target", row["target"] + ("?" + options if options else ""), "--tensor-parallel-size", row["tp"], "--data-parallel-size", "1",
            "--input-len", row["input"], "--prefix-len", row["prefix"], "--output-len", row["output"], "--num-prompts", row["prompts"], "--max-num-seqs", row["seqs"],
            "--max-num-batched-tokens", row["batched"], "--max-model-len", str(int(row["prefix"]) + int(row["input"]) + int(row["output"]) + 8), "--step-time-target", "0", *flags, *REFINE]
    if row["concurrency"] != "0": args += ["--max-concurrency", row["concurrency"]]
    p = subprocess.run(args, capture_output=True, text=True)
    if p.returncode: sys.exit(f"{row['name']}: {p.stderr.strip()}")
    runs = [r for r in json.loads(p.stdout)["simulation"]["runs"] if "request_throughput" in r and not (row["flags"] == "no-ep" and r["expert_parallel"])]
    if not runs: sys.exit(f"{row['name']}: does not fit {row['target']}")
    # Experts whole on ranks or cut: who publishes shows the better one, unless the command line is known.
    return max(runs, key=lambda r: r["request_throughput"])

def figure(row, run): return run["request_throughput" if row["metric"] == "req" else "output_throughput"]

def all_errors(binary, chosen, constants, pool):
    runs = list(pool.map(lambda r: simulate(binary, r, constants), chosen))
    return runs, [math.log(figure(r, x) / float(r["value"])) for r, x in zip(chosen, runs)]

def loss(chosen, errors):
    """A floor that is missed weighs three times one that is exceeded: the lane's true figure lies somewhere above."""
    return sum(min(abs(e), 1.5) * (1 if r["kind"] == "measured" else 1.5 if e < 0 else 0.5) for r, e in zip(chosen, errors)) / len(errors)

def fit(binary, chosen, pool):
    """Coordinate descent with shrinking steps: few constants, and each row's time is a sum of terms over them."""
    at = dict(START)
    best = loss(chosen, all_errors(binary, chosen, at, pool)[1])
    step = 0.2
    while step > 0.03:
        moved = False
        for name in START:
            for way in (1, -1):
                x = dict(at)
                x[name] = min(max(at[name] * (1 + step) ** way, RANGE[name][0]), RANGE[name][1])
                if x[name] == at[name]: continue
                l = loss(chosen, all_errors(binary, chosen, x, pool)[1])
                if l < best - 1e-4:
                    at, best, moved = x, l, True
                    print(f"  {best:.4f}  " + " ".join(f"{k}={v:.3g}" for k, v in at.items()), file=sys.stderr)
                    break
        if not moved: step /= 2
    return at

CLAIM = [("Qwen3-4B", 1), ("Llama-3.1-8B-Instruct", 4), ("Qwen3-32B", 8)], [(128, 1024), (1024, 1024), (1024, 128), (4096, 16)]

def claim(binary, constants):
    """Tokens per second of v6e over v5e, as many chips of each, 64 requests at a time."""
    ratios = []
    print("| input, output | " + " | ".join(f"{m}, {n} chip{'s' * (n > 1)}" for m, n in CLAIM[0]) + " |\n|---|" + "---|" * len(CLAIM[0]))
    for i, o in CLAIM[1]:
        cells = []
        for name, n in CLAIM[0]:
            row = {"name": name, "flags": "-", "model": name, "tp": str(n), "input": str(i), "prefix": "0", "output": str(o), "prompts": "192", "seqs": "128", "batched": "2048", "concurrency": "64"}
            v5e, v6e = (simulate(binary, dict(row, target=f"{c}-{n}"), constants)["total_token_throughput"] for c in ("v5e", "v6e"))
            ratios.append(v6e / v5e)
            cells.append(f"{v6e / v5e:.2f}")
        print(f"| {i}, {o} | " + " | ".join(cells) + " |")
    print(f"geometric mean {math.exp(statistics.mean(map(math.log, ratios))):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")

def percent(e): return f"{(math.exp(e) - 1) * 100:+.0f}%"

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", default=os.path.join(HERE, "..", "build", "systolic"))
    p.add_argument("--fit", action="store_true")
    p.add_argument("--only", default="")
    p.add_argument("--claim", action="store_true")
    p.add_argument("--set", default="")
    p.add_argument("--markdown", action="store_true")
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--refine", metavar="MODE", help="libtpu or libtpu-static: each row's programs are compiled, which takes minutes a row")
    p.add_argument("--program-cache", help="where they are kept")
    a = p.parse_args()
    if a.refine: REFINE.extend(["--sim-refine", a.refine] + (["--program-cache", a.program_cache] if a.program_cache else []))
    table = [r for r in rows() if any(x in r["name"] for x in a.only.split(","))]
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        constants = {k: float(v) for k, v in (x.split("=") for x in a.set.split(",") if x)}
        if a.claim: return claim(a.bin, constants)
        if a.fit: constants = fit(a.bin, [r for r in table if r["half"] == "fit"], pool)
        if constants: print("constants: " + " ".join(f"{k}={v:.3g}" for k, v in constants.items()))
        runs, errors = all_errors(a.bin, table, constants, pool)
    cell = " | " if a.markdown else "  "
    if a.markdown: print("| row | half | published | simulated | error | TTFT, TPOT p50 ms |\n|---|---|---|---|---|---|")
    for r, x, e in zip(table, runs, errors):
        bound = r["half"] == "bound"
        said = ("met" if e >= 0 else "MISSED") + f" ({percent(e)})" if bound else percent(e)
        published = ("at least " if r["kind"] == "floor" else "") + r["value"] + (" req/s" if r["metric"] == "req" else " tok/s")
        line = [f"{r['name']:18}", f"{r['half']:5}", f"{published:22}", f"{figure(r, x):9.2f}", f"{said:14}", f"{x['ttft_ms']['p50']:.0f}, {x['tpot_ms']['p50']:.1f}"]
        print(("| " if a.markdown else "") + cell.join(line) + (" |" if a.markdown else ""))
    for what, keep in (("fit", lambda r: r["half"] == "fit"), ("judge", lambda r: r["half"] == "judge"),
                       ("judge, measured only", lambda r: r["half"] == "judge" and r["kind"] == "measured")):
        es = [abs(math.exp(e) - 1) for r, e in zip(table, errors) if keep(r)]
        if es: print(f"{what}: {len(es)} rows, median error {statistics.median(es) * 100:.0f}%, largest {max(es) * 100:.0f}%")
    bounds = [e for r, e in zip(table, errors) if r["half"] == "bound"]
    if bounds: print(f"bounds: {sum(e >= 0 for e in bounds)} of {len(bounds)} met")

if __name__ == "__main__": main()
