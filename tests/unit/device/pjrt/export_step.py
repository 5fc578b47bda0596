#!/usr/bin/env python3
"""Exports a decode step of a one-layer transformer, written in JAX, as portable StableHLO bytecode, with what JAX computes
for it. test_pjrt_cpu.c runs the bytecode from C and compares.
    python3 tests/unit/device/pjrt/export_step.py OUT_DIR
writes step.mlirbc and step.txt. Needs jax (0.10.2 wrote the files kept here)."""
import os, sys
os.environ.setdefault("JAX_PLATFORMS", "cpu")
import jax, jax.numpy as jnp, numpy as np
from jax import export

D, HEADS, LEN, VOCAB = 16, 2, 8, 32

def step(embed, wqkv, wo, cache, token, pos):
    """One token in, logits out; cache [2, LEN, D] is donated and comes back with the token's keys and values in row pos."""
    x = embed[token]
    h = x * jax.lax.rsqrt(jnp.mean(x * x) + 1e-6)
    q, k, v = jnp.split(h @ wqkv, 3)
    cache = jax.lax.dynamic_update_slice(cache, jnp.stack([k, v])[:, None, :], (0, pos, 0))
    keys, values = cache.reshape(2, LEN, HEADS, D // HEADS)
    scores = jnp.einsum("hd,lhd->hl", q.reshape(HEADS, -1), keys) / jnp.sqrt(D / HEADS)
    scores = jnp.where(jnp.arange(LEN)[None, :] <= pos, scores, -1e30)
    out = jnp.einsum("hl,lhd->hd", jax.nn.softmax(scores, axis=-1), values).reshape(-1)
    return (x + out @ wo) @ embed.T, cache

def ramp(shape, seed):
    """Values that C can make as well: no generator to agree on."""
    n = int(np.prod(shape))
    return ((np.arange(n, dtype=np.int64) * 7919 + seed * 104729) % 1009 / 1009.0 - 0.5).astype(np.float32).reshape(shape)

def main(out):
    args = [ramp((VOCAB, D), 1), ramp((D, 3 * D), 2), ramp((D, D), 3), np.zeros((2, LEN, D), np.float32), np.int32(5), np.int32(0)]
    jitted = jax.jit(step, donate_argnums=3, keep_unused=True)
    exported = export.export(jitted, platforms=["cpu"])(*[jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype) for a in args])
    with open(os.path.join(out, "step.mlirbc"), "wb") as f:
        f.write(exported.mlir_module_serialized)
    with open(os.path.join(out, "step.txt"), "w") as f:
        token = 5
        for pos in range(4):    # greedy, feeding each token back
            args[4], args[5] = np.int32(token), np.int32(pos)
            logits, cache = jax.jit(step)(*args)
            args[3], token = np.asarray(cache), int(np.argmax(logits))
            f.write(" ".join([str(token)] + ["%.7g" % x for x in np.asarray(logits)]) + "\n")

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: export_step.py OUT_DIR")
    main(sys.argv[1])
