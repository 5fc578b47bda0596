"""A second interpreter of Mosaic kernels, in numpy, that knows nothing of the first: it reads the text that libtpu reads, through MLIR's
own parser. Memory references are numpy views, a copy happens when its semaphore is waited for, scratch starts as NaN (integers 0x7f..), and
semaphores are 0 at the end. Devices take turns: a kernel is a generator that yields where it waits."""
import math, os, re

os.environ.setdefault("JAX_PLATFORMS", "cpu")
import ml_dtypes
import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import tpu
from jaxlib.mlir import ir

TYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "i32": np.int32, "i1": np.bool_, "f8E4M3FN": ml_dtypes.float8_e4m3fn,
         "f8E5M2": ml_dtypes.float8_e5m2, "index": np.int64, "i64": np.int64, "i16": np.int16, "i8": np.int8, "i4": ml_dtypes.int4}
BITS = {"i4": 4, "i8": 8, "f8E4M3FN": 8, "f8E5M2": 8, "i16": 16, "bf16": 16, "i32": 32, "f32": 32}
FULL = slice(None)


def shape(t):
    m = re.match(r"(?:vector|memref)<((?:[\d?]+x)*)(!?[A-Za-z0-9_.]+)", str(t))
    if not m: return (), str(t)
    return tuple(-1 if v == "?" else int(v) for v in m.group(1).split("x")[:-1]), m.group(2)


def ints(a):
    text = str(a)
    return [int(v) for v in re.findall(r"-?\d+", text.split(":", 1)[-1] if text.startswith("array") else text)]


def poison(dims, name):
    """Memory that nobody has written."""
    dtype = np.dtype(TYPES[name])
    if name.startswith(("f", "bf")): return np.full(dims, np.nan, dtype)
    if name == "i4": return np.full(dims, 7, dtype)
    return np.frombuffer(b"\x7f" * (dtype.itemsize * int(np.prod(dims, dtype=np.int64))), dtype).reshape(dims).copy()


