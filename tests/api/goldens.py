"""Checkpoints with reference logits, and what a server says against them: shared by the API tests (standard library only)."""
import json, math, os, struct, sys

from server import ROOT, SHARED, Server, Skip

ALL = bool(os.environ.get("SYSTOLIC_TEST_ALL"))
# Most of a test's time is compiling, and LLVM's optimisation is not what is tested; with SYSTOLIC_TEST_ALL programs are as users have them.
QUICK = {} if ALL else {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"}
CACHE = os.path.join(ROOT, "build", "pjrt", "programs" + ("-quick" if QUICK else ""))     # the flag is not in a program's key

def plugin():
    if "--plugin" in sys.argv: path = os.path.abspath(sys.argv[sys.argv.index("--plugin") + 1])
    else: path = os.environ.get("SYSTOLIC_PJRT_CPU", os.path.join(ROOT, "build", "pjrt", "libpjrt_cpu.so"))
    if not os.path.exists(path): raise Skip("no XLA:CPU plugin (make pjrt-cpu)")
    return path

def serve(model, *args, devices=0, tp=1):
    """A server that tells all logprobs; on so many XLA:CPU devices, or on the CPU device."""
    env = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
    if devices:
        os.makedirs(CACHE, exist_ok=True)
        env.update(QUICK)
        args = ("--device", f"pjrt:{plugin()}?cpu_device_count={devices}", "--program-cache", CACHE, "--tensor-parallel-size", str(tp)) + args
    return Server(model, "--served-model-name", "m", "--skip-tokenizer-init", "--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "8",
                  "--max-num-batched-tokens", "48", "--max-logprobs", "-1", *args, env=env, wait=300)

def report(name, way, passed, error, tolerance, note=None):
    """A line for tools/support_models.py, which has the format, if SYSTOLIC_GOLDEN_RESULTS names a file."""
    path = os.environ.get("SYSTOLIC_GOLDEN_RESULTS")
    if not path: return
    line = [name, way, "pass" if passed else "fail", f"{error:.3g}", f"{tolerance:.3g}"] + ([note] if note else [])
    with open(path, "a") as f: f.write("\t".join(line) + "\n")

def way_of(devices): return "cpu" if not devices else "xla:cpu" if devices == 1 else f"xla:cpu x{devices}"

def tensors(path):
    """The tensors of a safetensors file as flat tuples, with their shapes."""
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        head, data = json.loads(f.read(n)), f.read()
    kinds = {"F32": "f", "I32": "i"}
    out = {}
    for name, t in head.items():
        if name == "__metadata__" or t["dtype"] not in kinds: continue
        a, b = t["data_offsets"]
        out[name] = (struct.unpack(f"<{(b - a) // 4}{kinds[t['dtype']]}", data[a:b]), t["shape"])
    return out

def golden(name):
    d = os.path.join(SHARED, "goldens", name)
    if not os.path.isdir(d): d = os.path.join(ROOT, "tests", "goldens", name)
    meta = json.load(open(os.path.join(d, "golden.json")))
    return d, tensors(os.path.join(d, "golden.safetensors")), meta["suggested_atol"]

def complete(s, prompt, max_tokens=24, **kw):
    body = dict({"model": "m", "prompt": list(prompt), "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True, "detokenize": False}, **kw)
    st, r = s.post("/v1/completions", body, timeout=300)
    assert st == 200, r
    return r

def ids(r): return r["choices"][0]["token_ids"]

def same_greedy(got, t, prompt, atol):
    want, margin = t[prompt + ".greedy_ids"][0], t[prompt + ".greedy_margin"][0]
    for i, (a, b) in enumerate(zip(got, want)):
        if a == b: continue
        assert margin[i] <= 2 * atol, f"{prompt}: token {i} is {a}, expected {b} (margin {margin[i]})"
        return
    assert len(got) >= len(want)

def logprob_error(r, t, prompt):
    """Largest difference of any prompt position's logprobs from the golden's."""
    flat, (n, vocab) = t[prompt + ".logits"]
    worst = 0.0
    for i, entry in enumerate(r["choices"][0]["prompt_logprobs"][1:]):
        row = flat[i * vocab:(i + 1) * vocab]
        top = max(row)
        norm = top + math.log(sum(math.exp(x - top) for x in row))
        for token, lp in entry.items():
            worst = max(worst, abs(lp["logprob"] - (row[int(token)] - norm)))
    return worst

def alone(s, t, atol):
    """The long prompt in chunks, with all logits; then the short one."""
    worst = 0.0
    for prompt in ("long", "short"):
        r = complete(s, t[prompt + ".input_ids"][0], prompt_logprobs=-1)
        worst = max(worst, logprob_error(r, t, prompt))
        assert worst <= atol, f"{prompt}: logprobs differ by {worst}, tolerance {atol}"
        same_greedy(ids(r), t, prompt, atol)
    return worst
