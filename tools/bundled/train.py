#!/usr/bin/env python3
"""Train systolic-tiny on the text of generate.py and write it as a Hugging Face model folder.

    python3 tools/bundled/train.py --data /tmp/bundled --out models/systolic-tiny --bf16

The model is a small Llama (rms norm, rotary embeddings, grouped query attention, gated MLP, tied embeddings)
written out below, so that training needs torch but not transformers. All tokens count in the loss; the words of
the user and the system count less (--user-weight), because they are mostly random. Documents are packed, each
starting with <|bos|>. The learning rate warms up and then follows a cosine. The row length grows near the end
of the run (256, 512, 1024) with the same number of tokens per step.

Every file is written to a temporary name and renamed. An existing tokenizer.json is kept unless
--new-tokenizer is given, so that token ids stay the same when only the weights are trained again.
"""

import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL = ["<|endoftext|>", "<|bos|>", "<|im_start|>", "<|im_end|>"]
EOT, BOS, IM_START, IM_END = range(4)
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": BOS, "eos_token_id": IM_END, "pad_token_id": EOT, "hidden_act": "silu", "hidden_size": 128, "intermediate_size": 512,
    "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "initializer_range": 0.02,
    "max_position_embeddings": 1024, "mlp_bias": False, "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 1536,
}


