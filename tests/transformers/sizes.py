"""Checkpoints of every architecture in sizes that nobody chose: a golden's config.json with other heads, widths, layers, experts, windows and ropes,
weights at random, and transformers' logits in float32 (torch and transformers; run.py calls it)."""
import json, os, torch, transformers
from safetensors.torch import save_file

ROPES = [None, {"rope_type": "linear", "factor": 3.0}, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
         {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64}]
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

def text(c): return c.get("text_config") or (c.get("thinker_config") or {}).get("text_config") or c

def latent_sizes(t, r):
    t.update(q_lora_rank=r.choice([None, 20, 44]), kv_lora_rank=r.choice([16, 20, 40, 64]), qk_nope_head_dim=r.choice([8, 16, 24]),
             qk_rope_head_dim=r.choice([4, 8, 16]), v_head_dim=r.choice([8, 12, 24]), hidden_size=r.choice([48, 80, 112]), n_group=r.choice([1, 2, 4]),
             n_routed_experts=4 * r.choice([2, 3, 5]), num_experts_per_tok=r.choice([1, 2, 4]), moe_intermediate_size=r.choice([20, 36, 52]),
             n_shared_experts=r.choice([1, 2]), first_k_dense_replace=r.choice([0, 1, 2]), routed_scaling_factor=r.choice([1.0, 2.0, 2.827]), norm_topk_prob=r.choice([True, False]))
    t["topk_group"] = max(1, t["n_group"] // 2)
    if t["num_experts_per_tok"] > t["n_routed_experts"] // t["n_group"] * t["topk_group"]: t["num_experts_per_tok"] = 1

def head_sizes(c, t, r):
    heads = t["num_attention_heads"]
    if "mrope_section" in json.dumps(t):                            # its sections say the head size
        t["hidden_size"] = 64 if "head_dim" in t else 16 * heads
        if "out_hidden_size" in (c.get("vision_config") or {}): c["vision_config"]["out_hidden_size"] = t["hidden_size"]
    elif "head_dim" in t:
        t["head_dim"], t["hidden_size"] = r.choice([8, 20, 24, 32, 40, 64, 80, 128]), r.choice([48, 80, 112, 144])
        while t["hidden_size"] % heads: t["hidden_size"] += 16      # transformers insists
    else:
        d = r.choice([8, 20, 24, 40, 64])
        t["hidden_size"] = d * heads
        if "short_factor" in (t.get("rope_scaling") or {}):
            t["rope_scaling"].update(short_factor=[1 + 0.05 * i for i in range(d // 2)], long_factor=[1 + 1.3 * i for i in range(d // 2)])

def layer_sizes(t, r, least):
    n = t["num_hidden_layers"] = max(least, r.choice([1, 2, 3, 5, 6]))
    for k in ("layer_types", "no_rope_layers"):
        if t.get(k): t[k] = [t[k][i % len(t[k])] for i in range(n)]
    if t.get("moe_layers"): t["moe_layers"] = [i for i in range(n) if r.random() < 0.6]
    if "max_window_layers" in t: t["max_window_layers"] = n
    if "mlp_only_layers" in t and n > 2: t["mlp_only_layers"] = r.choice([[], [1]])

def expert_sizes(t, r):
    if "moe_intermediate_size" in t: t["moe_intermediate_size"] = r.choice([20, 28, 33, 52])
    if "num_experts" in t: t["num_experts"], t["num_experts_per_tok"] = r.choice([4, 7, 12]), r.choice([1, 2, 4])
    if "num_local_experts" in t: t["num_local_experts"] = r.choice([3, 5, 8])
    if "experts_per_token" in t: t["experts_per_token"] = t["num_experts_per_tok"] = r.choice([1, 2, 3])
    for k, of in (("decoder_sparse_step", [1, 2]), ("interleave_moe_layer_step", [1, 2]), ("norm_topk_prob", [True, False])):
        if k in t and "moe_layers" not in t: t[k] = r.choice(of)

def config(name, base, r):
    """base with other sizes."""
    c = json.loads(json.dumps(base))
    t, plain = text(c), text(c) is c
    latent = "kv_lora_rank" in t
    heads, kv = r.choice([(6, 2), (3, 1), (4, 4), (5, 5), (12, 4), (10, 2), (8, 1), (2, 2)])
    t.update(num_attention_heads=heads, num_key_value_heads=heads if latent else kv, intermediate_size=r.choice([33, 50, 77, 101, 160]), rms_norm_eps=r.choice([1e-3, 1e-5, 1e-6]))
    if latent: latent_sizes(t, r)
    else:
        head_sizes(c, t, r)
        expert_sizes(t, r)
    layer_sizes(t, r, t["first_k_dense_replace"] if latent else 1)
    if plain and "mrope_section" not in json.dumps(t): t["vocab_size"] = r.choice([257, 331, 640, 1001])
    if (t.get("sliding_window") or 1000) < 1000: t["sliding_window"] = r.choice([5, 16, 33, 64, 100])
    for k, of in (("intermediate_size_mlp", [50, 101]), ("rope_theta", [1e4, 5e5, 1e6, 7777.0]), ("attention_chunk_size", [16, 33, 64]), ("query_pre_attn_scalar", [16, 24, 100]),
                  ("swiglu_limit", [7.0, 1.0])):
        if t.get(k): t[k] = r.choice(of)
    if "swiglu_limit" in t: t["swiglu_alpha"] = r.choice([1.702, 1.2])
    if "tie_word_embeddings" in c and plain and "gemma" not in name: c["tie_word_embeddings"] = r.choice([True, False])
    if name in ("llama", "qwen3"): t["attention_bias"] = r.choice([True, False])
    if name == "llama": t["mlp_bias"] = r.choice([True, False])
    if name in ("llama", "qwen2", "qwen3"): t["rope_scaling"] = r.choice(ROPES)
    return c

def write_json(d, name, value):
    with open(os.path.join(d, name), "w") as f: json.dump(value, f)

def kimi_as_deepseek(c):
    return dict(c, model_type="deepseek_v3", architectures=["DeepseekV3ForCausalLM"]) if c.get("model_type") == "kimi_k2" else c

def new_model(d, c):
    """c as a model with weights at random, saved in d with c as its config.json. transformers' own config.json is returned."""
    c = {k: v for k, v in c.items() if k not in ("auto_map", "quantization_config")}
    write_json(d, "config.json", kimi_as_deepseek(c))
    cfg = transformers.AutoConfig.from_pretrained(d)
    m = getattr(transformers, cfg.architectures[0])._from_config(cfg, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").float().eval()
    with torch.no_grad():
        for p in m.parameters():
            if p.dim() < 2: p.add_(0.3 * torch.randn_like(p))
            else: p.copy_(torch.randn_like(p) * 1.2 / (min(p.shape[-2:]) if p.dim() > 2 else p.shape[-1]) ** 0.5)
        for n, b in m.named_buffers():
            if "correction_bias" in n: b.copy_(0.2 * torch.randn_like(b))
    m.save_pretrained(d)
    with open(os.path.join(d, "config.json")) as f: own = json.load(f)
    write_json(d, "config.json", c)
    return m, own

def logits_of(m, ids, **inputs):
    inner = m.thinker if hasattr(m, "thinker") else m
    return inner(input_ids=torch.tensor([ids]), use_cache=False, **inputs).logits[0].float()

def continued(logits, ids, n):
    """Greedy tokens and how far the best is ahead of the second, by whole prompts."""
    seq, out, margin = list(ids), [], []
    for _ in range(n):
        v, i = logits(seq)[-1].topk(2)
        out.append(int(i[0]))
        margin.append(float(v[0] - v[1]))
        seq.append(out[-1])
    return torch.tensor(out, dtype=torch.int32), torch.tensor(margin)

def put_prompt(out, name, ids, logits, n_greedy):
    out[f"{name}.input_ids"], out[f"{name}.logits"] = torch.tensor(ids, dtype=torch.int32), logits(ids).contiguous()
    out[f"{name}.greedy_ids"], out[f"{name}.greedy_margin"] = continued(logits, ids, n_greedy)

def write_golden(d, m, vocab, r):
    """golden.safetensors and golden.json as ../shared/goldens has them. Disturbs m's weights."""
    out = {}
    with torch.no_grad():
        for name, n in (("short", r.choice([2, 3, 7, 9])), ("long", r.choice([40, 97, 130, 180]))):
            put_prompt(out, name, [r.randrange(3, min(vocab, 300)) for _ in range(n)], lambda ids: logits_of(m, ids), 24)
        for p in m.parameters(): p.mul_(1 + 1e-6 * torch.randn_like(p))
        moved = float((logits_of(m, out["long.input_ids"].tolist()) - out["long.logits"]).abs().max())
    save_file(out, os.path.join(d, "golden.safetensors"))
    write_json(d, "golden.json", {"suggested_atol": max(5e-4, 3 * moved)})

def make(d, name, base, r):
    c = config(name, base, r)
    m, own = new_model(d, c)
    if r.random() < 0.5 and name != "kimi_k2": write_json(d, "config.json", own)     # as transformers writes it today; else as the Hub has it
    write_golden(d, m, text(c)["vocab_size"], r)
