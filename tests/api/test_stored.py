#!/usr/bin/env python3
"""Quantised checkpoints of every format, served by the CPU device, against the goldens (standard library only).

    test_stored.py [--bin build/systolic]

Formats that leave activations alone: all logprobs and greedy tokens. Those that round them: the share of short probes whose logprobs are
the reference's (one activation rounded otherwise moves all that follow); where the reference has none, their weights alone.
"""
import json, math, os, struct, subprocess, tempfile, time

from goldens import alone, complete, golden
from server import SHARED, Server, Skip, binary, run as main

ALL = bool(os.environ.get("SYSTOLIC_TEST_ALL"))
# One of each format.
FORMATS = ["llama_awq", "llama_gptq_g32_asym_actorder", "llama_ct_w4a16_asym_g128", "llama_ct_int8_w8a8", "llama_ct_fp8_static", "llama_fp8_block",
           "llama_nvfp4_w4a16", "llama_mxfp4_w4a16", "qwen3_moe_fp8_block", "gpt_oss_mxfp4", "kimi_k2_int4"]

def stored():
    """All directories with a quantised model."""
    root, out = os.path.join(SHARED, "goldens"), []
    for n in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        files = [os.path.join(root, n, f) for f in ("golden.safetensors", "config.json")]
        if all(map(os.path.exists, files)) and json.load(open(files[1])).get("quantization_config"): out.append(n)
    if not out: raise Skip("no ../shared")
    return out

def serve(d, *args):
    return Server(d, "--served-model-name", "m", "--skip-tokenizer-init", "--dtype", "float32", "--max-model-len", "256", "--max-num-batched-tokens", "48",
                  "--max-logprobs", "-1", *args, env={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"})

def probes(s, t):
    """The share of the probes' positions with the reference's logprobs. The last position of each has none in an answer."""
    prompts, (n, length) = t["probe.input_ids"]
    logits, (_, _, vocab) = t["probe.logits_actq"]
    exact = 0
    for i in range(n):
        r = complete(s, prompts[i * length:(i + 1) * length], max_tokens=1, prompt_logprobs=-1)
        for k, entry in enumerate(r["choices"][0]["prompt_logprobs"][1:]):
            row = logits[(i * length + k) * vocab:(i * length + k + 1) * vocab]
            norm = math.log(sum(math.exp(x) for x in row))
            exact += max(abs(lp["logprob"] - (row[int(token)] - norm)) for token, lp in entry.items()) < 0.01
    return exact / (n * (length - 1))

def check(name):
    start = time.time()
    d, t, atol = golden(name)
    rounds = "probe.logits_actq" in t
    try:
        with serve(d, *([] if rounds else ["--no-quantized-activations"])) as s:
            if rounds:
                share = probes(s, t)
                said = f"{share:.3f} of the probes exact"
                assert share >= 0.8, said
            else: said = f"worst logprob error {alone(s, t, atol):.1e}"
    except AssertionError as e: raise AssertionError(f"{name}: {e}") from None
    print(f"    {name}: {said} ({time.time() - start:.1f} s)", flush=True)

def one_of_each_format():
    here = stored()
    for n in FORMATS:
        if n in here: check(n)

def all_others():
    names = [n for n in stored() if n not in FORMATS]
    if not ALL: raise Skip(f"{len(names)} more with SYSTOLIC_TEST_ALL=1")
    for n in names: check(n)

def copy_with(d, to, change=None, add=None, cut=0):
    """A checkpoint with another configuration, with more float32 numbers in it, or with its last bytes cut off."""
    c = json.load(open(os.path.join(d, "config.json")))
    if change: change(c, c["quantization_config"])
    json.dump(c, open(os.path.join(to, "config.json"), "w"))
    with open(os.path.join(d, "model.safetensors"), "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        head, data = json.loads(f.read(n)), f.read()
    for name, x in (add or {}).items():
        head[name] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
        data += struct.pack("<f", x)
    text = json.dumps(head).encode()
    with open(os.path.join(to, "model.safetensors"), "wb") as f: f.write(struct.pack("<Q", len(text)) + text + data[:len(data) - cut])

def refuses(name, text, *args, **kw):
    with tempfile.TemporaryDirectory() as to:
        copy_with(golden(name)[0], to, **kw)
        p = subprocess.run([binary(), "serve", to, "--skip-tokenizer-init", "--max-model-len", "256", "--port", "0", *args], capture_output=True, text=True, timeout=60)
        last = p.stderr.strip().splitlines()[-1] if p.stderr.strip() else ""
        assert p.returncode == 1 and last.startswith("systolic serve: error: ") and text in last, (p.returncode, last)

def hostile_checkpoints():
    """Configurations that do not say what the tensors are, and files that are cut: one line that names the tensor or the field."""
    stored()
    def put(**kw): return lambda c, q: q.update(kw)
    refuses("llama_awq", "self_attn.q_proj.scales is", change=put(group_size=16))
    refuses("llama_awq", "bits 8 for awq; supported: 4", change=put(bits=8))
    refuses("llama_awq", "the checkpoint lacks 14 tensors: model.layers.0.self_attn.q_proj.weight_packed, ", change=lambda c, q: c.update(quantization_config=json.load(open(os.path.join(golden("llama_ct_w4a16_g32")[0], "config.json")))["quantization_config"]))
    refuses("llama_awq", "q_proj", change=lambda c, q: c.pop("quantization_config"))
    refuses("llama_gptq", "q_proj.scales is", change=put(group_size=16))
    refuses("llama_gptq_g32_asym_actorder", "but the quantization config has no desc_act", change=put(desc_act=False))
    refuses("llama_fp8_block", "weight_scale_inv is", change=put(weight_block_size=[64, 128]))
    refuses("llama_ct_fp8_static", "expected", change=lambda c, q: c.update(intermediate_size=c["intermediate_size"] * 2))
    refuses("llama_nvfp4_w4a16", "model.safetensors", cut=100)

def scales_of_an_fp8_cache():
    """They are read where they would matter: said that they are not used, refused where they make no sense."""
    stored()
    k, v = "model.layers.0.self_attn.k_scale", "model.layers.1.self_attn.v_proj.v_scale"
    for bad in (0, -1, math.nan, math.inf):
        refuses("llama_ct_fp8_w8a8", f"tensor {k} is {bad:g}, expected a positive number" if bad == bad else "nan, expected a positive number", "--kv-cache-dtype", "fp8", add={k: bad, v: 0.5})
    for flags, scale, warns in ((["--kv-cache-dtype", "fp8"], 0.5, True), (["--kv-cache-dtype", "fp8"], 1, False), ([], 0, False)):
        with tempfile.TemporaryDirectory() as to:
            copy_with(golden("llama_ct_fp8_w8a8")[0], to, add={k: 1, v: scale})
            with serve(to, *flags) as s:
                said = f"scales for an fp8 KV cache ({v}, ...)" in s.log_text()
                assert said == warns, s.log_text()
                complete(s, [5, 6, 7], max_tokens=4)

TESTS = [one_of_each_format, all_others, hostile_checkpoints, scales_of_an_fp8_cache]
main(TESTS)
