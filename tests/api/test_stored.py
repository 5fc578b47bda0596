#!/usr/bin/env python3
"""Quantised checkpoints of every format, served by the CPU device and by XLA:CPU, against the goldens (standard library only).

    test_stored.py [--bin build/systolic] [--plugin build/pjrt/libpjrt_cpu.so]

Formats that leave activations alone: all logprobs and greedy tokens. Those that round them: the share of short probes whose logprobs are
the reference's (one activation rounded otherwise moves all that follow); where the reference has none, their weights alone.
"""
import json, math, os, struct, subprocess, tempfile, time

from goldens import ALL, alone, complete, golden, report, serve, way_of
from server import SHARED, Skip, binary, run as main

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

def rounded(s, d, t):
    """Activations rounded: the probes, and what is off on average in the long prompt. (error, tolerance)"""
    with open(os.path.join(d, "golden.json")) as f: meta = json.load(f)
    # what another order of sums does to the reference, and as much here; the probes tell whether the rounding is right
    allowed = max(2 * meta["sensitivity_actq_rms"], 0.5 * meta["actq_vs_weightonly_rms"])
    share = probes(s, t)
    assert share >= 0.8, f"{share:.3f} of the probes are exact, expected 0.8"
    r = complete(s, t["long.input_ids"][0], max_tokens=1, prompt_logprobs=-1)
    flat, (_, vocab) = t["long.logits_actq"]
    total = count = 0
    for i, entry in enumerate(r["choices"][0]["prompt_logprobs"][1:]):
        row = flat[i * vocab:(i + 1) * vocab]
        top = max(row)
        norm = top + math.log(sum(math.exp(x - top) for x in row))
        for token, lp in entry.items():
            total += (lp["logprob"] - (row[int(token)] - norm)) ** 2
            count += 1
    rms = math.sqrt(total / count)
    assert rms <= allowed, f"off by {rms} (rms), allowed {allowed}"
    return rms, allowed

def config(name):
    with open(os.path.join(golden(name)[0], "config.json")) as f: return json.load(f)["quantization_config"]

def rounds_by_row(name):
    """Scales of activations come from a row, so from the part of it that a rank has. (int-quantized checkpoints do not say that they round.)"""
    q = config(name)
    groups = q.get("config_groups", {}).values()
    return q["quant_method"] == "fp8" or q.get("format") == "int-quantized" or any((g.get("input_activations") or {}).get("dynamic") for g in groups)

def check(name, devices=0, weights=False):
    """weights: with activations as they are, although the format rounds them. The reference's greedy tokens are of this."""
    start = time.time()
    d, t, atol = golden(name)
    rounds = "probe.logits_actq" in t and not weights
    note = "rms, activations rounded" if rounds else "activations not rounded" if rounds_by_row(name) else None
    error = (math.nan, atol)
    flags = ["--max-num-batched-tokens", "16", "--max-num-seqs", "4"] if devices else []
    try:
        with serve(d, *flags, *([] if rounds else ["--no-quantized-activations"]), devices=devices, tp=max(devices, 1)) as s:
            error = rounded(s, d, t) if rounds else (alone(s, t, atol), atol)
    except AssertionError as e:
        if devices: report(name, way_of(devices), False, *error, note)
        raise AssertionError(f"{name}: {e}") from None
    if devices: report(name, way_of(devices), True, *error, note)
    print(f"    {name} on {way_of(devices)}: {note or 'logprobs'} {error[0]:.1e} of {error[1]:.1e} ({time.time() - start:.1f} s)", flush=True)

def one_of_each_format():
    here = stored()
    for n in FORMATS:
        if n in here: check(n)

def all_others():
    names = [n for n in stored() if n not in FORMATS]
    if not ALL: raise Skip(f"{len(names)} more with SYSTOLIC_TEST_ALL=1")
    for n in names: check(n)

def on_xla():
    """Through StableHLO: one of each way to round activations and two that do not. Tokens are of the weights alone."""
    here = stored()
    for n in ("llama_ct_fp8_w8a8", "llama_ct_int8_w8a8") + (("llama_fp8_block",) if ALL else ()): check(n, devices=1, weights=True)
    for n in here if ALL else ["llama_ct_fp8_w8a8", "llama_ct_int8_w8a8", "llama_gptq_g32_asym_actorder", "gpt_oss_mxfp4"]: check(n, devices=1)

CANNOT_CUT = ("leaves parts of groups of", "in an order of its own (act-order)", "columns per device, expected a multiple of")

def on_two_devices():
    """Rows and columns of packed weights, scales and zero points cut in two. Where a row has its own scale of activations each rank rounds
    its part of it by itself, as vLLM's ranks do, so these are compared by their weights."""
    here = stored()
    for n in here if ALL else ["llama_ct_fp8_static", "llama_ct_fp8_w8a16", "llama_nvfp4_w4a16", "gpt_oss_mxfp4"]:
        try: check(n, devices=2, weights=rounds_by_row(n))
        except RuntimeError as e:
            last = str(e).strip().splitlines()[-1]
            assert ALL and any(x in last for x in CANNOT_CUT), last
            print(f"    {n} on two devices: {last}", flush=True)

