#!/usr/bin/env python3
"""Models served through StableHLO and PJRT (XLA:CPU, `make pjrt-cpu`) against the goldens and against the CPU device (standard library only).

    test_pjrt.py [--bin build/systolic] [--plugin build/pjrt/libpjrt_cpu.so]
"""
import json, math, os, re, struct, subprocess, sys, tempfile, threading

from server import ROOT, SHARED, Server, Skip, binary, run as main

TESTS = []
def test(f):
    TESTS.append(f)
    return f

def plugin():
    if "--plugin" in sys.argv: path = os.path.abspath(sys.argv[sys.argv.index("--plugin") + 1])
    else: path = os.environ.get("SYSTOLIC_PJRT_CPU", os.path.join(ROOT, "build", "pjrt", "libpjrt_cpu.so"))
    if not os.path.exists(path): raise Skip("no XLA:CPU plugin (make pjrt-cpu)")
    return path

CACHE = os.path.join(ROOT, "build", "pjrt", "programs")

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

def serve(model, *args, devices=1, tp=1):
    os.makedirs(CACHE, exist_ok=True)
    spec = f"pjrt:{plugin()}?cpu_device_count={devices}"
    return Server(model, "--served-model-name", "m", "--skip-tokenizer-init", "--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "8",
                  "--max-num-batched-tokens", "48", "--max-logprobs", "-1", "--device", spec, "--program-cache", CACHE, "--tensor-parallel-size", str(tp),
                  *args, env={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}, wait=300)

