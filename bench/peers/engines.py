"""How each engine is run and how its figures are read. Every measurement is a fresh process; figures are dictionaries:
prefill (512 tokens, tokens/s), decode (sequences -> tokens/s of all), start_s (exec to ready), rss_bytes (peak)."""
import json, os, re, signal, socket, subprocess, tempfile, time, urllib.error, urllib.request

HERE = os.path.dirname(os.path.realpath(__file__))
PREFILL, STEPS = 512, 32


class Failed(Exception):
    """A measurement that gave no figure, with the engine's last words."""


class Child:
    """A process of an engine, with its output in files and its peak memory once it has ended."""

    def __init__(self, cmd, env=None):
        self.cmd, self.out, self.err = cmd, tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self.t0, self.rss_bytes, self.rc = time.time(), 0, None
        full = {**os.environ, **(env or {}), "PEERS_T0": repr(self.t0)}
        self.p = subprocess.Popen(cmd, stdout=self.out, stderr=self.err, stdin=subprocess.DEVNULL, env=full)

    def poll(self):
        if self.rc is None:
            pid, st, usage = os.wait4(self.p.pid, os.WNOHANG)
            if pid:
                self.rc, self.rss_bytes = os.waitstatus_to_exitcode(st), usage.ru_maxrss * 1024
                self.p.returncode = self.rc
        return self.rc

    def wait(self, timeout):
        end = time.time() + timeout
        while self.poll() is None:
            if time.time() > end:
                self.stop(signal.SIGKILL)
                raise Failed(f"{self.what()} took more than {timeout:.0f} s")
            time.sleep(0.005)
        return self.rc

    def stop(self, sig=signal.SIGTERM):
        """Asks the process to end, insists after 20 s, and waits: its memory figure comes with its end."""
        end = time.time() + 20
        if self.poll() is None:
            self.p.send_signal(sig)
        while self.poll() is None:
            if time.time() > end:
                self.p.kill()
            time.sleep(0.01)

    def text(self, f):
        f.seek(0)
        return f.read().decode(errors="replace")

    def what(self):
        return " ".join(os.path.basename(x) if x.startswith("/") else x for x in self.cmd[:4])

    def words(self):
        lines = [x.strip() for x in (self.text(self.err) + "\n" + self.text(self.out)).split("\n") if x.strip()]
        return next((x for x in reversed(lines) if "rror" in x), lines[-1] if lines else "it said nothing")[:300]


def finish(cmd, timeout, env=None):
    c = Child(cmd, env)
    try:
        rc = c.wait(timeout)
    except BaseException:
        c.stop(signal.SIGKILL)
        raise
    if rc:
        raise Failed(f"{c.what()} ended with {c.rc}: {c.words()}")
    return c


# ---- reading what they print ----

def parse_llama_bench(text):
    """-o json: {"prefill": tokens/s, "decode": tokens/s}, those that were measured."""
    out = {}
    for d in json.loads(text):
        if d["n_prompt"] and not d["n_gen"]:
            out["prefill"] = d["avg_ts"]
        elif d["n_gen"] and not d["n_prompt"]:
            out["decode"] = d["avg_ts"]
    return out


def parse_batched_bench(text):
    """--output-format jsonl among log lines: {sequences: tokens/s of all}."""
    out = {}
    for line in text.split("\n"):
        at = line.find('{"n_kv_max"')
        if at >= 0:
            d = json.loads(line[at:])
            out[d["pl"]] = d["speed_tg"]
    return out


def parse_worker(text):
    d = json.loads(next(x for x in reversed(text.strip().split("\n")) if x.startswith("{")))
    d["decode"] = {int(b): v for b, v in d["decode"].items()}
    return d


def parse_limits(text):
    """Lines of bench/limits --json -> {(name, threads): {"min", "median", "max", "unit"}}."""
    out = {}
    for line in text.split("\n"):
        if line.startswith("{"):
            d = json.loads(line)
            out[d["limit"], d["threads"]] = d
    return out


def parse_quantizations(text):
    """`serve --help=quantization` -> all names that turn a 16-bit checkpoint into 8 or 4 bits while loading."""
    text = " ".join(text.split())
    if "not supported yet" in text:
        return []
    m = re.search(r"Supported so far: ([^.]*)\.", text) or re.search(r"One of: ([^.]*)\.", text)
    return [x for x in m.group(1).split() if re.match(r"(int[48]|w[48])", x)] if m else []


def usual_quantizations(names):
    """The first name of each number of bits: what somebody would type who wants "8 bits" and "4 bits"."""
    return [x for b in "84" for x in [n for n in names if bits_of(n) == b][:1]]


def parse_serve_result(text):
    """A result of `bench serve`, which may hold several appended; the last counts."""
    d = json.loads(text.strip().split("\n")[-1])
    if d.get("failed"):
        raise Failed(f"{d['failed']} requests of the server benchmark failed")
    out = {"output_tok_s": d["output_throughput"]}
    for m in ("ttft", "itl"):
        for p in ("50", "99"):
            out[f"{m}_p{p}_ms"] = d[f"p{p}_{m}_ms"]
    return out


