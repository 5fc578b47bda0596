#!/usr/bin/env python3
"""Measures one Hugging Face checkpoint with transformers on torch, eager, bfloat16, and prints one JSON line. Runs in the torch environment.

    torch_worker.py MODEL_DIR THREADS PREFILL BATCHES VOCAB

The decode loop is the model's forward with its cache, without generate()'s own work in Python; logits only of the last position."""
import json, os, sys, time

T0 = float(os.environ.get("PEERS_T0") or time.time())
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import AutoModelForCausalLM

STEPS = 32


def main():
    path, threads, n_prefill, batches, vocab = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), [int(b) for b in sys.argv[4].split(",") if b], int(sys.argv[5])
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def seconds(n_in, n_out, batch):
        ids, cache = torch.randint(100, min(vocab, 100000), (batch, n_in)), None
        t = time.perf_counter()
        for _ in range(n_out):
            out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
        return time.perf_counter() - t

    seconds(8, 1, 1)
    d = {"start_s": time.time() - T0, "decode": {}}
    if n_prefill:
        seconds(n_prefill, 1, 1)
        d["prefill"] = n_prefill / seconds(n_prefill, 1, 1)
    for b in batches:
        one, many = min(seconds(8, 1, b) for _ in range(2)), seconds(8, 1 + STEPS, b)
        d["decode"][b] = b * STEPS / (many - one)
    print(json.dumps(d))


if __name__ == "__main__":
    main()
