#!/usr/bin/env python3
"""The first ten minutes of the Azure conversation trace (2023) against Systolic's server and llama-server, on the same random model.

    bench/peers/replay.py                       both servers, rising rates, about four minutes
    bench/peers/replay.py --rates 0.5 1 --seconds 20 --json replay.json

The trace has arrival times, prompt and answer lengths, and asks for 5 requests of 1,000 tokens a second: far more than a small machine does. So its
time is compressed to --seconds, requests are thinned evenly to the rate wanted, and lengths are divided by --shrink and capped; order, bursts and the
relation of lengths stay. Rates rise (--rates, requests per second); a server sustains one if it ends all requests at most --slack times the trace's
seconds after the first arrived, without an error, and stops at the first that it does not sustain. The table has both servers at the highest rate
that both sustain, and each at its own highest. Skipped, and said so, where the trace or a server is not there."""
import argparse, csv, datetime, json, os, random, sys, threading, time, urllib.request

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
import engines, peers_setup, report
from engines import Failed
from peers_setup import ROOT, say

TRACE = os.path.join(ROOT, "..", "shared", "realdata", "traces", "azure", "AzureLLMInferenceTrace_conv.first60pct.csv")


def read_trace(lines, minutes):
    """[(seconds since the first, prompt tokens, answer tokens)] of the first minutes."""
    out, first = [], None
    for row in csv.DictReader(lines):
        at = datetime.datetime.strptime(row["TIMESTAMP"][:26], "%Y-%m-%d %H:%M:%S.%f")
        first = first or at
        t = (at - first).total_seconds()
        if t > minutes * 60:
            break
        out.append((t, int(row["ContextTokens"]), int(row["GeneratedTokens"])))
    return out