def bits_of(scheme):
    return "4" if re.match(r"(int4|w4)", scheme) else "8" if re.match(r"(int8|w8)", scheme) else "16"


# ---- servers ----

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_healthy(child, port, timeout):
    """Seconds from exec to the first 200 of /health."""
    end = time.time() + timeout
    while time.time() < end:
        if child.poll() is not None:
            raise Failed(f"{child.what()} ended with {child.rc}: {child.words()}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as r:
                if r.status == 200:
                    return time.time() - child.t0
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.005)
    raise Failed(f"{child.what()} was not healthy after {timeout} s")


LOADS = {
    # name: (prompts, tokens in, shared prefix, tokens out, concurrency)
    "c8": (32, 128, 0, 64, 8),
    "c32-prefix": (32, 128, 512, 64, 32),
}


def run_load(systolic, port, tokenizer, load, timeout):
    n, n_in, prefix, n_out, conc = LOADS[load]
    with tempfile.TemporaryDirectory() as d:
        finish([systolic, "bench", "serve", "--port", str(port), "--tokenizer", tokenizer, "--num-prompts", str(n), "--random-input-len", str(n_in), "--random-output-len", str(n_out),
                "--random-prefix-len", str(prefix), "--max-concurrency", str(conc), "--temperature", "0", "--ignore-eos", "--num-warmups", "1", "--percentile-metrics", "ttft,itl", "--metric-percentiles", "50,99",
                "--save-result", "--result-dir", d, "--result-filename", "r.json", "--disable-tqdm"], timeout)
        return parse_serve_result(open(os.path.join(d, "r.json")).read())


class Engine:
    """One engine with one scheme of weights of one shape."""
    timeout, load_timeout = 240, 600   # seconds; a slow server still gets its figure

    def __init__(self, ctx, shape, scheme, bits):
        self.ctx, self.shape, self.scheme, self.bits = ctx, shape, scheme, bits
        self.vocab = ctx.config(shape)["vocab_size"]

    @property
    def label(self):
        return f"{self.name} {self.scheme}"

    def weight_bytes(self):
        """Bytes that one decode step of one sequence reads, None where it is not known."""
        return None

    def server_cmd(self, port, load):
        return None

    def serve(self, load):
        """Starts the server; its start time, and the figures of one load where one is named."""
        port = free_port()
        cmd = self.server_cmd(port, load)
        if not cmd:
            return {}
        c = Child(cmd)
        try:
            out = {"start_s": wait_healthy(c, port, self.timeout)}
            if load:
                out.update(run_load(self.ctx.systolic, port, self.ctx.setup.model_dir(self.shape), load, self.load_timeout))
        finally:
            c.stop()
        return {**out, "server_rss_bytes": c.rss_bytes}


class Systolic(Engine):
    name = "Systolic"

    def args(self):
        # what is made up is not worth keeping: writing it would be measured too
        dummy = [] if self.ctx.setup.artefact(self.shape, "hf") else ["--load-format", "dummy", "--weight-cache", "off"]
        quant = ["--quantization", self.scheme] if self.bits != "16" else []
        return ["--dtype", self.ctx.dtype, "--threads", str(self.ctx.threads), *quant, *dummy]

    def latency(self, n_in, n_out, batch, warm, iters):
        with tempfile.NamedTemporaryFile(suffix=".json") as f:
            c = finish([self.ctx.systolic, "bench", "latency", "--model", self.ctx.setup.model_dir(self.shape), "--input-len", str(n_in), "--output-len", str(n_out), "--batch-size", str(batch),
                        "--num-iters-warmup", str(warm), "--num-iters", str(iters), "--max-model-len", "1024", "--no-enable-prefix-caching", "--output-json", f.name, *self.args()], self.timeout)
            self.rss = max(self.rss, c.rss_bytes)
            return min(json.load(open(f.name))["latencies"])

    def measure(self, batches):
        self.rss = 0
        out = {"prefill": PREFILL / self.latency(PREFILL, 1, 1, 1, 1), "decode": {}}
        for b in batches:
            # A prompt of one token costs what a step of decode costs, so all steps are alike and nothing has to be subtracted.
            steps = STEPS if b < 16 else STEPS // 2
            out["decode"][b] = b * steps / self.latency(1, steps, b, 0, 2)
        return {**out, "rss_bytes": self.rss}

    def server_cmd(self, port, load):
        if not load and "dummy" in self.args():
            return None  # making weights up is no start anyone waits for
        return [self.ctx.systolic, "serve", self.ctx.setup.model_dir(self.shape), "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024", "--disable-uvicorn-access-log",
                "--log-level", "warning", *self.args()]

    def weight_bytes(self):
        # docs/quantization.md: scales of 16 bits for each group (128 for int4 without another), and the head of int4 is int8.
        m = re.search(r"_g(\d+)", self.scheme)
        group = int(m.group(1)) if m else 128 if self.bits == "4" else 0
        bits = int(self.bits) + (16 / group if group else 0)
        step, body, _ = self.ctx.parameters(self.shape)
        return (body * bits + (step - body) * (8 if self.bits == "4" else bits)) / 8


