"""Makes checkpoints with reference logits, in the environment that run.py set up: make.py GOLDENS OUT KIND NAME SEED ... (names and seeds in pairs)."""
import json, os, random, sys, torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

def main():
    goldens, out, kind, *what = sys.argv[1:]
    torch.set_num_threads(1)
    maker = __import__(kind)
    def base(name):
        with open(os.path.join(goldens, name, "config.json")) as f: return json.load(f)
    for name, seed in zip(what[::2], what[1::2]):
        d = os.path.join(out, f"{kind}-{name}-{seed}")
        os.makedirs(d)
        r = random.Random(f"{kind} {name} {seed}")
        torch.manual_seed(int(seed))
        try:
            if kind == "sizes": maker.make(d, name, base(name), r)
            elif kind == "media": maker.make(d, name, os.path.join(os.path.abspath(goldens), name), r)
            else: maker.make(d, name, {n: base(n) for n in ("llama", "qwen2", "qwen3", "qwen3_moe", "kimi_k2", "deepseek_v3")}, r)
            open(os.path.join(d, "made"), "w").close()
        except Exception as e:
            if os.environ.get("TRACE"): raise
            with open(os.path.join(d, "failed"), "w") as f: f.write(f"{type(e).__name__}: {e}".split("\n")[0])

main()
