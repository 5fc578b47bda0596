#!/usr/bin/env python3
"""Models served through StableHLO and PJRT (XLA:CPU, `make pjrt-cpu`) against the goldens and against the CPU device (standard library only).

    test_pjrt.py [--bin build/systolic] [--plugin build/pjrt/libpjrt_cpu.so]
"""
import json, math, os, re, subprocess, sys, tempfile, threading, time

import goldens
from goldens import ALL, alone, complete, golden, ids, plugin, report, same_greedy, way_of
from server import ROOT, SHARED, Server, Skip, binary, run as main

TESTS = []
def test(f):
    TESTS.append(f)
    return f

def serve(model, *args, devices=1, tp=1): return goldens.serve(model, *args, devices=devices, tp=tp)

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

def in_company(s, t, atol, kinds):
    """All at once, with prefix hits, and with rows of other kinds of sampling beside them."""
    long, short = t["long.input_ids"][0], t["short.input_ids"][0]
    jobs = [("long", long, {}), ("short", short, {}), ("long", long, {}), ("short", short, {})]
    if kinds:
        jobs += [(None, long[:70], {"temperature": 1.0, "seed": 3, "top_k": 20}), ("short", short, {"logprobs": 5}),
                 (None, short, {"temperature": 0.7, "seed": 5, "top_p": 0.9, "presence_penalty": 0.5}), ("long", long, {"logit_bias": {"3": -0.0}})]
    out = together([lambda p=p, kw=kw: complete(s, p, **kw) for _, p, kw in jobs])
    for (prompt, _, _), r in zip(jobs, out):
        if prompt: same_greedy(ids(r), t, prompt, atol)
    assert s.metric("vllm:prefix_cache_hits_total") > 0

def check_golden(name, *args, kinds=True, devices=1, **kw):
    d, t, atol = golden(name)
    way, worst, passed = way_of(devices), math.nan, False
    try:
        with serve(d, *args, devices=devices, **kw) as s:
            worst = alone(s, t, atol)
            in_company(s, t, atol, kinds)
        passed = True
        return worst
    except AssertionError as e: raise AssertionError(f"{name}: {e}") from None
    finally: report(name, way, passed, worst, atol)

def check_all(names, *args, **kw):
    for n in names:
        start = time.time()
        print(f"    {n}: worst logprob error {check_golden(n, *args, **kw):.1e} ({time.time() - start:.0f} s)", flush=True)

# Beside the kinds of sampling, which do not depend on the model: two programs of few tokens, which compile fast.
SMALL = ("--max-num-seqs", "4", "--max-num-batched-tokens", "16")
def check_small(names, *args, **kw): check_all(names, *SMALL, *args, kinds=False, **kw)

OURS = ["llama", "mistral", "phi3_longrope", "qwen2", "qwen3_yarn"]     # copies of these are in tests/goldens
# One of each family that differs in more than its sizes: norms, windows, chunks, sinks, experts, latents, ropes.
FAMILIES = ["gemma3_text_linear", "gpt_oss_clamp", "llama4_maverick", "deepseek_v3", "qwen3_moe_sparse", "qwen3_omni", "qwen2_5_vl"]

def others():
    """All directories with a model that has a golden and is not quantised, those above aside."""
    root, out = os.path.join(SHARED, "goldens"), []
    for n in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        files = [os.path.join(root, n, f) for f in ("golden.safetensors", "config.json")]
        if n in OURS + FAMILIES or not all(map(os.path.exists, files)): continue
        c = json.load(open(files[1]))
        if not c.get("quantization_config") and c["architectures"] != ["LlamaForCausalLMEagle3"]: out.append(n)
    return out

def here(names):
    have = [n for n in names if os.path.isdir(os.path.join(SHARED, "goldens", n))]
    if not have: raise Skip("no ../shared")
    return have

@test
def goldens_of_our_own():
    check_all(OURS[:1])
    check_small(OURS[1:])

@test
def families(): check_small(here(FAMILIES))

@test
def all_other_goldens():
    names = here(others())
    if not ALL: raise Skip(f"{len(names)} more with SYSTOLIC_TEST_ALL=1")
    check_all(names)

@test
def families_on_two_devices():
    """Tensor parallel: sinks and biases, latents, experts cut; expert parallel: experts shared out."""
    check_small(here(FAMILIES if ALL else ["gpt_oss_clamp", "deepseek_v3"]), devices=2, tp=2)
    check_small(here(["gpt_oss_clamp", "deepseek_v3", "llama4_maverick", "qwen3_moe_sparse", "qwen3_omni"] if ALL else ["qwen3_moe_sparse"]), "--enable-expert-parallel", devices=2, tp=2)

@test
def two_devices(): check_small(["llama", "qwen2"], devices=2, tp=2)

@test
def four_devices_share_kv_heads(): check_small(["llama", "qwen3_yarn"] if ALL else ["qwen3_yarn"], devices=4, tp=4)   # two KV heads: each is on two devices

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