def bitcast(v, name):
    """Widths may differ: then rows of the narrower type are parts of rows of the wider one, low bits first."""
    to, have = np.dtype(TYPES[name]), v.dtype.itemsize
    if have == to.itemsize: return np.ascontiguousarray(v).view(to)
    lead, (rows, lanes) = v.shape[:-2], v.shape[-2:]
    if have > to.itemsize:
        n = have // to.itemsize
        parts = np.ascontiguousarray(v).view(to).reshape(*lead, rows, lanes, n)
        return np.ascontiguousarray(np.moveaxis(parts, -1, -2)).reshape(*lead, rows * n, lanes)
    n = to.itemsize // have
    parts = np.moveaxis(v.reshape(*lead, rows // n, n, lanes), -2, -1)
    return np.ascontiguousarray(parts).view(to).reshape(*lead, rows // n, lanes)


class Semaphore:
    def __init__(self): self.value, self.copies = 0, []


class Cast:
    """A reference that was bitcast: whole rows are read and written through it."""
    def __init__(self, base, name): self.base, self.name = base, name


class Machine:
    """One device."""
    def __init__(self, number, world): self.number, self.world, self.barrier = number, world, Semaphore()

    def block(self, block, args, env):
        env = dict(env)
        env.update(zip(block.arguments, args))
        for op in block.operations:
            o = op.operation
            values = [env[v] for v in o.operands]
            if o.name in ("func.return", "scf.yield"): return values
            if o.name in ("scf.for", "scf.if", "tpu.wait_dma2", "tpu.sem_wait"): results = yield from self.control(o, values, env)
            else: results = self.run(o, values)
            env.update(zip(o.results, results))
        return []

    def control(self, o, x, env):
        if o.name == "scf.if":
            region = o.regions[0 if x[0] else 1].blocks
            return (yield from self.block(region[0], [], env)) if len(region) else []
        if o.name == "scf.for":
            lo, hi, step, carried = int(x[0]), int(x[1]), int(x[2]), list(x[3:])
            for i in range(lo, hi, step): carried = yield from self.block(o.regions[0].blocks[0], [np.int32(i)] + carried, env)
            return carried
        sem, need = self.semaphore(x[0]), int(x[1]) if o.name == "tpu.sem_wait" else self.nbytes(x[2])
        while sem.value < need: yield f"device {self.number} at {o.name}"
        sem.value -= need
        if o.name == "tpu.wait_dma2" and sem.value == 0:
            for copy in sem.copies: copy()
            sem.copies.clear()
        return []

    @staticmethod
    def nbytes(a): return (a.size + 1) // 2 if a.dtype == ml_dtypes.int4 else a.nbytes

    @staticmethod
    def semaphore(a): return a if isinstance(a, Semaphore) else a.reshape(-1)[0]

    # ---- operations without control ----
    def run(self, o, x):
        name, attributes = o.name, o.attributes
        t = o.results[0].type if len(o.results) else None
        dims, kind = shape(t) if t is not None else ((), "")
        simple = ELEMENTWISE.get(name)
        if simple:
            with np.errstate(all="ignore"): v = simple(*x)
            return [np.asarray(v).astype(TYPES[kind])[()] if not dims else np.asarray(v, TYPES[kind])]
        return getattr(self, name.replace(".", "_"))(x, attributes, dims, kind)

    def arith_constant(self, x, a, dims, kind):
        v = a["value"]
        if not dims: return [TYPES[kind](ir.FloatAttr(v).value if "f" in kind else ir.BoolAttr(v).value if kind == "i1" else ir.IntegerAttr(v).value)]
        v = ir.DenseElementsAttr(v).get_splat_value()
        return [np.full(dims, ir.FloatAttr(v).value if "f" in kind else ir.IntegerAttr(v).value, TYPES[kind])]

    def arith_index_cast(self, x, a, dims, kind): return [int(x[0])]
    def arith_select(self, x, a, dims, kind): return [np.where(*x)[()]]
    def arith_cmpi(self, x, a, dims, kind): return [[np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal][ir.IntegerAttr(a["predicate"]).value](*x)]
    def arith_cmpf(self, x, a, dims, kind): return [{1: np.equal, 2: np.greater, 3: np.greater_equal, 4: np.less, 5: np.less_equal, 13: np.not_equal}[ir.IntegerAttr(a["predicate"]).value](*x)]
    def convert(self, x, a, dims, kind):
        with np.errstate(all="ignore"): return [np.asarray(x[0]).astype(TYPES[kind])[()] if not dims else x[0].astype(TYPES[kind])]
    arith_truncf = arith_extf = arith_sitofp = arith_fptosi = arith_extsi = arith_trunci = arith_extui = convert
    def arith_bitcast(self, x, a, dims, kind): return [np.asarray(x[0]).view(TYPES[kind])[()]]
    def tpu_bitcast(self, x, a, dims, kind): return [bitcast(x[0], kind)]

    def vector_broadcast(self, x, a, dims, kind): return [np.broadcast_to(np.asarray(x[0], TYPES[kind]), dims)]
    def vector_shape_cast(self, x, a, dims, kind): return [x[0].reshape(dims)]
    def vector_extract(self, x, a, dims, kind): return [x[0].reshape(-1)[0]]
    def vector_extract_strided_slice(self, x, a, dims, kind): return [x[0][tuple(slice(f, f + n) for f, n in zip(ints(a["offsets"]), ints(a["sizes"])))]]
    def tpu_transpose(self, x, a, dims, kind): return [np.transpose(x[0], ints(a["permutation"]))]
    def tpu_concatenate(self, x, a, dims, kind): return [np.concatenate(x, ir.IntegerAttr(a["dimension"]).value)]
    def tpu_dynamic_rotate(self, x, a, dims, kind): return [np.roll(x[0], int(x[1]), ir.IntegerAttr(a["dimension"]).value)]
    def tpu_iota(self, x, a, dims, kind):
        along = ints(a["dimensions"])[0]
        return [np.broadcast_to(np.arange(dims[along], dtype=TYPES[kind]).reshape([-1 if i == along else 1 for i in range(len(dims))]), dims)]

    def vector_multi_reduction(self, x, a, dims, kind):
        axes, what = tuple(ints(a["reduction_dims"])), str(a["kind"])
        if "add" in what: return [x[0].sum(axes, dtype=TYPES[kind]) + x[1]]
        return [np.maximum(x[0].max(axes), x[1]) if "max" in what else np.minimum(x[0].min(axes), x[1])]

    def tpu_matmul(self, x, a, dims, kind):
        g = re.findall(r"\[([^\]]*)\]", str(a["dimension_numbers"]))
        wide = np.float32 if kind == "f32" else np.int64
        with np.errstate(all="ignore"): v = np.tensordot(x[0].astype(wide), x[1].astype(wide), ((int(g[0]),), (int(g[1]),)))
        return [(v + x[2]).astype(TYPES[kind])]

    # ---- memory ----
    @staticmethod
    def box(a, at, dims):
        at = [int(i) for i in at]
        assert all(0 <= i and i + n <= m for i, n, m in zip(at, dims, a.shape)), f"{dims} at {at} of {a.shape}"
        return tuple(slice(i, i + n) for i, n in zip(at, dims))

    def memref_load(self, x, a, dims, kind): return [x[0][self.box(x[0], x[1:], [1] * x[0].ndim)].reshape(-1)[0]]
    def memref_store(self, x, a, dims, kind):
        x[1][self.box(x[1], x[2:], [1] * x[1].ndim)] = x[0]
        return []

    def load(self, r, at, dims, strides=None):
        if isinstance(r, Cast):
            whole = bitcast(r.base, r.name)
            return self.load(whole, at, dims, strides)
        if strides:
            at = [int(i) for i in at]
            return r[tuple(slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(at, dims, strides))].copy()
        return r[self.box(r, at, dims)].copy()

    def store(self, r, at, v, mask=None, strides=None):
        if isinstance(r, Cast):
            whole = bitcast(r.base, r.name)
            self.store(whole, at, v, mask, strides)
            r.base[...] = bitcast(whole, {np.dtype(t): n for n, t in TYPES.items() if n not in ("index", "i64")}[r.base.dtype])
            return
        box = self.box(r, at, v.shape) if not strides else tuple(slice(int(i), int(i) + (n - 1) * s + 1, s) for i, n, s in zip(at, v.shape, strides))
        r[box] = v if mask is None else np.where(mask, v, r[box])

    def vector_load(self, x, a, dims, kind): return [self.load(x[0], x[1:], dims)]
    def tpu_strided_load(self, x, a, dims, kind): return [self.load(x[0], x[1:], dims, ints(a["strides"]))]
    def tpu_strided_store(self, x, a, dims, kind):
        ref, at, v = (x[0], x[1:-1], x[-1]) if isinstance(x[-1], np.ndarray) else (x[1], x[2:], x[0])
        self.store(ref, at, v, strides=ints(a["strides"]))
        return []

    def tpu_vector_store(self, x, a, dims, kind):
        sizes = ints(a["operandSegmentSizes"]) if "operandSegmentSizes" in a else [1, 1, len(x) - 2, 0]
        value, ref, at, mask = x[0], x[1], x[2:2 + sizes[2]], x[2 + sizes[2]] if sizes[3] else None
        self.store(ref, at, value, mask)
        return []

    def vector_store(self, x, a, dims, kind):
        self.store(x[1], x[2:], x[0])
        return []

    def tpu_memref_slice(self, x, a, dims, kind):
        r, n = x[0], x[0].ndim
        sizes = list(x[1 + n:])
        dims = [int(sizes.pop(0)) if d < 0 else d for d in dims]
        return [r[self.box(r, x[1:1 + n], dims)]]

    def tpu_memref_squeeze(self, x, a, dims, kind):
        r = x[0]
        known = [d for d in dims]
        keep, at = [], 0
        for i, d in enumerate(r.shape):      # drop dimensions of 1 until the rest fits
            rest = len(known) - at
            if rest and (d == known[at] or known[at] < 0) and not (d == 1 and r.ndim - i > rest and known[at] != 1): keep.append(FULL); at += 1
            elif d == 1: keep.append(0)
            else: raise ValueError(f"squeeze {r.shape} to {dims}")
        return [r[tuple(keep)] if r.dtype != object or dims else r]

    def tpu_memref_bitcast(self, x, a, dims, kind): return [Cast(x[0].base if isinstance(x[0], Cast) else x[0], kind)]
    def tpu_memref_reshape(self, x, a, dims, kind):
        v = x[0].reshape(dims)
        assert np.shares_memory(v, x[0])
        return [v]

    def tpu_assume_multiple(self, x, a, dims, kind):
        assert x[0] % ir.IntegerAttr(a["multiple"]).value == 0
        return [x[0]]

    # ---- copies, semaphores, devices ----
    def tpu_enqueue_dma(self, x, a, dims, kind):
        sizes = ints(a["operandSegmentSizes"])
        groups, at = [], 0
        for n in sizes:
            groups.append(x[at:at + n])
            at += n
        source, send, target, receive, device = groups[0][0], groups[1], groups[2][0], groups[3][0], groups[4]
        assert source.shape == target.shape, (source.shape, target.shape)
        if not device:
            sem = self.semaphore(receive)
            sem.value += self.nbytes(target)
            sem.copies.append(lambda: target.__setitem__(..., source))
            return []
        other = self.world[int(device[0])]
        there, sem = other.same(self, target), other.same(self, receive)
        sem, sent, data = self.semaphore(sem), self.semaphore(send[0]), {}
        sent.value += self.nbytes(target)
        sem.value += self.nbytes(target)
        sent.copies.append(lambda: data.setdefault("kept", source.copy()))
        sem.copies.append(lambda: there.__setitem__(..., data.get("kept", source)))
        return []

    def same(self, other, view):
        """This device's counterpart of a view of another one's memory."""
        root = view
        while isinstance(root.base, np.ndarray) and not any(root is m for m in other.memory): root = root.base
        mine = self.memory[next(i for i, m in enumerate(other.memory) if m is root)]
        offset = view.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        return np.ndarray(view.shape, view.dtype, mine, offset, view.strides)

    def tpu_sem_signal(self, x, a, dims, kind):
        who = self.world[int(x[2])] if len(x) > 2 else self
        sem = who.barrier if x[0] is self.barrier else self.semaphore(who.same(self, x[0]) if who is not self else x[0])
        sem.value += int(x[1])
        return []

    def tpu_sem_barrier(self, x, a, dims, kind): return [self.barrier]
    def tpu_device_id(self, x, a, dims, kind): return [np.int32(self.number)]


def divide(a, b): return np.trunc(np.asarray(a, np.float64) / b).astype(np.int64)


def shift(f): return lambda a, b: f(np.asarray(a).astype(np.int64) & 0xFFFFFFFF, b).astype(np.uint32).view(np.int32) if np.ndim(a) else np.int32(np.uint32(f(int(a) & 0xFFFFFFFF, int(b)) & 0xFFFFFFFF).view(np.int32))


ELEMENTWISE = {
    "arith.addi": np.add, "arith.subi": np.subtract, "arith.muli": np.multiply, "arith.divsi": divide, "arith.remsi": lambda a, b: a - divide(a, b) * b,
    "arith.addf": np.add, "arith.subf": np.subtract, "arith.mulf": np.multiply, "arith.divf": np.divide, "arith.maximumf": np.maximum, "arith.minimumf": np.minimum,
    "arith.maxsi": np.maximum, "arith.minsi": np.minimum, "arith.andi": np.bitwise_and, "arith.ori": np.bitwise_or, "arith.xori": np.bitwise_xor,
    "arith.shli": shift(lambda a, b: a << b), "arith.shrui": shift(lambda a, b: a >> b), "arith.shrsi": np.right_shift, "arith.negf": np.negative,
    "math.absf": np.abs, "math.absi": np.abs, "math.exp": np.exp, "math.log": np.log, "math.tanh": np.tanh, "math.sqrt": np.sqrt, "math.rsqrt": lambda x: 1 / np.sqrt(x),
    "math.roundeven": np.rint, "math.floor": np.floor, "math.ceil": np.ceil, "tpu.reciprocal": lambda x: 1 / x,
}


def drain(generator):
    """Runs a function that cannot wait."""
    try:
        while True: next(generator)
    except StopIteration as end: return end.value


def steps(m, functions, f, operands, results, prefetched):
    """The grid of one device."""
    attributes = f.attributes
    bounds, windows = ints(attributes["iteration_bounds"]), list(ir.ArrayAttr(attributes["window_params"]))
    n_scratch = ir.IntegerAttr(attributes["scratch_operands"]).value
    params = list(f.regions[0].blocks[0].arguments)
    arrays = operands[prefetched:] + results
    scratch = []
    for p in params[len(params) - n_scratch:]:
        dims, kind = shape(p.type)
        if kind.startswith("!tpu"):
            s = np.empty(dims, object)
            for i in np.ndindex(*dims): s[i] = Semaphore()
            scratch.append(s)
        else: scratch.append(poison(dims, kind))
    held = [None] * len(arrays)
    m.memory = arrays + scratch

    def save(i):
        at, block = held[i]
        box = tuple(slice(a * n, min(a * n + n, d)) for a, n, d in zip(at, block.shape, arrays[i].shape))
        arrays[i][box] = block[tuple(slice(0, s.stop - s.start) for s in box)]

    for g in np.ndindex(*bounds):
        grid, blocks = [np.int32(v) for v in g], []
        for i, w in enumerate(windows):
            d = ir.DictAttr(w)
            if "transform_indices" not in d:
                blocks.append(arrays[i])
                continue
            fn = functions[str(d["transform_indices"])[1:]]
            at = [int(v) for v in drain(m.block(fn.regions[0].blocks[0], grid + operands[:prefetched], {}))]
            n = ints(d["window_bounds"])
            if held[i] is None or held[i][0] != at:
                out = i >= len(operands) - prefetched
                if held[i] is not None and out: save(i)
                kind = {np.dtype(t): k for k, t in TYPES.items() if k not in ("index", "i64")}[arrays[i].dtype]
                block = poison(n, kind)
                if not out:
                    box = tuple(slice(a * k, min(a * k + k, s)) for a, k, s in zip(at, n, arrays[i].shape))
                    block[tuple(slice(0, s.stop - s.start) for s in box)] = arrays[i][box]
                held[i] = (at, block)
            blocks.append(held[i][1])
        yield from m.block(f.regions[0].blocks[0], grid + operands[:prefetched] + blocks + scratch, {})
    for i in range(len(operands) - prefetched, len(arrays)):
        if held[i] is not None: save(i)
    for s in scratch:
        if s.dtype == object: assert all(v.value == 0 and not v.copies for v in s.reshape(-1)), "a semaphore is not 0 at the end"
    assert m.barrier.value == 0, "the barrier is not 0 at the end"


def run(text, name, operands, results):
    """operands, results: arrays by device; results are written."""
    context = mlir.make_ir_context()
    tpu.register_dialect(context)
    with context, ir.Location.unknown():
        module = ir.Module.parse(text)
        functions = {str(ir.StringAttr(f.attributes["sym_name"]).value): f for f in module.body.operations}
        f = functions[name]
        prefetched = ir.IntegerAttr(f.attributes["scalar_prefetch"]).value
        world = []
        world.extend(Machine(i, world) for i in range(len(operands)))
        running = [steps(m, functions, f, operands[i], results[i], prefetched) for i, m in enumerate(world)]
        while running:
            stuck = []
            before = len(running)
            for r in list(running):
                state = [next(r, None)]
                if state[0] is None: running.remove(r)
                else: stuck.append(state[0])
            assert before != len(running) or any(progress(world)) , f"deadlock: {stuck}"


def progress(world):
    """Something has changed since the last call: any semaphore of any device."""
    now = [tuple(v.value for s in m.memory if s.dtype == object for v in s.reshape(-1)) + (m.barrier.value,) for m in world if hasattr(m, "memory")]
    changed = now != progress.last
    progress.last = now
    return [changed]


progress.last = None
