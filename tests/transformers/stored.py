"""Quantised checkpoints in sizes that nobody chose: weights at random in each format on disk, and transformers' logits with what they stand for in float32."""
import json, os, torch, transformers
from safetensors.torch import load_file, save_file
from sizes import kimi_as_deepseek, new_model, text, write_golden, write_json

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
def e4m3(x): return x.clamp(-448, 448).to(torch.float8_e4m3fn)

def words(n, order=range(8)):
    """[..., 8 k] nibbles to [..., k] int32: nibble i of a word is number order[i] of its eight."""
    n = n.long().reshape(*n.shape[:-1], -1, 8)
    w = sum(n[..., o] << 4 * i for i, o in enumerate(order))
    return torch.where(w >= 1 << 31, w - (1 << 32), w).to(torch.int32)

def codes(w, group, symmetric):
    """w [out, in] as nibbles 0..15 with [out, groups] scales (as given, f32) and zeros; int(in / group) whole groups."""
    g = w.reshape(w.shape[0], -1, group)
    if symmetric:
        scale, zero = g.abs().amax(-1) / 7, torch.full(g.shape[:2], 8)
    else:
        low, high = g.amin(-1).clamp(max=0), g.amax(-1).clamp(min=0)
        scale = (high - low) / 15
        zero = (-low / scale).round().clamp(0, 15).long()
    return scale, zero

def nibbles(w, group, scale, zero):
    s, z = scale.repeat_interleave(group, 1), zero.repeat_interleave(group, 1)
    q = ((w / s).round() + z).clamp(0, 15)
    return q.long(), (q - z) * s

def awq(w, o):
    scale, zero = codes(w, o["group"], False)
    scale = scale.half().float()
    q, real = nibbles(w, o["group"], scale, zero)
    return {"qweight": words(q.T, AWQ_ORDER), "qzeros": words(zero.T, AWQ_ORDER), "scales": scale.T.half()}, real

