#!/usr/bin/env python3
"""The decode attention of vLLM's TPU back end (package tpu-inference, ragged paged attention v3) by libtpu's static profile, as
bench/attention_profile.py has it for ours: 64 sequences of 2,048 tokens, 32 query and 8 KV heads of 128, pages of 64. Its lengths are
constants here (the profile counts a loop whose bounds it does not know once) and its blocks are its own defaults; the operations
around the kernel, which lay out the queries, are not counted. Writes the table of docs/performance.md (between its markers).

  pip install jax libtpu && pip install --no-deps tpu-inference      (in an environment of their own; no TPU is needed)
  python bench/attention_peer.py [--only v6e,v7x] [--kv bf16]

Without these packages nothing is done, and the reason is printed."""
import argparse, glob, importlib.util, json, os, re, subprocess, sys, tempfile, types

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
DOC = os.path.join(ROOT, "docs", "performance.md")
BEGIN, END = "<!-- attention_peer.py: begin -->\n", "<!-- attention_peer.py: end -->\n"
HEAD = "| chip | KV | cycles, tpu-inference | ours | of memory alone | times the bound, tpu-inference | ours |\n|---|---|---|---|---|---|---|\n"
# topology, version, bytes and cycles per second of one core's share (src/tpu/chip.c)
TARGETS = {"v5e": ("v5e:2x2", 5, 819e9, 1.5e9), "v5p": ("v5p:2x2x1", 5, 2765e9, 1.75e9), "v6e": ("v6e:1x1", 6, 1638e9, 1.75e9), "v7x": ("tpu7x:1x1x1", 7, 3690e9, 2.2e9)}
KV = {"bf16": 2, "fp8": 1}
SEQS, TOKENS, PAGE, HEADS, KV_HEADS, DIM = 64, 2048, 64, 32, 8, 128


class Constant:
    """A reference to scalars whose i-th is known."""
    def __init__(self, ref, of): self.shape, self.of = ref.shape, of
    def __getitem__(self, i): return self.of(i)


def issue_first(args):
    """Copies on the semaphores of results and of the cache's update. The profiler takes operations in the order of the program, branches
    as taken, and dies of a wait that comes before the first copy on its semaphore; such waits are in the loop, for the copies of an
    earlier round. These four are in front of it, a few cycles in all."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu
    out, cache, blocks, results, sems = args[10], args[11], args[12], args[14], args[15]
    flat = cache.reshape(cache.shape[0] * cache.shape[1], *cache.shape[2:])
    for i in range(2):
        pltpu.make_async_copy(results.at[i, :, pl.ds(0, 1)], out.at[:, pl.ds(i, 1)], sems.at[2, i]).start()
        pltpu.make_async_copy(blocks.at[i, pl.ds(0, 1), :cache.shape[2]], flat.at[pl.ds(i, 1)], sems.at[3, i]).start()


def kernel_of(version):
    """The package's module alone: importing the package would start vLLM."""
    where = importlib.util.find_spec("tpu_inference").submodule_search_locations
    package = types.ModuleType("tpu_inference")
    package.__path__ = list(where)
    sys.modules["tpu_inference"] = package
    from tpu_inference.kernels.ragged_paged_attention.v3 import kernel
    import numpy
    inner = kernel._ragged_paged_attention_kernel

    def baked(*args, **kwargs):
        if kwargs["case"] != kernel.RpaCase.DECODE: return     # a second call, which has nothing to do here and is not counted
        args = list(args)
        args[0], args[2] = Constant(args[0], lambda i: numpy.int32(TOKENS)), Constant(args[2], lambda i: i)
        args[3] = Constant(args[3], lambda i: numpy.int32(SEQS))
        issue_first(args)
        return inner(*args, **kwargs)
    kernel._ragged_paged_attention_kernel = baked
    kernel.get_tpu_version = lambda: version
    return kernel


