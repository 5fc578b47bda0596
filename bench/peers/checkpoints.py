#!/usr/bin/env python3
"""One random model in the formats of all engines: a Hugging Face checkpoint (bfloat16) and GGUF (BF16, F16 or Q8_0). Both are made from the
same numbers, so neither has to be on the disk for the other to be made. Runs in the OpenVINO environment, which has numpy.

    checkpoints.py hf   CONFIG_DIR TOKENIZER_DIR OUT_DIR
    checkpoints.py gguf CONFIG_DIR TOKENIZER_DIR OUT_FILE bf16|f16|q8_0 GGUF_PY

Weights are normal with a deviation of 0.02, norms are 1. Numbers come from one block of 2^24 that repeats with another start for each
tensor: engines only see other addresses, and a billion random numbers are not worth a minute. GGUF follows llama.cpp's conversion: q and k of
`llama` are reordered for its rotation of neighbouring pairs, and the frequencies of Llama 3 become a tensor."""
import json, math, os, sys, zlib
import numpy as np

BLOCK = 1 << 24


def to_bf16(x):
    return ((x.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


class Source:
    """Tensors by their Hugging Face names. Values are float32 that are exact in bfloat16."""

    def __init__(self, config):
        self.c = config
        self.block = (to_bf16((np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32) * np.float32(0.02))).astype(np.uint32) << 16).view(np.float32)

    def names(self):
        c = self.c
        d, n_layers = c["hidden_size"], c["num_hidden_layers"]
        h = c.get("head_dim") or d // c["num_attention_heads"]
        q, kv = c["num_attention_heads"] * h, c["num_key_value_heads"] * h
        yield "model.embed_tokens.weight", (c["vocab_size"], d)
        for i in range(n_layers):
            p = f"model.layers.{i}."
            yield p + "input_layernorm.weight", (d,)
            yield p + "self_attn.q_proj.weight", (q, d)
            yield p + "self_attn.k_proj.weight", (kv, d)
            yield p + "self_attn.v_proj.weight", (kv, d)
            yield p + "self_attn.o_proj.weight", (d, q)
            if c["model_type"].startswith("qwen3"):
                yield p + "self_attn.q_norm.weight", (h,)
                yield p + "self_attn.k_norm.weight", (h,)
            yield p + "post_attention_layernorm.weight", (d,)
            if c.get("num_experts"):
                f = c["moe_intermediate_size"]
                yield p + "mlp.gate.weight", (c["num_experts"], d)
                for e in range(c["num_experts"]):
                    yield p + f"mlp.experts.{e}.gate_proj.weight", (f, d)
                    yield p + f"mlp.experts.{e}.up_proj.weight", (f, d)
                    yield p + f"mlp.experts.{e}.down_proj.weight", (d, f)
            else:
                f = c["intermediate_size"]
                yield p + "mlp.gate_proj.weight", (f, d)
                yield p + "mlp.up_proj.weight", (f, d)
                yield p + "mlp.down_proj.weight", (d, f)
        yield "model.norm.weight", (d,)
        if not c.get("tie_word_embeddings"):
            yield "lm_head.weight", (c["vocab_size"], d)

    def tensor(self, name, shape):
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        n = math.prod(shape)
        start = zlib.crc32(name.encode()) % BLOCK
        reps = (start + n + BLOCK - 1) // BLOCK
        flat = self.block if reps == 1 else np.tile(self.block, reps)
        return flat[start:start + n].reshape(shape)


def progress(done, total, what):
    print(f"{what}: {100 * done // total}%", file=sys.stderr, flush=True)


def copy_tokenizer(src, out):
    for f in ("tokenizer.json", "tokenizer_config.json"):
        if os.path.exists(os.path.join(src, f)):
            with open(os.path.join(src, f), "rb") as a, open(os.path.join(out, f), "wb") as b:
                b.write(a.read())


def write_hf(config, tok_dir, out):
    os.makedirs(out, exist_ok=True)
    src = Source(config)
    names = list(src.names())
    header, at = {}, 0
    for name, shape in names:
        n = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path = os.path.join(out, "model.safetensors")
    with open(path + ".part", "wb") as f:
        f.write(len(head).to_bytes(8, "little"))
        f.write(head)
        for name, shape in names:
            to_bf16(src.tensor(name, shape)).tofile(f)
            progress(f.tell() - 8 - len(head), at, "checkpoint")
    copy_tokenizer(tok_dir, out)
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    os.rename(path + ".part", path)


GGUF_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
}


def gguf_name(name):
    """HF name to llama.cpp's; experts, which llama.cpp stacks, give None."""
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in top:
        return top[name]
    _, _, layer, rest = name.split(".", 3)
    rest = rest[:-len(".weight")]
    return f"blk.{layer}.{GGUF_NAMES[rest]}.weight" if rest in GGUF_NAMES else None