def write(path, data):
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    with open(path + ".tmp", "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    os.replace(path + ".tmp", path)


def pretty(obj):
    return json.dumps(obj, indent=2, ensure_ascii=False) + "\n"


# ---- text --------------------------------------------------------------------------------------------------------

def read_documents(path):
    with open(path, encoding="utf-8") as f:
        for line in f:
            yield json.loads(line)


def train_tokenizer(path, vocab, limit=12_000_000):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()

    def texts():
        n = 0
        for d in read_documents(path):
            for s in [d["text"]] if "text" in d else ["\n".join(m["role"] + "\n" + m["content"] for m in d["messages"])]:
                n += len(s)
                yield s
            if n > limit:
                return
    tok.train_from_iterator(texts(), trainers.BpeTrainer(vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.post_processor = processors.TemplateProcessing(single="<|bos|> $A", pair="<|bos|> $A <|bos|> $B", special_tokens=[("<|bos|>", BOS)])
    return tok


def encode(tok, path, user_weight):
    """All documents as one stream of token ids and one of loss weights."""
    ids, weights = [], []
    pieces, layout = [], []

    def flush():
        for enc, (head, tail, w) in zip(tok.encode_batch(pieces, add_special_tokens=False), layout):
            row = head + enc.ids + tail
            ids.append(np.array(row, dtype=np.uint16))
            weights.append(np.full(len(row), w, dtype=np.float16))
            if w < 1 and head[:1] == [BOS]:
                weights[-1][0] = 0
        pieces.clear()
        layout.clear()
    nl = tok.encode("\n", add_special_tokens=False).ids
    for d in read_documents(path):
        if "text" in d:
            pieces.append(d["text"])
            layout.append(([BOS], [EOT], 1.0))
        for i, m in enumerate(d.get("messages", [])):
            # role, newline and content are one piece of text: exactly what the template renders
            pieces.append(m["role"] + "\n" + m["content"].strip())
            layout.append((([BOS] if i == 0 else []) + [IM_START], [IM_END] + nl, 1.0 if m["role"] == "assistant" else user_weight))
        if len(pieces) > 20000:
            flush()
    flush()
    return torch.from_numpy(np.concatenate(ids).astype(np.int32)), torch.from_numpy(np.concatenate(weights).astype(np.float32))


# ---- model -------------------------------------------------------------------------------------------------------

class Llama(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        h, d, nh, nk, m = c["hidden_size"], c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"], c["intermediate_size"]
        shapes = {"model.embed_tokens.weight": (c["vocab_size"], h), "model.norm.weight": (h,)}
        for i in range(c["num_hidden_layers"]):
            shapes |= {f"model.layers.{i}.{k}.weight": s for k, s in {
                "self_attn.q_proj": (nh * d, h), "self_attn.k_proj": (nk * d, h), "self_attn.v_proj": (nk * d, h), "self_attn.o_proj": (h, nh * d),
                "mlp.gate_proj": (m, h), "mlp.up_proj": (m, h), "mlp.down_proj": (h, m), "input_layernorm": (h,), "post_attention_layernorm": (h,)}.items()}
        self.names = list(shapes)
        self.w = torch.nn.ParameterList()
        for name, s in shapes.items():
            std = 0.02 if "embed" in name else s[-1] ** -0.5 / (math.sqrt(2 * c["num_hidden_layers"]) if "o_proj" in name or "down_proj" in name else 1)
            self.w.append(torch.nn.Parameter(torch.ones(s) if len(s) == 1 else torch.randn(s) * std))
        inv = 1.0 / c["rope_theta"] ** (torch.arange(0, d, 2).float() / d)
        ang = torch.outer(torch.arange(c["max_position_embeddings"]).float(), inv)
        self.register_buffer("cos", torch.cat([ang.cos(), ang.cos()], 1))
        self.register_buffer("sin", torch.cat([-ang.sin(), ang.sin()], 1))

    def state(self):
        return dict(zip(self.names, self.w))

    def forward(self, ids):
        c, w = self.c, dict(zip(self.names, self.w))
        b, t = ids.shape
        nh, nk, d, eps = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], c["rms_norm_eps"]
        cos, sin = self.cos[:t], self.sin[:t]

        def norm(x, g):
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * g

        def rope(x):
            return x * cos + torch.cat([x[..., d // 2:], x[..., :d // 2]], -1) * sin
        x = F.embedding(ids, w["model.embed_tokens.weight"])
        for i in range(c["num_hidden_layers"]):
            def W(k):
                return w[f"model.layers.{i}.{k}.weight"]
            y = norm(x, W("input_layernorm"))
            q = rope(F.linear(y, W("self_attn.q_proj")).view(b, t, nh, d).transpose(1, 2))
            k = rope(F.linear(y, W("self_attn.k_proj")).view(b, t, nk, d).transpose(1, 2))
            v = F.linear(y, W("self_attn.v_proj")).view(b, t, nk, d).transpose(1, 2)
            k = k.unsqueeze(2).expand(b, nk, nh // nk, t, d).reshape(b, nh, t, d)
            v = v.unsqueeze(2).expand(b, nk, nh // nk, t, d).reshape(b, nh, t, d)
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(o.transpose(1, 2).reshape(b, t, nh * d), W("self_attn.o_proj"))
            y = norm(x, W("post_attention_layernorm"))
            x = x + F.linear(F.silu(F.linear(y, W("mlp.gate_proj"))) * F.linear(y, W("mlp.up_proj")), W("mlp.down_proj"))
        return F.linear(norm(x, w["model.norm.weight"]), w["model.embed_tokens.weight"])


def losses(model, rows, weights):
    """Per-token loss of each row but its first token, and the weights of those tokens."""
    logits = model(rows[:, :-1].long())
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), rows[:, 1:].reshape(-1).long(), reduction="none")
    return loss, weights[:, 1:].reshape(-1)


@torch.no_grad()
def evaluate(model, ids, weights, t=256, limit=160):
    """Mean loss over all tokens, and over the tokens the model has to write itself."""
    n = min(limit, (len(ids) - 1) // t)
    total = own = own_n = 0.0
    for i in range(0, n, 16):
        k = min(16, n - i)
        sel = torch.stack([torch.arange(j * t, j * t + t + 1) for j in range(i, i + k)])
        loss, w = losses(model, ids[sel], weights[sel])
        total += loss.sum().item()
        own += loss[w == 1].sum().item()
        own_n += (w == 1).sum().item()
    return total / (n * t), own / own_n


def export(model, tok, out, record, with_tokenizer):
    os.makedirs(out, exist_ok=True)
    tensors = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state().items()}
    if with_tokenizer:
        write(f"{out}/tokenizer.json", tok.to_str(pretty=True) + "\n")
    write(f"{out}/chat_template.jinja", TEMPLATE)
    write(f"{out}/config.json", pretty(CONFIG))
    write(f"{out}/generation_config.json", pretty({"bos_token_id": BOS, "eos_token_id": [IM_END, EOT], "pad_token_id": EOT, "do_sample": True, "temperature": 0.7, "top_p": 0.9}))
    write(f"{out}/tokenizer_config.json", pretty({
        "added_tokens_decoder": {str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for i, s in enumerate(SPECIAL)},
        "bos_token": "<|bos|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"], "tokenizer_class": "PreTrainedTokenizerFast"}))
    write(f"{out}/model.safetensors", save(tensors, {"format": "pt"}))
    write(f"{out}/TRAINING.json", pretty(record))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="/tmp/bundled")
    p.add_argument("--out", default="models/systolic-tiny")
    p.add_argument("--steps", type=int, default=8000)
    p.add_argument("--minutes", type=float, default=0, help="finish the schedule by then, with fewer steps if need be (not repeatable)")
    p.add_argument("--tokens", type=int, default=2048, help="tokens per step")
    p.add_argument("--lr", type=float, default=2.5e-3)
    p.add_argument("--warmup", type=int, default=200)
    p.add_argument("--user-weight", type=float, default=0.3)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--bf16", action="store_true", help="autocast the matrix products to bfloat16")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--new-tokenizer", action="store_true")
    p.add_argument("--dry", action="store_true", help="measure the step time and write nothing")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    start = time.time()

    path = f"{a.out}/tokenizer.json"
    new = a.new_tokenizer or not os.path.exists(path)
    tok = train_tokenizer(f"{a.data}/train.jsonl", CONFIG["vocab_size"]) if new else Tokenizer.from_file(path)
    assert tok.get_vocab_size() == CONFIG["vocab_size"]
    ids, weights = encode(tok, f"{a.data}/train.jsonl", a.user_weight)
    held_ids, held_w = encode(tok, f"{a.data}/heldout.jsonl", a.user_weight)
    print(f"tokens {len(ids)} heldout {len(held_ids)} prepared in {time.time() - start:.0f} s", flush=True)

    model = Llama(CONFIG)
    n_params = sum(x.numel() for x in model.parameters())
    print(f"parameters {n_params}", flush=True)
    step_fn = torch.compile(losses, dynamic=False) if a.compile else losses
    decay = [x for x in model.parameters() if x.ndim == 2]
    rest = [x for x in model.parameters() if x.ndim == 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=a.lr, betas=(0.9, 0.98), eps=1e-9, foreach=True)

    phases = [(0.80, 256), (0.94, 512), (1.01, 1024)]
    curve, used, mean, offset = [], 0, 0.0, 0
    begin = time.time()
    step = -1
    while True:
        step += 1
        done = max(step / a.steps, (time.time() - begin) / (60 * a.minutes) if a.minutes else 0)
        if done >= 1:
            break
        t = next(n for f, n in phases if done < f)
        lr = a.lr * min((step + 1) / a.warmup, 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))
        for g in opt.param_groups:
            g["lr"] = lr
        rows = a.tokens // t
        # the stream is read in order, at rows places spread over it, and wraps around
        starts = [(offset + r * (len(ids) // rows)) % (len(ids) - t - 1) for r in range(rows)]
        offset += t
        sel = torch.stack([torch.arange(s, s + t + 1) for s in starts])
        with torch.autocast("cpu", torch.bfloat16, enabled=a.bf16):
            loss, w = step_fn(model, ids[sel], weights[sel])
        (loss * w).sum().div(w.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        used += rows * t
        mean += loss.detach().mean().item()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} len {t} lr {lr:.2e} loss {mean / 50:.4f} {used / (time.time() - begin):.0f} tok/s {time.time() - begin:.0f} s", flush=True)
            last, mean = mean / 50, 0.0
            if (step + 1) % 250 == 0:
                h, own = evaluate(model, held_ids, held_w)
                curve.append({"step": step + 1, "tokens": used, "train": round(last, 4), "heldout": round(h, 4), "heldout_assistant": round(own, 4)})
                print(curve[-1], flush=True)
        if a.dry and step == 150:
            return
    for x in model.parameters():                      # the numbers in the record are those of the bfloat16 file
        x.data = x.data.to(torch.bfloat16).float()
    h, own = evaluate(model, held_ids, held_w, limit=400)
    tr, tr_own = evaluate(model, ids, weights, limit=400)
    with open(f"{a.data}/counts.json") as f:
        counts = json.load(f)
    record = {
        "model": "systolic-tiny", "parameters": n_params, "steps": step, "steps_planned": a.steps, "minutes_limit": a.minutes, "tokens_per_step": a.tokens, "tokens_seen": used, "train_tokens": len(ids), "heldout_tokens": len(held_ids),
        "optimizer": {"name": "AdamW", "lr": a.lr, "betas": [0.9, 0.98], "weight_decay": 0.1, "schedule": f"{a.warmup} warmup steps, cosine to 3 %", "clip": 1.0}, "user_weight": a.user_weight,
        "row_lengths": [{"until": min(f, 1.0), "length": n} for f, n in phases], "seed": a.seed, "threads": a.threads, "bf16_autocast": a.bf16, "torch": torch.__version__,
        "final": {"train": round(tr, 4), "heldout": round(h, 4), "train_assistant": round(tr_own, 4), "heldout_assistant": round(own, 4),
                  "note": "nats per token of the bfloat16 weights; train and heldout over all tokens, *_assistant over answers and plain documents only"},
        "seconds": round(time.time() - begin), "data": counts, "curve": curve}
    export(model, tok, a.out, record, new)
    print(json.dumps(record["final"]), "seconds", record["seconds"], flush=True)


if __name__ == "__main__":
    main()