class LlamaCpp(Engine):
    name = "llama.cpp"
    schemes = {"BF16": "16", "Q8_0": "8", "Q4_0": "4"}

    def path(self):
        return self.ctx.setup.artefact(self.shape, "gguf-" + self.bits)

    def measure(self, batches):
        t = ["-t", str(self.ctx.threads)]
        c = finish([self.ctx.setup.llama("llama-bench"), "-m", self.path(), *t, "-p", str(PREFILL), "-n", str(STEPS), "-r", "1", "-o", "json"], self.timeout)
        d, rss = parse_llama_bench(c.text(c.out)), c.rss_bytes
        out = {"prefill": d["prefill"], "decode": {}}
        many = [b for b in batches if b > 1]
        if 1 in batches:
            out["decode"][1] = d["decode"]
        if many:
            c = finish([self.ctx.setup.llama("llama-batched-bench"), "-m", self.path(), *t, "-c", "8192", "-b", "2048", "-ub", "512", "-npp", "32", "-ntg", "16", "-npl", ",".join(map(str, many)), "-pps",
                        "--output-format", "jsonl"], self.timeout)
            out["decode"].update(parse_batched_bench(c.text(c.out) + c.text(c.err)))
            rss = max(rss, c.rss_bytes)
        return {**out, "rss_bytes": rss}

    def server_cmd(self, port, load):
        if not self.ctx.setup.llama("llama-server"):
            return None
        n, n_in, prefix, n_out, conc = LOADS[load or "c8"]
        return [self.ctx.setup.llama("llama-server"), "-m", self.path(), "-t", str(self.ctx.threads), "--host", "127.0.0.1", "--port", str(port), "--parallel", str(conc),
                "-c", str(conc * (-(-(n_in + prefix + n_out) // 256) * 256)), "-b", "2048", "-ub", "512", "--no-webui"]

    def weight_bytes(self):
        p, active = self.ctx.parameters(self.shape)[0], os.path.getsize(self.path())
        return active * p / self.ctx.parameters(self.shape)[2]


class Worker(Engine):
    def run_worker(self, script, env, path, batches, *more):
        c = finish([self.ctx.setup.python(env), os.path.join(HERE, script), path, str(self.ctx.threads), str(PREFILL), ",".join(map(str, batches)), str(self.vocab), *more], self.timeout)
        return {**parse_worker(c.text(c.out)), "rss_bytes": c.rss_bytes}


class OpenVino(Worker):
    name = "OpenVINO"
    schemes = {"16-bit": "16", "int8": "8", "int4 g64": "4"}

    def path(self):
        return self.ctx.setup.artefact(self.shape, "ov-" + self.bits)

    def measure(self, batches):
        return self.run_worker("openvino_worker.py", "openvino", self.path(), batches)

    def weight_bytes(self):
        return os.path.getsize(os.path.join(self.path(), "openvino_model.bin"))


class Transformers(Worker):
    name = "transformers"
    schemes = {"bf16": "16"}

    def path(self):
        return self.ctx.setup.artefact(self.shape, "hf") and self.ctx.setup.model_dir(self.shape)

    def measure(self, batches):
        return self.run_worker("torch_worker.py", "torch", self.path(), batches)

    def weight_bytes(self):
        return self.ctx.parameters(self.shape)[0] * 2


def all_engines(ctx, shape, bits, names):
    """The engines that can run this shape here; ctx.skip(...) is told of the others."""
    out = []

    def add(cls, schemes, ready, why):
        for scheme, b in schemes.items():
            if b not in bits:
                continue
            e = cls(ctx, shape, scheme, b)
            if ready(e):
                out.append(e)
            else:
                ctx.skip(f"{shape}, {e.label}", why(e))

    setup = ctx.setup
    schemes = {ctx.dtype: "16", **{q: bits_of(q) for q in ctx.quantizations}}
    for b in bits:
        if b not in schemes.values():
            ctx.skip(f"{shape}, Systolic {b} bit", "`serve --help=quantization` names no such scheme")
    add(Systolic, schemes, lambda e: not ctx.refuses(shape), lambda e: ctx.refuses(shape))
    if "llama.cpp" in names:
        add(LlamaCpp, LlamaCpp.schemes, lambda e: setup.llama("llama-bench") and e.path(), lambda e: "not set up")
    if "openvino" in names and shape == "qwen3-0.6b":
        add(OpenVino, OpenVino.schemes, lambda e: setup.python("openvino") and e.path(), lambda e: "not set up")
    if "transformers" in names and shape == "qwen3-0.6b":
        add(Transformers, Transformers.schemes, lambda e: setup.python("torch") and e.path(), lambda e: "not set up")
    return out