def gptq(w, o):
    group = o["group"] if o["group"] > 0 else w.shape[1]
    by = torch.randperm(w.shape[1]) if o["desc_act"] else torch.arange(w.shape[1])     # columns of the groups in turn
    scale, zero = codes(w[:, by], group, o["sym"])
    scale = scale.half().float()
    q, real = nibbles(w[:, by], group, scale, zero)
    back = by.argsort()
    stored = zero - (0 if o["v2"] else 1)
    return {"qweight": words(q[:, back]).T, "qzeros": words((stored & 15).T), "scales": scale.T.half(), "g_idx": (torch.arange(w.shape[1]) // group)[back].int()}, real[:, back]

def packed(w, o):
    group = o["group"] or w.shape[1]
    by = torch.randperm(w.shape[1]) if o["order"] else torch.arange(w.shape[1])
    scale, zero = codes(w[:, by], group, o["sym"])
    scale = scale.bfloat16().float()
    q, real = nibbles(w[:, by], group, scale, zero)
    back = by.argsort()
    t = {"weight_packed": words(q[:, back]), "weight_scale": scale.bfloat16(), "weight_shape": torch.tensor(w.shape, dtype=o["shape_type"])}
    if not o["sym"]: t["weight_zero_point"] = words(zero.T).T
    if o["order"]: t["weight_g_idx"] = (torch.arange(w.shape[1]) // group)[back].int()
    return t, real[:, back]

def fp8(w, o):
    amax = w.abs().amax(1, keepdim=True) if o["channel"] else w.abs().amax().reshape(1)
    scale = (amax / 448).to(o["scale_type"])
    q = e4m3(w / scale.float())
    return {"weight": q, "weight_scale": scale}, q.float() * scale.float()

def fp8_blocks(w, o):
    spread = lambda s: s.repeat_interleave(128, 0).repeat_interleave(128, 1)[:w.shape[0], :w.shape[1]]
    whole = torch.nn.functional.pad(w, (0, -w.shape[1] % 128, 0, -w.shape[0] % 128))
    scale = whole.reshape(whole.shape[0] // 128, 128, -1, 128).abs().amax((1, 3)) / 448
    q = e4m3(w / spread(scale))
    return {"weight": q, "weight_scale_inv": scale}, q.float() * spread(scale)

def int8(w, o):
    scale = (w.abs().amax(1, keepdim=True) / 127).bfloat16()
    q = (w / scale.float()).round().clamp(-128, 127)
    return {"weight": q.to(torch.int8), "weight_scale": scale}, q * scale.float()

def e2m1(x):
    """Codes of the nearest numbers."""
    return (x.abs().unsqueeze(-1) - E2M1).abs().argmin(-1) + 8 * (x < 0)

def e2m1_value(c): return E2M1[c & 7] * torch.where(c >= 8, -1.0, 1.0)
def bytes_of(c): return (c[..., 0::2] | c[..., 1::2] << 4).to(torch.uint8)

def nvfp4(w, o):
    of_all = 448 * 6 / w.abs().max()
    scale = e4m3(w.reshape(w.shape[0], -1, 16).abs().amax(-1) / 6 * of_all).float()
    s = (scale / of_all).repeat_interleave(16, 1)
    c = e2m1(w / s)
    return {"weight_packed": bytes_of(c), "weight_scale": e4m3(scale), "weight_global_scale": of_all.reshape(1)}, e2m1_value(c) * s

def mxfp4(w, o):
    exponent = torch.floor(torch.log2(w.reshape(w.shape[0], -1, 32).abs().amax(-1))) - 2
    s = torch.exp2(exponent).repeat_interleave(32, 1)
    c = e2m1(w / s)
    return {"weight_packed": bytes_of(c), "weight_scale": (exponent + 127).to(torch.uint8)}, e2m1_value(c) * s

def group(**weights): return {"config_groups": {"group_0": {"targets": ["Linear"], "input_activations": None, "output_activations": None, "weights": weights}},
                              "quant_method": "compressed-tensors", "quantization_status": "compressed", "kv_cache_scheme": None}

def choice(fmt, r):
    """(function, options, quantization_config) of a format; inputs of a linear are multiples of options["unit"]."""
    g = r.choice([32, 64, 128])
    if fmt == "awq": return awq, {"group": g, "unit": g}, {"quant_method": "awq", "bits": 4, "group_size": g, "zero_point": True, "version": "gemm", "modules_to_not_convert": None}
    if fmt == "gptq":
        o = {"group": r.choice([-1, 32, 64, 128]), "sym": r.random() < 0.5, "desc_act": r.random() < 0.5, "v2": r.random() < 0.3}
        if o["group"] < 0: o["desc_act"] = False
        return gptq, dict(o, unit=max(o["group"], 32)), {"quant_method": "gptq", "bits": 4, "group_size": o["group"], "sym": o["sym"], "desc_act": o["desc_act"], "checkpoint_format": "gptq_v2" if o["v2"] else "gptq"}
    if fmt == "packed":
        o = {"group": r.choice([None, 32, 64, 128]), "sym": r.random() < 0.5, "shape_type": r.choice([torch.int32, torch.int64])}
        o["order"] = bool(o["group"]) and r.random() < 0.3
        w = group(num_bits=4, type="int", symmetric=o["sym"], strategy="group" if o["group"] else "channel", group_size=o["group"], dynamic=False, actorder="group" if o["order"] else None)
        return packed, dict(o, unit=o["group"] or 32), dict(w, format="pack-quantized")
    if fmt in ("fp8", "fp8_dynamic"):
        o = {"channel": fmt == "fp8_dynamic" or r.random() < 0.5, "scale_type": r.choice([torch.float32, torch.bfloat16]), "unit": 8}
        w = group(num_bits=8, type="float", symmetric=True, strategy="channel" if o["channel"] else "tensor", group_size=None, dynamic=False)
        if fmt == "fp8_dynamic": w["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
        return fp8, o, dict(w, format="float-quantized")
    if fmt == "fp8_block": return fp8_blocks, {"unit": 8}, {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}
    if fmt == "int8":
        w = group(num_bits=8, type="int", symmetric=True, strategy="channel", group_size=None, dynamic=False)
        w["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
        return int8, {"unit": 8}, dict(w, format="int-quantized")
    if fmt == "nvfp4": return nvfp4, {"unit": 16}, dict(group(num_bits=4, type="float", symmetric=True, strategy="tensor_group", group_size=16, dynamic=False), format="nvfp4-pack-quantized")
    return mxfp4, {"unit": 32}, dict(group(num_bits=4, type="float", symmetric=True, strategy="group", group_size=32, dynamic=False), format="mxfp4-pack-quantized")

BASES = {"awq": ["llama", "qwen3"], "gptq": ["llama", "qwen3", "qwen2"], "packed": ["llama", "qwen3", "kimi_k2"], "fp8_block": ["llama", "qwen3", "qwen3_moe", "deepseek_v3"]}

def sizes(c, unit, r):
    """Widths that all linears' inputs are multiples of, by the format."""
    t = text(c)
    some = lambda *of: unit * r.choice(of) if unit >= 32 else unit * r.choice([10, 13, 17, 21, 30])
    t.update(hidden_size=some(2, 3, 5), intermediate_size=some(3, 4, 7), num_hidden_layers=r.choice([2, 3]))
    if "kv_lora_rank" in t:
        t.update(q_lora_rank=some(1, 2), kv_lora_rank=some(1, 2), num_attention_heads=r.choice([4, 8]), v_head_dim=unit if unit >= 32 else 16, moe_intermediate_size=some(1, 3), first_k_dense_replace=1)
        t["num_key_value_heads"] = t["num_attention_heads"]
    else:
        t.update(num_attention_heads=4, num_key_value_heads=2, head_dim=max(32, unit // 4 if unit >= 32 else 40))
        if "moe_intermediate_size" in t: t["moe_intermediate_size"] = some(1, 3)
    if t.get("layer_types"): t["layer_types"] = [t["layer_types"][i % len(t["layer_types"])] for i in range(t["num_hidden_layers"])]
    if "max_window_layers" in t: t["max_window_layers"] = t["num_hidden_layers"]
    return c

def is_quantised(name, w, ignored):
    return name.endswith(("_proj.weight", "_proj_with_mqa.weight")) and w.dim() == 2 and not any(i in name for i in ignored)

def make(d, fmt, bases, r):
    """bases: name -> config.json of a golden."""
    name = r.choice(BASES.get(fmt, ["llama", "qwen3", "qwen3_moe"]))
    convert, options, quantization = choice(fmt, r)
    c = sizes(json.loads(json.dumps(bases[name])), options["unit"], r)
    c.pop("quantization_config", None)
    new_model(d, c)
    path = os.path.join(d, "model.safetensors")
    weights, stored = load_file(path), {}
    ignored = r.choice([[], ["down_proj"]]) if fmt in ("packed", "fp8", "int8", "nvfp4", "mxfp4") else []
    if "ignore" not in quantization and quantization["quant_method"] == "compressed-tensors": quantization["ignore"] = ["lm_head"] + [f"re:.*{i}" for i in ignored] + ["re:.*mlp.gate$"]
    if quantization["quant_method"] == "fp8": quantization["modules_to_not_convert"] = ["lm_head"] + [n[:-len(".weight")] for n in weights if n.endswith("mlp.gate.weight")]
    for n, w in sorted(weights.items()):
        if not is_quantised(n, w, ignored):
            stored[n] = w
            continue
        parts, real = convert(w, options)
        weights[n] = real.contiguous()
        stored.update({n[:-len("weight")] + k: v.contiguous() for k, v in parts.items()})
    save_file(weights, path, {"format": "pt"})
    write_json(d, "config.json", kimi_as_deepseek(c))
    m = transformers.AutoModelForCausalLM.from_pretrained(d, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    write_golden(d, m, text(c)["vocab_size"], r)
    save_file(stored, path, {"format": "pt"})
    write_json(d, "config.json", dict(c, quantization_config=quantization))
