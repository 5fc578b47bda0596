#!/usr/bin/env python3
"""Systolic beside what a user could run instead on this CPU: llama.cpp, OpenVINO and transformers, on the same random models, in one run.

    make peers                              sets up what is missing (once, about 20 minutes), then measures (15 minutes)
    bench/peers/run.py --quick              one round, fewer figures, about 5 minutes
    bench/peers/run.py --setup-only
    bench/peers/run.py --self-test          the readers of the engines' output and the report, without any peer

Engines take turns, several rounds, so that a slow minute of the machine does not fall on one of them; every figure is a fresh process. The
machine's limits are measured at the start of each round. Figures: prefill of 512 tokens; decode of 1, 8 and 32 sequences; seconds from exec to
ready; peak memory; a server load. Threads: all cores, the same for all. --json writes every single value. Rounds that the time (--minutes)
does not allow are left out, and the table says how many each figure has."""
import argparse, json, os, signal, subprocess, sys, time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
import engines, peers_setup, report
from engines import Failed
from peers_setup import ROOT, SHAPES, say


class Context:
    """What the engines need to know of the run, and what was left out of it."""

    def __init__(self, args, setup):
        self.setup, self.build, self.dtype = setup, args.build, args.dtype
        self.systolic = os.path.join(args.build, "systolic")
        self.threads = args.threads or len(os.sched_getaffinity(0))
        self.skipped, self.known, self.refused = {}, {}, {}
        text = subprocess.run([self.systolic, "serve", "--help=quantization"], capture_output=True, text=True).stdout
        self.quantizations = args.quantization if args.quantization is not None else engines.usual_quantizations(engines.parse_quantizations(text))

    def skip(self, what, why):
        if what not in self.skipped:
            self.skipped[what] = why
            say(f"SKIPPED {what}: {why}")

    def config(self, shape):
        if shape not in self.known:
            self.known[shape] = json.load(open(os.path.join(ROOT, "bench", "shapes", shape, "config.json")))
        return self.known[shape]

    def parameters(self, shape):
        return report.parameters(self.config(shape))

    def refuses(self, shape):
        """Why Systolic cannot run the shape; "" where it can. Only asked of mixtures of experts: the others are known."""
        if not self.config(shape).get("num_experts"):
            return ""
        if shape not in self.refused:
            try:
                engines.finish([self.systolic, "bench", "latency", "--model", os.path.join(ROOT, "bench", "shapes", shape), "--load-format", "dummy", "--max-model-len", "64", "--input-len", "4",
                                "--output-len", "1", "--batch-size", "1", "--num-iters-warmup", "0", "--num-iters", "1"], 120)
                self.refused[shape] = ""
            except Failed as e:
                self.refused[shape] = str(e)
        return self.refused[shape]