def swap_rotation(w, n_heads):
    """Halves of a head become neighbouring pairs, which is how llama.cpp rotates `llama`."""
    return np.ascontiguousarray(w.reshape(n_heads, 2, w.shape[0] // n_heads // 2, w.shape[1]).swapaxes(1, 2)).reshape(w.shape)


def llama3_factors(c):
    s, h = c["rope_scaling"], c["head_dim"]
    freqs = 1.0 / (c["rope_theta"] ** (np.arange(0, h, 2, dtype=np.float64) / h))
    low, high, old = s["low_freq_factor"], s["high_freq_factor"], s["original_max_position_embeddings"]
    out = []
    for f in freqs:
        wave = 2 * math.pi / f
        smooth = (old / wave - low) / (high - low)
        out.append(1.0 if wave < old / high else s["factor"] if wave > old / low else 1.0 / ((1 - smooth) / s["factor"] + smooth))
    return np.array(out, dtype=np.float32)


def write_vocab(w, gguf, config, tok_dir):
    t = json.load(open(os.path.join(tok_dir, "tokenizer.json"), encoding="utf-8"))
    n = config["vocab_size"]
    tokens, types = [f"[PAD{i}]" for i in range(n)], [gguf.TokenType.UNUSED] * n
    for text, i in t["model"]["vocab"].items():
        tokens[i], types[i] = text, gguf.TokenType.NORMAL
    for a in t["added_tokens"]:
        tokens[a["id"]], types[a["id"]] = a["content"], gguf.TokenType.CONTROL if a["special"] else gguf.TokenType.USER_DEFINED
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("llama-bpe" if config["model_type"] == "llama" else "qwen2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in t["model"]["merges"]])
    eos = config["eos_token_id"]
    w.add_bos_token_id(config["bos_token_id"])
    w.add_eos_token_id(eos[0] if isinstance(eos, list) else eos)
    w.add_add_bos_token(config["model_type"] == "llama")


def write_hparams(w, c):
    h = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(h)
    w.add_value_length(h)
    w.add_rope_freq_base(float(c["rope_theta"]))
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_vocab_size(c["vocab_size"])
    if c["model_type"] == "llama":
        w.add_rope_dimension_count(h)
    if c.get("num_experts"):
        w.add_expert_count(c["num_experts"])
        w.add_expert_used_count(c["num_experts_per_tok"])
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])


def write_gguf(config, tok_dir, out, kind, gguf_py):
    sys.path.insert(0, gguf_py)
    import gguf
    w = gguf.GGUFWriter(out + ".part", {"llama": "llama", "qwen3": "qwen3", "qwen3_moe": "qwen3moe"}[config["model_type"]])
    w.add_type("model")
    w.add_name("random " + config["model_type"])
    w.add_file_type(gguf.LlamaFileType["MOSTLY_" + kind.upper()])
    write_hparams(w, config)
    write_vocab(w, gguf, config, tok_dir)
    src = Source(config)
    shapes = dict(src.names())

    def add(name, x):
        # The router stays in float32 there, as norms do.
        if x.ndim == 1 or name.endswith("ffn_gate_inp.weight"):
            w.add_tensor(name, np.ascontiguousarray(x, np.float32))
        elif kind == "f16":
            w.add_tensor(name, x.astype(np.float16))
        elif kind == "q8_0":
            w.add_tensor(name, gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            w.add_tensor(name, to_bf16(x).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)

    if (config.get("rope_scaling") or {}).get("rope_type") == "llama3":
        add("rope_freqs.weight", llama3_factors(config))
    for n, (name, shape) in enumerate(shapes.items()):
        progress(n, len(shapes), "GGUF " + kind)
        to = gguf_name(name)
        if to:
            x = src.tensor(name, shape)
            if config["model_type"] == "llama" and ("q_proj" in name or "k_proj" in name):
                x = swap_rotation(x, config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])
            add(to, x)
    for i in range(config["num_hidden_layers"] if config.get("num_experts") else 0):
        for part in ("gate", "up", "down"):
            names = [f"model.layers.{i}.mlp.experts.{e}.{part}_proj.weight" for e in range(config["num_experts"])]
            add(f"blk.{i}.ffn_{part}_exps.weight", np.stack([src.tensor(n, shapes[n]) for n in names]))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file(progress=False)
    w.close()
    os.rename(out + ".part", out)


def main():
    what, config_dir, tok_dir, out = sys.argv[1:5]
    config = json.load(open(os.path.join(config_dir, "config.json")))
    if what == "hf":
        write_hf(config, tok_dir, out)
    else:
        write_gguf(config, tok_dir, out, *sys.argv[5:7])


if __name__ == "__main__":
    main()
