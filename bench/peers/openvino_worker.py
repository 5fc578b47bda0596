#!/usr/bin/env python3
"""Measures one OpenVINO model and prints one JSON line. Runs in the OpenVINO environment.

    openvino_worker.py MODEL_DIR THREADS PREFILL BATCHES VOCAB [PA|SDPA]

Tokens are random ids, so that a prefix cache finds nothing. Decode is the time of 33 tokens less that of 1, over 32 steps."""
import json, os, sys, time

T0 = float(os.environ.get("PEERS_T0") or time.time())
import numpy as np
import openvino as ov
import openvino_genai as genai

STEPS = 32


def main():
    path, threads, n_prefill, batches, vocab = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), [int(b) for b in sys.argv[4].split(",") if b], int(sys.argv[5])
    backend = sys.argv[6] if len(sys.argv) > 6 else "PA"
    pipe = genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads, ATTENTION_BACKEND=backend)
    rng = np.random.default_rng(os.getpid())

    def seconds(n_in, n_out, batch):
        ids = rng.integers(100, min(vocab, 100000), (batch, n_in), dtype=np.int64)
        cfg = genai.GenerationConfig(max_new_tokens=n_out, ignore_eos=True)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        t = time.perf_counter()
        out = pipe.generate(inputs, cfg)
        t = time.perf_counter() - t
        n = sum(len(x) for x in out.tokens)
        if n != n_out * batch:
            sys.exit(f"{n} tokens came, expected {n_out * batch}")
        return t

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