class Run:
    """Takes turns between the engines until the rounds or the minutes are over."""

    def __init__(self, ctx, args):
        self.ctx, self.args = ctx, args
        self.end = time.time() + args.minutes * 60
        self.took, self.late = {}, set()
        self.limits, self.values = [], {}

    def turn(self, key, fn):
        """One measurement, unless it would not end in time; what it took last is what it will take."""
        if time.time() + self.took.get(key, 0) > self.end:
            self.late.add(key)
            return None
        t0 = time.time()
        try:
            return fn()
        except (Failed, OSError, ValueError, KeyError) as e:
            self.ctx.skip(", ".join(str(k) for k in key), str(e) or repr(e))
            return None
        finally:
            self.took[key] = time.time() - t0
            say(f"  {time.strftime('%H:%M:%S')} {', '.join(str(k) for k in key)}: {self.took[key]:.0f} s")

    def keep(self, e, d):
        to = self.values.setdefault((e.shape, e.label), {})
        for name, v in (d or {}).items():
            if name == "decode":
                for b, x in v.items():
                    to.setdefault(f"decode_{b}", []).append(x)
            else:
                to.setdefault("prefill_512" if name == "prefill" else name, []).append(v)

    def measure_limits(self):
        c = engines.finish([os.path.join(self.ctx.build, "bench", "limits"), "--json"], 120)
        self.limits.append(engines.parse_limits(c.text(c.out)))

    def one(self, e, round_no):
        if ("failed", e) in self.late:
            return
        d = self.turn((e.shape, e.label), lambda: e.measure(self.args.batches))
        self.keep(e, d)
        if d is None and (e.shape, e.label) not in self.late:
            self.late.add(("failed", e))
            return
        loads = [x for x in self.args.loads if e.server_cmd(0, x) and e.shape == self.args.shapes[0] and e.bits in self.args.server_bits and round_no % 2 == 0]
        for load in loads or ([None] if e.server_cmd(0, None) else []):
            s = self.turn((e.shape, e.label, load and f"server {load}" or "start"), lambda load=load: e.serve(load))
            if s and load:
                self.keep(e, {f"{load}:{k}" if k != "start_s" else k: v for k, v in s.items()})
            elif s:
                self.keep(e, {k: v for k, v in s.items() if k == "start_s"})

    def go(self, todo):
        for r in range(self.args.rounds):
            say(f"round {r + 1} of {self.args.rounds}")
            self.turn(("limits",), self.measure_limits)
            for e in todo:
                if r == 0 or e.compared:
                    self.one(e, r)


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", default=os.path.join(ROOT, "build"), help="where systolic and bench/limits are")
    ap.add_argument("--cache", default=os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "systolic", "peers"))
    ap.add_argument("--disk-gb", type=float, default=8, help="most that the cache may hold; 20 is enough for everything (default: 8)")
    ap.add_argument("--torch-python", default=os.environ.get("PEERS_TORCH_PYTHON"), help="a Python that has torch and transformers, instead of installing them (6 GB)")
    ap.add_argument("--jobs", type=int, default=2, help="of the peers' builds (default: 2)")
    ap.add_argument("--threads", type=int, default=0, help="0: one per core")
    ap.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    ap.add_argument("--peers", nargs="*", choices=["llama.cpp", "openvino", "transformers"], default=["llama.cpp", "openvino", "transformers"])
    ap.add_argument("--bits", nargs="+", choices=["16", "8", "4"], default=["16", "8", "4"])
    ap.add_argument("--dtype", default="bfloat16", help="of Systolic's 16-bit figures")
    ap.add_argument("--quantization", nargs="*", help="Systolic's schemes; by default the first of 8 and of 4 bits that `serve --help=quantization` lists")
    ap.add_argument("--batches", type=lambda x: [int(b) for b in x.split(",")], default=[1, 8, 32])
    ap.add_argument("--loads", nargs="*", choices=list(engines.LOADS), default=["c8"], help="server loads (default: c8)")
    ap.add_argument("--server-bits", nargs="+", default=["8"], help="weights that the server loads run with; 16 too where Systolic has no 8-bit scheme")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--minutes", type=float, default=14)
    ap.add_argument("--json", metavar="FILE")
    ap.add_argument("--quick", action="store_true", help="one round of the 0.6B shape, without server load and 32 sequences")
    ap.add_argument("--setup-only", action="store_true")
    ap.add_argument("--no-setup", action="store_true", help="takes what is there")
    ap.add_argument("--self-test", action="store_true")
    args = ap.parse_args()
    if args.quick:
        args.shapes, args.rounds, args.loads, args.minutes = ["qwen3-0.6b"], 1, [], 6
        args.batches = [b for b in args.batches if b <= 8]
    return args


def main():
    args = arguments()
    if args.self_test:
        import self_test
        return self_test.main()
    for need in ("systolic", os.path.join("bench", "limits")):
        if not os.path.exists(os.path.join(args.build, need)):
            sys.exit(f"{os.path.join(args.build, need)} is not built: make all {args.build}/bench/limits")
    setup = peers_setup.Setup(args.cache, args.jobs, args.disk_gb, args.torch_python)
    if args.no_setup:
        for shape in args.shapes:
            setup.small_files(shape)
    else:
        setup.everything(args.shapes, args.peers, args.bits)
    if args.setup_only:
        return 0
    ctx = Context(args, setup)
    for what, why in setup.skipped.items():
        ctx.skip("setting up " + what, why)
    if not any(engines.bits_of(q) == "8" for q in ctx.quantizations) and "16" not in args.server_bits:
        args.server_bits.append("16")
    todo = [e for shape in args.shapes for e in engines.all_engines(ctx, shape, args.bits, args.peers)]
    # Turns: at each number of bits one engine after the other, so that neighbours in time are those that are compared. What Systolic has nothing
    # beside gets one round, at its end; transformers, the slowest, comes last in each.
    for e in todo:
        e.compared = any(x.name == "Systolic" and (x.shape, x.bits) == (e.shape, e.bits) for x in todo)
    todo.sort(key=lambda e: (not e.compared, e.name == "transformers", args.shapes.index(e.shape), -int(e.bits)))
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))  # engines must not outlive this process
    run, t0 = Run(ctx, args), time.time()
    try:
        run.go(todo)
    except KeyboardInterrupt:
        say("interrupted: the report has what was measured")
    result = report.collect(ctx, run, todo, time.time() - t0)
    report.show(result)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(result, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
