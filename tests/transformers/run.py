#!/usr/bin/env python3
"""Checkpoints of sizes, seeds and media that nobody chose, against transformers: made at random from the goldens' configurations, then served
and compared logit by logit and token by token. A long run of its own (make check-transformers), for what the goldens do not happen to cover.

    run.py [--seeds 0:3] [--kinds sizes stored media] [--only llama qwen3 ...] [--bin build/systolic] [--plugin PLUGIN.so] [--keep DIR]

With --plugin XLA's CPU backend computes instead of the CPU device. The environment (torch, transformers, torchvision; 6 GB) is that of
bench/peers and is set up once. A seed says everything about a checkpoint; those that transformers itself refuses are told and count as skipped."""
import argparse, json, math, os, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.realpath(os.path.join(HERE, "..", ".."))
sys.path[:0] = [os.path.join(ROOT, "tests", "api"), os.path.join(ROOT, "bench", "peers")]
import goldens, peers_setup, test_media
from server import SHARED, Skip

# What the modules of these names make.
SIZES = ["llama", "qwen2", "qwen3", "qwen3_moe", "mistral", "phi3", "phi3_longrope", "gemma3_text", "gemma3_text_linear", "gpt_oss", "deepseek_v3", "kimi_k2",
         "llama4_scout", "llama4_maverick", "llama4_guard", "qwen2_5_vl", "qwen3_omni", "gemma3_mm"]
KINDS = {"sizes": SIZES, "stored": ["awq", "gptq", "packed", "fp8", "fp8_dynamic", "fp8_block", "int8", "nvfp4", "mxfp4"],
         "media": ["qwen2_5_vl", "qwen3_omni", "gemma3_mm", "llama4_scout", "llama4_maverick", "llama4_guard"]}

def environment():
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "systolic", "peers")
    s = peers_setup.Setup(cache, os.cpu_count() or 1, 40)
    if not s.step("torch", lambda: s.python("torch"), 5.8, s.make_torch): sys.exit(f"no environment: {s.skipped['torch']}")
    python, more = s.python("torch"), os.path.join(cache, "torchvision")
    if not os.path.isdir(os.path.join(more, "torchvision")):
        s.sh("torch", [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--target", more, "torchvision==0.29.2", "pillow"])
    return python, dict(os.environ, PYTHONPATH=more, PYTHONWARNINGS="ignore")

def compare(d, kind, devices):
    """What is off most, and the tolerance."""
    if kind == "media":
        m = test_media.Model(d)
        with open(os.path.join(d, "prompts.json")) as f: prompts = json.load(f)
        media = {"a": m.image("a"), "b": m.image("b"), "s": m.audio() if "audio" in m.family else None}
        with m.serve() as s: return max(test_media.check_prompt(m, s, p, [media[k] for k in kinds])[2] for p, kinds in prompts.items())
    with open(os.path.join(d, "golden.json")) as f: atol = json.load(f)["suggested_atol"]
    t = goldens.tensors(os.path.join(d, "golden.safetensors"))
    flags = ["--max-num-batched-tokens", "16", "--max-num-seqs", "4"] if devices else []
    with goldens.serve(d, "--no-quantized-activations", *flags, devices=devices) as s: return goldens.alone(s, t, atol)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seeds", default="0:2", help="FIRST:END")
    ap.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    ap.add_argument("--only", nargs="*", help="names of these models or formats only")
    ap.add_argument("--bin"), ap.add_argument("--plugin")
    ap.add_argument("--keep", help="leave the checkpoints in this folder")
    a = ap.parse_args()
    first, end = map(int, a.seeds.split(":"))
    if not os.path.isdir(os.path.join(SHARED, "goldens")): sys.exit("transformers: 0 passed, 0 failed, 1 skipped (no ../shared)")
    python, env = environment()
    passed = failed = skipped = 0
    worst = {}
    with tempfile.TemporaryDirectory() as tmp:
        out = os.path.abspath(a.keep or tmp)
        for kind in a.kinds:
            for name in [n for n in KINDS[kind] if not a.only or n in a.only]:
                seeds = [str(s) for s in range(first, end)]
                subprocess.run([python, os.path.join(HERE, "make.py"), os.path.join(SHARED, "goldens"), out, kind] + [x for s in seeds for x in (name, s)], env=env, check=True,
                               stderr=subprocess.DEVNULL)
                for s in seeds:
                    d = os.path.join(out, f"{kind}-{name}-{s}")
                    if not os.path.exists(os.path.join(d, "made")):
                        skipped += 1
                        with open(os.path.join(d, "failed")) as f: print(f"  skipped: {kind} {name} {s}: transformers: {f.read()[:200]}", flush=True)
                        continue
                    try:
                        error = compare(d, kind, int(bool(a.plugin)))
                        passed += 1
                        worst[kind] = max(worst.get(kind, 0), error)
                        print(f"ok   {kind} {name} {s}: off by at most {error:.1e}", flush=True)
                    except Exception as e:
                        failed += 1
                        print(f"FAIL {kind} {name} {s}: {type(e).__name__}: {str(e)[-600:]}", flush=True)
    print("worst differences of logprobs: " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))
    print(f"transformers: {passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed != 0)

if __name__ == "__main__": main()