def schedule(trace, seconds, rate, shrink, most_in, most_out):
    """Evenly thinned to `rate`, compressed to `seconds`, shrunk: [(at, prompt, answer)]."""
    want = max(1, min(len(trace), round(seconds * rate)))
    picked = [trace[i * len(trace) // want] for i in range(want)]
    squeeze = seconds / max(trace[-1][0], 1e-9)
    return [(t * squeeze, max(1, min(most_in, n_in // shrink)), max(1, min(most_out, n_out // shrink))) for t, n_in, n_out in picked]


def model_of(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=20) as f:
        return json.load(f)["data"][0]["id"]


def stream(port, model, n_in, n_out, vocab, seed):
    """One request: (seconds to the first token, gaps between tokens, tokens)."""
    rng = random.Random(seed)
    body = {"model": model, "prompt": [rng.randrange(1000, vocab - 1000) for _ in range(n_in)], "max_tokens": n_out, "temperature": 0, "ignore_eos": True, "stream": True}
    r = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    t0 = last = time.time()
    ttft, gaps, n = None, [], 0
    with urllib.request.urlopen(r, timeout=300) as f:
        for line in f:
            if not line.startswith(b"data: {") or not json.loads(line[6:]).get("choices"):
                continue
            now = time.time()
            if ttft is None:
                ttft = now - t0
            else:
                gaps.append(now - last)
            last, n = now, n + 1
    if ttft is None:
        raise Failed("an answer without a token")
    return ttft, gaps, n


def percentile(values, p):
    s = sorted(values)
    return s[min(len(s) - 1, int(p / 100 * len(s)))] if s else 0.0


def play(port, model, todo, vocab, limit):
    """Sends every request at its time; the figures of the run, late by more than `limit` seconds counted as an error."""
    done, errors, threads, lock, t0 = [], [], [], threading.Lock(), time.time()

    def one(i, n_in, n_out):
        try:
            r = stream(port, model, n_in, n_out, vocab, i)
            with lock:
                done.append(r)
        except (OSError, Failed, ValueError) as e:
            with lock:
                errors.append(str(e))

    for i, (at, n_in, n_out) in enumerate(todo):
        time.sleep(max(0.0, t0 + at - time.time()))
        threads.append(threading.Thread(target=one, args=(i, n_in, n_out), daemon=True))
        threads[-1].start()
    for t in threads:
        t.join(max(0.0, t0 + limit - time.time()))
    took = time.time() - t0
    with lock:
        waiting, gaps = len(todo) - len(done) - len(errors), [g for d in done for g in d[1]]
        return {"requests": len(todo), "seconds": took, "sustained": not waiting and not errors, "unfinished": waiting, "errors": errors[:3], "output_tok_s": sum(d[2] for d in done) / took,
                "ttft_p50_ms": 1e3 * percentile([d[0] for d in done], 50), "ttft_p99_ms": 1e3 * percentile([d[0] for d in done], 99),
                "itl_p50_ms": 1e3 * percentile(gaps, 50), "itl_p99_ms": 1e3 * percentile(gaps, 99)}


def climb(name, engine, trace, args, vocab):
    """{rate: figures}, up to the first rate that is not sustained. A fresh server for each, so that no queue is left over."""
    out = {}
    for rate in args.rates:
        port = engines.free_port()
        c = engines.Child(engine.server_cmd(port, "c8"))
        try:
            engines.wait_healthy(c, port, engine.timeout)
            model = model_of(port)
            stream(port, model, 64, 4, vocab, -1)
            out[rate] = play(port, model, schedule(trace, args.seconds, rate, args.shrink, args.max_in, args.max_out), vocab, args.seconds * args.slack)
        finally:
            c.stop()
        say(f"  {name}, {rate:g} requests/s: {'sustained' if out[rate]['sustained'] else 'not sustained'}, {out[rate]['output_tok_s']:.0f} tokens/s, TTFT p50 {out[rate]['ttft_p50_ms']:.0f} ms")
        if not out[rate]["sustained"]:
            break
    return out


def best(runs):
    return max((r for r, v in runs.items() if v["sustained"]), default=None)


def show(results):
    tops = {n: best(r) for n, r in results.items()}
    both = min((t or 0 for t in tops.values()), default=0)
    keys = [("output_tok_s", "tokens/s"), ("ttft_p50_ms", "TTFT p50 ms"), ("ttft_p99_ms", "p99"), ("itl_p50_ms", "ITL p50 ms"), ("itl_p99_ms", "p99")]
    rows = []
    for name, runs in results.items():
        for rate in dict.fromkeys(x for x in (both, tops[name]) if x):
            rows.append([f"{name} at {rate:g} requests/s" + (" (highest that all sustain)" if rate == both else " (its highest)"), *[report.number(runs[rate][k]) for k, _ in keys]])
        if not tops[name]:
            rows.append([f"{name}: sustains none of the rates", *["-" for _ in keys]])
    report.table(["Azure conversations", *[t for _, t in keys]], rows)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", default=os.path.join(ROOT, "build"))
    ap.add_argument("--cache", default=os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "systolic", "peers"))
    ap.add_argument("--trace", default=TRACE)
    ap.add_argument("--trace-minutes", type=float, default=10)
    ap.add_argument("--shape", default="qwen3-0.6b", choices=list(peers_setup.SHAPES))
    ap.add_argument("--quantization", default="int8")
    ap.add_argument("--dtype", default="bfloat16")
    ap.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    ap.add_argument("--rates", nargs="+", type=float, default=[0.25, 0.5, 1, 1.5, 2])
    ap.add_argument("--seconds", type=float, default=20, help="that ten minutes become (default: 20)")
    ap.add_argument("--slack", type=float, default=1.5, help="times --seconds within which all must have ended (default: 1.5)")
    ap.add_argument("--shrink", type=int, default=6, help="what lengths are divided by (default: 6)")
    ap.add_argument("--max-in", type=int, default=192)
    ap.add_argument("--max-out", type=int, default=64)
    ap.add_argument("--json", metavar="FILE")
    args = ap.parse_args()
    if not os.path.exists(args.trace):
        print(f"SKIPPED replay: no trace at {os.path.realpath(args.trace)}")
        return 0
    setup = peers_setup.Setup(args.cache, 2, 8, None)
    setup.small_files(args.shape)
    ctx = argparse.Namespace(setup=setup, build=args.build, dtype=args.dtype, systolic=os.path.join(args.build, "systolic"), threads=args.threads)
    ctx.config = lambda shape: json.load(open(os.path.join(ROOT, "bench", "shapes", shape, "config.json")))
    ours, theirs = engines.Systolic(ctx, args.shape, args.quantization, engines.bits_of(args.quantization)), engines.LlamaCpp(ctx, args.shape, "Q8_0", "8")
    servers = {f"Systolic {args.quantization}": ours}
    if setup.llama("llama-server") and theirs.path():
        servers["llama.cpp Q8_0"] = theirs
    else:
        print("SKIPPED llama.cpp: not set up")
    with open(args.trace, newline="") as f:
        trace = read_trace(f, args.trace_minutes)
    vocab, results = ctx.config(args.shape)["vocab_size"], {}
    for name, e in servers.items():
        try:
            results[name] = climb(name, e, trace, args, vocab)
        except (Failed, OSError) as e:
            print(f"SKIPPED {name}: {e}")
    show(results)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({n: {str(r): v for r, v in runs.items()} for n, runs in results.items()}, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