def complete(s, prompt, max_tokens=24, **kw):
    body = dict({"model": "m", "prompt": list(prompt), "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True, "detokenize": False}, **kw)
    st, r = s.post("/v1/completions", body, timeout=300)
    assert st == 200, r
    return r

def ids(r): return r["choices"][0]["token_ids"]

def together(jobs):
    """Runs all at once; results in order."""
    out, bad = [None] * len(jobs), []
    def go(i):
        try: out[i] = jobs[i]()
        except BaseException as e: bad.append(e)
    threads = [threading.Thread(target=go, args=(i,)) for i in range(len(jobs))]
    for t in threads: t.start()
    for t in threads: t.join()
    if bad: raise bad[0]
    return out

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

def check_golden(name, **kw):
    d, t, atol = golden(name)
    long, short = t["long.input_ids"][0], t["short.input_ids"][0]
    with serve(d, **kw) as s:
        # Alone: the prompt in chunks of 48 tokens, all logits.
        r = complete(s, long, prompt_logprobs=-1)
        same_greedy(ids(r), t, "long", atol)
        worst = logprob_error(r, t, "long")
        assert worst <= atol, f"{name}: logprobs differ by {worst}, tolerance {atol}"
        # In company, with prefix hits, and with rows of their own kinds of sampling beside them.
        jobs = [lambda p=p, kw=kw: complete(s, p, **kw) for p, kw in [
            (long, {}), (short, {}), (long[:70], {"temperature": 1.0, "seed": 3, "top_k": 20}), (short, {"logprobs": 5}), (long, {}),
            (short, {"temperature": 0.7, "seed": 5, "top_p": 0.9, "presence_penalty": 0.5}), (long, {"logit_bias": {"3": -0.0}}), (short, {})]]
        out = together(jobs)
        for i in (0, 4, 6): same_greedy(ids(out[i]), t, "long", atol)
        for i in (1, 3, 7): same_greedy(ids(out[i]), t, "short", atol)
        assert s.metric("vllm:prefix_cache_hits_total") > 0
        return worst

DENSE = ["llama", "mistral", "phi3_longrope", "qwen2", "qwen3_yarn"]
MORE = ["llama_bf16", "llama_hd128", "llama_plainrope_bias", "llama_tied", "phi3", "qwen3", "qwen3_moe", "qwen3_moe_sparse", "qwen3_tied"]   # only where ../shared is

def check_all(names, **kw):
    for n in names: print(f"    {n}: worst logprob error {check_golden(n, **kw):.1e}", flush=True)

@test
def dense_goldens(): check_all(DENSE)

@test
def more_dense_goldens():
    have = [n for n in MORE if os.path.isdir(os.path.join(SHARED, "goldens", n))]
    if not have: raise Skip("no ../shared")
    if not os.environ.get("SYSTOLIC_TEST_ALL"): have = have[:2]
    check_all(have)

# Families that differ in more than their sizes: norms, windows, chunks, sinks, experts, ropes.
FAMILIES = ["gemma3_text_linear", "gpt_oss_clamp", "llama4_maverick", "qwen3_omni", "llama4_scout", "gemma3_mm", "gpt_oss", "gpt_oss_hd64", "llama4_guard",
            "qwen2_5_vl", "qwen3_moe", "gemma3_text"]

def families():
    have = [n for n in FAMILIES if os.path.isdir(os.path.join(SHARED, "goldens", n))]
    if not have: raise Skip("no ../shared")
    return have if os.environ.get("SYSTOLIC_TEST_ALL") else have[:4]

@test
def other_families(): check_all(families())

@test
def other_families_on_two_devices(): check_all(families() if os.environ.get("SYSTOLIC_TEST_ALL") else families()[1:3], devices=2, tp=2)

@test
def two_devices(): check_all(["llama", "qwen2"], devices=2, tp=2)

@test
def four_devices_share_kv_heads(): check_all(["llama", "qwen3_yarn"], devices=4, tp=4)   # two KV heads: each is on two devices

@test
def sequence_parallel():
    d, t, atol = golden("llama")
    with serve(d, "--compilation-config", '{"pass_config": {"enable_sequence_parallelism": true}}', devices=2, tp=2) as s:
        same_greedy(ids(complete(s, t["long.input_ids"][0])), t, "long", atol)

@test
def sampling_agrees_with_the_cpu_device():
    d, t, _ = golden("llama")
    short = t["short.input_ids"][0]
    kinds = [{"temperature": 1.0}, {"temperature": 0.8, "top_k": 10}, {"temperature": 1.2, "top_p": 0.8}, {"temperature": 1.0, "min_p": 0.05},
             {"temperature": 0.9, "frequency_penalty": 0.8, "presence_penalty": 0.4}, {"temperature": 1.0, "repetition_penalty": 1.3},
             {"temperature": 0, "logit_bias": {"7": 50}}, {"temperature": 0, "frequency_penalty": 1.5}, {"temperature": 1.0, "allowed_token_ids": [5, 6, 7, 8]},
             {"temperature": 0, "min_tokens": 24, "ignore_eos": False, "stop_token_ids": list(range(300))}, {"temperature": 1.0, "logprobs": 3}]
    jobs = [(k, seed) for k in kinds for seed in (1, 2)]
    def all_of(s): return together([lambda k=k, seed=seed: ids(complete(s, short, seed=seed, **k)) for k, seed in jobs])
    with serve(d) as s: got = all_of(s)
    with Server(d, "--served-model-name", "m", "--skip-tokenizer-init", "--dtype", "float32", "--max-model-len", "256", "--max-logprobs", "-1") as s: want = all_of(s)
    same = sum(a == b for a, b in zip(got, want))
    print(f"    {same} of {len(jobs)} sampled continuations equal", flush=True)
    assert same >= len(jobs) - 2, [(j, a, b) for j, a, b in zip(jobs, got, want) if a != b]

@test
def a_warm_cache_compiles_nothing():
    d, t, atol = golden("llama")
    with serve(d) as s: pass
    with serve(d) as s:
        line = re.search(r"programs ready.*", s.log_text()).group()
        assert ": 0 compiled" in line, line
        same_greedy(ids(complete(s, t["short.input_ids"][0])), t, "short", atol)

@test
def shipped_programs():
    """What `systolic compile` made from config.json alone is what serve runs; programs for other devices are named as such."""
    d, t, atol = golden("llama")
    flags = ["--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "4", "--max-num-batched-tokens", "32"]
    def ship(out, target):
        p = subprocess.run([binary(), "compile", os.path.join(d, "config.json"), "--plugin", plugin(), "--target", target, "--out", out, "--json", *flags],
                           capture_output=True, text=True, timeout=300)
        assert p.returncode == 0, p.stderr[-500:]
        return json.loads(p.stdout)
    def start(out): return Server(d, "--served-model-name", "m", "--skip-tokenizer-init", "--device", f"pjrt:{plugin()}", "--program-cache", out, *flags, wait=300)
    with tempfile.TemporaryDirectory() as out:
        report = ship(out, "cpu:1")
        assert all(p["compile_s"] > 0 and p["temp_bytes"] >= 0 and not p["copies_cache"] for p in report["programs"]), report
        assert all(p["cached"] for p in ship(out, "cpu:1")["programs"])
        with start(out) as s:
            assert ": 0 compiled" in s.log_text() and "WARNING" not in s.log_text(), s.log_text()
            same_greedy(ids(complete(s, t["short.input_ids"][0])), t, "short", atol)
    with tempfile.TemporaryDirectory() as out:
        ship(out, "cpu:2")
        with start(out) as s: assert "were compiled for cpu:2" in s.log_text() and "compiling anew" in s.log_text(), s.log_text()

@test
def lazy_compilation():
    d, t, atol = golden("llama")
    with tempfile.TemporaryDirectory() as cache:
        with serve(d, "--program-cache", cache, "--lazy-compile") as s:
            assert os.listdir(cache) == [] or "programs ready" not in s.log_text()
            same_greedy(ids(complete(s, t["short.input_ids"][0])), t, "short", atol)
            assert "programs ready" not in s.log_text()

def refuses(text, device, *args, env=None):
    d, _, _ = golden("llama")
    p = subprocess.run([binary(), "serve", d, "--skip-tokenizer-init", "--max-model-len", "256", "--device", device, *args], capture_output=True, text=True, timeout=120,
                       env=dict(os.environ, **(env or {})))
    last = p.stderr.strip().splitlines()[-1] if p.stderr.strip() else ""
    assert p.returncode == 1 and last.startswith("systolic serve: error: ") and text in last, (p.returncode, last)

@test
def errors_are_one_clear_line():
    refuses("No such file or directory", "pjrt:/nowhere/plugin.so")
    refuses("Makefile", "pjrt:" + os.path.join(ROOT, "Makefile"))
    refuses("unknown device 'gpu'; devices: cpu, tpu, cuda, pjrt", "gpu")
    refuses("takes nothing after the colon", "tpu:1")
    refuses("the model is cut for 2 devices", f"pjrt:{plugin()}?cpu_device_count=1", "--tensor-parallel-size", "2")
    refuses("must be divisible by tensor parallel size (3)", f"pjrt:{plugin()}?cpu_device_count=4", "--tensor-parallel-size", "3")
    refuses("tensor parallel", "cpu", "--tensor-parallel-size", "2")

main(TESTS)