def lower(chip, kv):
    """In a process of its own: compiles, for the profile that libtpu writes meanwhile."""
    topology, version, _, _ = TARGETS[chip]
    kernel = kernel_of(version)
    import jax, jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding
    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    from jax._src.pallas.mosaic import tpu_info
    tpu_info.get_device_kind = lambda: device.device_kind      # Pallas asks for the process's own device, which is a CPU
    tpu_info.get_num_device_cores = lambda: device.num_cores
    one, cache = SingleDeviceSharding(device), jnp.bfloat16 if kv == "bf16" else jnp.float8_e4m3fn
    shape = lambda dims, t: jax.ShapeDtypeStruct(dims, t, sharding=one)
    pages, per = SEQS * TOKENS // PAGE, 2 if kv == "bf16" else 4
    args = (shape((SEQS, HEADS, DIM), jnp.bfloat16), shape((SEQS, KV_HEADS, DIM), cache), shape((SEQS, KV_HEADS, DIM), cache),
            shape(kernel.get_kv_cache_shape(pages + 1, PAGE, KV_HEADS, DIM, cache), cache), shape((SEQS,), jnp.int32),
            shape((pages,), jnp.int32), shape((SEQS + 1,), jnp.int32), shape((3,), jnp.int32))
    laid_out = shape((KV_HEADS, SEQS, HEADS // KV_HEADS // 2, 2, DIM), jnp.bfloat16), shape((SEQS, 2 * KV_HEADS // per, per, DIM), cache)

    def call(q, kv, *rest):
        kernel.prepare_inputs, kernel.prepare_outputs = lambda *_: (q, kv), lambda out, *_: out
        return kernel.ragged_paged_attention.__wrapped__(*rest, sm_scale=DIM ** -0.5)
    jax.jit(call, donate_argnums=(0, 5)).lower(*laid_out, *args).compile()      # the kernel writes over both


def cycles_of(directory):
    """Of the decode kernel's own operation. The profiler writes them before it takes its program apart, at which it dies over 16-bit
    integers (v6e, v7x)."""
    total = 0
    for path in glob.glob(os.path.join(directory, "RPAd*")):
        total += sum(int(float(c)) for c in re.findall(r"estimated_cycles: *([0-9.e+]+)", open(path, errors="replace").read()))
    return total


def ours(text, chip, kv):
    """Of bench/attention_profile.py's table."""
    m = re.search(rf"^\| {chip} \| {kv}[^|]*\| {PAGE} \| ([0-9,]+) \|", text, re.M)
    return int(m.group(1).replace(",", "")) if m else 0


def row(text, chip, kv, cycles, why):
    _, _, bandwidth, clock = TARGETS[chip]
    bound, mine = SEQS * TOKENS * 2 * KV_HEADS * DIM * KV[kv] / bandwidth * clock, ours(text, chip, kv)
    cell = lambda c: f"{c:,}" if c else "–"
    times = lambda c: f"{max(c, bound) / bound:.2f}" if c else "–"
    return f"| {chip} | {kv} | {cell(cycles)} | {cell(mine)} | {bound:,.0f} | {times(cycles) if cycles else why} | {times(mine)} |\n"


def row_of(text, chip, kv):
    with tempfile.TemporaryDirectory() as d:
        env = dict(os.environ, ALLOW_MULTIPLE_LIBTPU_LOAD="1", LIBTPU_INIT_ARGS=f"--xla_jf_dump_static_llo_profile_to={d}", JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1")
        r = subprocess.run([sys.executable, os.path.abspath(__file__), "--lower", chip, kv], env=env, capture_output=True, text=True)
        cycles = cycles_of(d)
    why = [line for line in r.stderr.splitlines() if "Error" in line or "refused" in line or "Check failed" in line] or r.stderr.splitlines() or ["no profile"]
    return row(text, chip, kv, cycles, why[-1][:140].replace("|", "/"))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", default=",".join(TARGETS))
    ap.add_argument("--kv", default=",".join(KV))
    ap.add_argument("--lower", nargs=2, help=argparse.SUPPRESS)
    args = ap.parse_args()
    if args.lower: return lower(*args.lower)
    missing = [m for m in ("jax", "libtpu", "tpu_inference") if not importlib.util.find_spec(m)]
    if missing: return print(f"skipped: no package {', '.join(missing)}")
    text = open(DOC, encoding="utf-8").read()
    before, rest = text.split(BEGIN)
    old, after = rest.split(END)
    rows = {(line.split("|")[1].strip(), line.split("|")[2].strip()): line + "\n" for line in old.splitlines() if line.startswith("| v")}
    for chip in args.only.split(","):
        for kv in args.kv.split(","):
            rows[chip, kv] = row_of(text, chip, kv)
            print(rows[chip, kv], end="", flush=True)
    body = "".join(rows[c, k] for c in TARGETS for k in KV if (c, k) in rows)
    with open(DOC, "w", encoding="utf-8") as f: f.write(before + BEGIN + HEAD + body + END + after)


main()