def narrowed(name, to, width):
    """A checkpoint whose MLPs have only their first `width` columns: sizes that can be cut in whole groups, which the goldens' cannot."""
    d, _, _ = golden(name)
    with open(os.path.join(d, "config.json")) as f: c = json.load(f)
    old, q = c["intermediate_size"], c["quantization_config"]
    c["intermediate_size"] = width
    group = q.get("group_size") or (q.get("weight_block_size") or [None])[0] or next(iter(q["config_groups"].values()))["weights"]["group_size"]
    sizes = {old: width, old // 2: width // 2, old // 8: width // 8, -(-old // group): width // group}
    with open(os.path.join(d, "model.safetensors"), "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        head, data = json.loads(f.read(n)), f.read()
    out = b""
    for name, t in head.items():
        if name == "__metadata__": continue
        raw, shape = data[t["data_offsets"][0]:t["data_offsets"][1]], t["shape"]
        if ".mlp." in name and name.endswith("weight_shape"): raw = struct.pack("<2q", *(sizes.get(x, x) for x in struct.unpack("<2q", raw)))
        elif ".mlp." in name:
            new = [sizes.get(x, x) for x in shape]
            row = len(raw) // shape[0]
            raw = b"".join(raw[i * row:i * row + row // (shape[1] if len(shape) > 1 else 1) * (new[1] if len(shape) > 1 else 1)] for i in range(new[0]))
            t["shape"] = new
        t["data_offsets"] = [len(out), len(out) + len(raw)]
        out += raw
    with open(os.path.join(to, "config.json"), "w") as f: json.dump(c, f)
    text = json.dumps(head).encode()
    with open(os.path.join(to, "model.safetensors"), "wb") as f: f.write(struct.pack("<Q", len(text)) + text + out)

def columns_in_whole_groups():
    """Packed values, scales, zero points and blocks of MLPs cut by columns: two XLA:CPU devices say what the CPU device says."""
    stored()
    cases = [("llama_awq_g32", 320), ("llama_gptq", 256), ("llama_fp8_block", 256), ("llama_ct_w4a16_asym_g128", 256), ("llama_mxfp4_w4a16", 320), ("qwen3_ct_w4a16_asym_g32", 320), ("qwen3_gptq_g32", 320)]
    for name, width in cases if ALL else cases[:2]:
        prompt = golden(name)[1]["long.input_ids"][0][:64]
        got = []
        with tempfile.TemporaryDirectory() as to:
            narrowed(name, to, width)
            for devices in (0, 2):
                with serve(to, "--max-num-batched-tokens", "16", "--max-num-seqs", "4", "--no-quantized-activations", devices=devices, tp=max(devices, 1)) as s:
                    r = complete(s, prompt, max_tokens=1, prompt_logprobs=-1)
                    got.append([{token: lp["logprob"] for token, lp in e.items()} for e in r["choices"][0]["prompt_logprobs"][1:]])
        worst = max(abs(b[token] - x) for a, b in zip(*got) for token, x in a.items())
        flat = max(max(e.values()) - min(e.values()) for e in got[0])
        print(f"    {name} of {width} columns: worst difference {worst:.1e} of logprobs over {flat:.1f}", flush=True)
        assert worst < 1e-3 and flat > 1, (name, worst, flat)

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

def nvfp4_activations():
    """W4A4: a warning, the tensors that only they need are left alone, and the weights are what they are without."""
    stored()
    d, t, atol = golden("llama_nvfp4_w4a16")
    def w4a4(c, q):
        for g in q["config_groups"].values(): g["input_activations"] = dict(num_bits=4, type="float", strategy="tensor_group", dynamic="local", symmetric=True, group_size=16)
    with tempfile.TemporaryDirectory() as to:
        copy_with(d, to, change=w4a4, add={"model.layers.0.self_attn.q_proj.input_global_scale": 3.0})
        with serve(to) as s:
            assert "activations in NVFP4 are not rounded" in s.log_text(), s.log_text()
            alone(s, t, atol)

def scales_of_an_fp8_cache():
    """Read where the cache is fp8, whatever their spelling; refused where they make no sense; of no interest to other caches. What they do to numbers: test_kv_scales."""
    stored()
    k, v = "model.layers.0.self_attn.k_scale", "model.layers.0.self_attn.v_proj.v_scale"
    for bad in (0, -2, math.nan, math.inf):
        refuses("llama_ct_fp8_w8a8", f"tensor {k} is {bad:g}, expected a positive number" if bad == bad else "nan, expected a positive number", "--kv-cache-dtype", "fp8", add={k: bad, v: 0.5})
    refuses("llama_ct_fp8_w8a8", f"tensor {v} has no k_scale beside it", "--kv-cache-dtype", "fp8", add={v: 0.5})
    for flags, scales in ((["--kv-cache-dtype", "fp8"], {k: 2, v: 0.5}), (["--kv-cache-dtype", "fp8"], {k: -1}), ([], {k: 0})):
        with tempfile.TemporaryDirectory() as to:
            copy_with(golden("llama_ct_fp8_w8a8")[0], to, add=scales)
            with serve(to, *flags) as s:
                complete(s, [5, 6, 7], max_tokens=4)

TESTS = [one_of_each_format, all_others, on_xla, on_two_devices, columns_in_whole_groups, hostile_checkpoints, nvfp4_activations, scales_of_an_fp8_cache]
main(TESTS)
