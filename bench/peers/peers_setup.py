"""Sets up the peers in a cache folder, step by step: what is there is not made again, what fails or does not fit is skipped and said.

Only package registries are used, through pip. Each step writes cache/logs/STEP.log. Disk use is bounded: steps come in order of use, and one
that would pass the bound is skipped."""
import glob, json, os, shutil, subprocess, sys, time

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.realpath(os.path.join(HERE, "..", ".."))

LLAMA_SDIST = "llama-cpp-python==0.3.36"
OPENVINO = ["openvino==2026.4.1", "openvino-genai==2026.4.1.0", "openvino-tokenizers==2026.4.1.0", "nncf==3.4.0", "numpy", "pyyaml", "tqdm", "requests"]
TORCH = ["torch==2.15.0", "transformers==5.23.0"]
LLAMA_TARGETS = ["llama-bench", "llama-batched-bench", "llama-quantize", "llama-server"]
# What torch's wheel brings for GPUs and importing it on a CPU does not need, half of its size.
TORCH_EXTRA = ["triton", "nvidia/cudnn/lib/libcudnn_*", "nvidia/cu*/lib/libcusolver*", "nvidia/cusolver/lib/libcusolverMg*", "nvidia/cu*/lib/libnvrtc-builtins*"]

# Shape, its tokenizer in shared/realdata, parameters in billions, and what is made for it. In order: what does not fit any more is skipped.
SHAPES = {
    "qwen3-0.6b": ("qwen3", 0.596, ["hf", "gguf-16", "gguf-8", "gguf-4", "ov-16", "ov-8", "ov-4"]),
    "llama-3.2-1b": ("llama-3", 1.236, ["gguf-8", "gguf-4", "gguf-16"]),
    "moe-0.6b": ("qwen3", 0.58, ["gguf-8", "gguf-4", "gguf-16"]),
}
BYTES = {"hf": 2.0, "gguf-16": 2.0, "gguf-8": 1.08, "gguf-4": 0.65, "ov-16": 2.0, "ov-8": 1.02, "ov-4": 0.65}
FILES = {"hf": "hf/model.safetensors", "gguf-16": "bf16.gguf", "gguf-8": "q8_0.gguf", "gguf-4": "q4_0.gguf", "ov-16": "ov-16", "ov-8": "ov-int8", "ov-4": "ov-int4"}


class Skip(Exception):
    """A step that cannot be done here, with the reason."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def folder_gb(path):
    """Bytes really allocated, hard links once, in GB."""
    seen, total = set(), 0
    for top, _, files in os.walk(path):
        for f in files:
            try:
                s = os.lstat(os.path.join(top, f))
            except OSError:
                continue
            if (s.st_dev, s.st_ino) not in seen:
                seen.add((s.st_dev, s.st_ino))
                total += s.st_blocks * 512
    return total / 1e9


class Setup:
    def __init__(self, cache, jobs, disk_gb, torch_python=None):
        self.cache, self.jobs, self.disk_gb = cache, jobs, disk_gb
        self.given_torch = torch_python
        self.skipped = {}
        os.makedirs(os.path.join(cache, "logs"), exist_ok=True)

    def at(self, *parts):
        return os.path.join(self.cache, *parts)

    # ---- where things are; None where they are not ----
    def llama(self, tool):
        p = self.at("llama.cpp", "build", "bin", tool)
        return p if os.path.exists(p) else None

    def python(self, env):
        if env == "torch" and self.given_torch:
            return self.given_torch
        return self.at(env, "bin", "python") if os.path.exists(self.at(env, ".done")) else None

    def artefact(self, shape, what):
        p = self.at("models", shape, FILES[what])
        return p if os.path.exists(p) else None

    def model_dir(self, shape):
        """Configuration and tokenizer, with weights where the disk had room; what `systolic serve` takes."""
        return self.at("models", shape, "hf")

    # ---- steps ----
    def sh(self, step, cmd, cwd=None, tail=None):
        """Runs one command with its output in the step's log; shows the time and, of long ones, the last line."""
        log, t0, shown = self.at("logs", step + ".log"), time.time(), 0
        with open(log, "a") as f:
            f.write(f"\n$ {' '.join(cmd)}\n")
            f.flush()
            p = subprocess.Popen(["nice", "-n", "10", *cmd], cwd=cwd, stdout=f, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            while p.poll() is None:
                time.sleep(0.2)
                if time.time() - max(t0, shown) > 20:
                    shown = time.time()
                    say(f"    {shown - t0:.0f} s: {last_line(log)[:120]}")
        if p.returncode:
            raise Skip(f"{os.path.basename(cmd[0])} failed with {p.returncode}, see {log}: {last_line(log)[:200]}")

    def room_for(self, gb, what):
        used = folder_gb(self.cache)
        if used + gb > self.disk_gb:
            raise Skip(f"{what} needs {gb:.1f} GB, {used:.1f} of {self.disk_gb:g} GB are used (--disk-gb)")

    def step(self, name, have, gb, make):
        """True if the thing is there afterwards."""
        if have():
            return True
        try:
            self.room_for(gb, name)
            say(f"  {name} ...")
            t0 = time.time()
            make()
            if not have():
                raise Skip("nothing came out of it")
            say(f"  {name}: {time.time() - t0:.0f} s")
            return True
        except (Skip, OSError) as e:
            self.skipped[name] = str(e)
            say(f"  {name}: SKIPPED, {e}")
            return False

    def fetch_llama(self):
        if os.path.exists(self.at("llama.cpp", "src", "CMakeLists.txt")):
            return
        tmp = self.at("llama.cpp.fetch")
        shutil.rmtree(tmp, ignore_errors=True)
        os.makedirs(tmp)
        self.sh("llama.cpp", [sys.executable, "-m", "venv", os.path.join(tmp, "venv")])
        self.sh("llama.cpp", [os.path.join(tmp, "venv", "bin", "pip"), "download", "--no-deps", "--no-binary", "llama-cpp-python", "-d", tmp, LLAMA_SDIST])
        self.sh("llama.cpp", ["tar", "xzf", glob.glob(os.path.join(tmp, "*.tar.gz"))[0], "-C", tmp])
        os.makedirs(self.at("llama.cpp"), exist_ok=True)
        os.rename(glob.glob(os.path.join(tmp, "llama_cpp_python*", "vendor", "llama.cpp"))[0], self.at("llama.cpp", "src"))
        shutil.rmtree(tmp)

    def build_llama(self):
        if not shutil.which("cmake"):
            raise Skip("cmake is not installed")
        self.fetch_llama()
        off = [f"-D{o}=OFF" for o in ("BUILD_SHARED_LIBS", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_APP", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI", "LLAMA_OPENSSL", "LLAMA_ALL_WARNINGS")]
        self.sh("llama.cpp", ["cmake", "-S", "src", "-B", "build", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", *off], cwd=self.at("llama.cpp"))
        self.sh("llama.cpp", ["cmake", "--build", "build", f"-j{self.jobs}", "--target", *LLAMA_TARGETS], cwd=self.at("llama.cpp"))

    def make_env(self, env, packages):
        py = self.at(env, "bin", "python")
        if not os.path.exists(py):
            self.sh(env, [sys.executable, "-m", "venv", self.at(env)])
        self.sh(env, [py, "-m", "pip", "install", "--disable-pip-version-check", *packages])

    def make_openvino(self):
        self.make_env("openvino", OPENVINO)
        self.sh("openvino", [self.at("openvino", "bin", "python"), "-c", "import openvino_genai, nncf"])
        open(self.at("openvino", ".done"), "w").close()

    def make_torch(self):
        self.make_env("torch", TORCH)
        site = glob.glob(self.at("torch", "lib", "python3*", "site-packages"))[0]
        for pattern in TORCH_EXTRA:
            for p in glob.glob(os.path.join(site, pattern)):
                shutil.rmtree(p) if os.path.isdir(p) else os.unlink(p)
        self.sh("torch", [self.at("torch", "bin", "python"), "-c", "import torch, transformers"])
        open(self.at("torch", ".done"), "w").close()

    def tokenizer_dir(self, name, vocab):
        for shared in filter(None, (os.environ.get("SYSTOLIC_SHARED"), os.path.join(ROOT, "..", "shared"))):
            d = os.path.join(shared, "realdata", "tokenizers", name)
            if os.path.exists(os.path.join(d, "tokenizer.json")):
                return d
        d = self.at("models", "made-tokenizer-" + str(vocab))
        make_tokenizer(d, vocab)
        return d

    def model_gb(self, shape, what):
        """What an artefact takes, with what it is made from where that is not kept."""
        extra = 2.0 if what == "ov-16" or (what == "gguf-4" and not self.artefact(shape, "gguf-16")) else 0
        return SHAPES[shape][1] * (BYTES[what] + extra)

    def make_model(self, shape, what):
        tok_name, _, _ = SHAPES[shape]
        config_dir, out = os.path.join(ROOT, "bench", "shapes", shape), self.at("models", shape, FILES[what])
        tok = self.tokenizer_dir(tok_name, json.load(open(os.path.join(config_dir, "config.json")))["vocab_size"])
        log, gguf_py = "models-" + shape, self.at("llama.cpp", "src", "gguf-py")
        make = [self.python("openvino") or "", os.path.join(HERE, "checkpoints.py")]
        export = [self.python("openvino") or "", os.path.join(HERE, "openvino_export.py")]
        if not make[0]:
            raise Skip("needs the openvino environment")
        if what == "hf":
            self.sh(log, [*make, "hf", config_dir, tok, os.path.dirname(out)])
        elif what in ("gguf-16", "gguf-8"):
            self.sh(log, [*make, "gguf", config_dir, tok, out, "bf16" if what == "gguf-16" else "q8_0", gguf_py])
        elif what.startswith("gguf"):
            src = self.artefact(shape, "gguf-16") or out + ".bf16"
            if not os.path.exists(src):
                self.sh(log, [*make, "gguf", config_dir, tok, src, "bf16", gguf_py])
            self.sh(log, [self.llama("llama-quantize") or "", src, out + ".part", "Q4_0", str(self.jobs)])
            os.rename(out + ".part", out)
        elif what == "ov-16":
            src = self.at("models", shape, "f16.gguf")
            if not os.path.exists(src):
                self.sh(log, [*make, "gguf", config_dir, tok, src, "f16", gguf_py])
            self.sh(log, [*export, "16", src, out])
            os.unlink(src)
        else:
            self.sh(log, [*export, "int8" if what == "ov-8" else "int4", self.artefact(shape, "ov-16") or "", out])

    def small_files(self, shape):
        """Configuration and tokenizer without weights, enough for --load-format dummy."""
        d, config_dir = self.model_dir(shape), os.path.join(ROOT, "bench", "shapes", shape)
        os.makedirs(d, exist_ok=True)
        c = json.load(open(os.path.join(config_dir, "config.json")))
        tok = self.tokenizer_dir(SHAPES[shape][0], c["vocab_size"])
        for src in (config_dir, tok):
            for f in ("config.json", "tokenizer.json", "tokenizer_config.json"):
                if os.path.exists(os.path.join(src, f)) and not os.path.exists(os.path.join(d, f)):
                    with open(os.path.join(src, f), "rb") as a, open(os.path.join(d, f), "wb") as b:
                        b.write(a.read())

    def everything(self, shapes, peers, bits):
        """All that the run needs; False for a name in self.skipped where something could not be made."""
        say(f"peers in {self.cache} (at most {self.disk_gb:g} GB)")
        llama = "llama.cpp" in peers and self.step("llama.cpp", lambda: all(self.llama(t) for t in LLAMA_TARGETS), 0.5, self.build_llama)
        env = self.step("openvino", lambda: self.python("openvino"), 1.0, self.make_openvino)
        for shape in shapes:
            self.small_files(shape)
            for what in SHAPES[shape][2]:
                kind, _, b = what.partition("-")
                wanted = {"hf": True, "gguf": llama and b in bits, "ov": "openvino" in peers and (b in bits or b == "16")}[kind]
                if wanted and env:
                    self.step(f"{shape} {what}", lambda: self.artefact(shape, what), self.model_gb(shape, what), lambda: self.make_model(shape, what))
            for scrap in glob.glob(self.at("models", shape, "*.bf16")):
                os.unlink(scrap)
        if "transformers" in peers:
            self.step("torch", lambda: self.python("torch"), 5.8, self.make_torch)
        say(f"set up: {folder_gb(self.cache):.1f} GB" + (f", {len(self.skipped)} skipped" if self.skipped else ""))


def last_line(path):
    with open(path, "rb") as f:
        f.seek(max(0, os.fstat(f.fileno()).st_size - 4096))
        lines = [x.strip() for x in f.read().decode(errors="replace").replace("\r", "\n").split("\n") if x.strip()]
    return lines[-1] if lines else ""


def make_tokenizer(d, vocab):
    """A byte-level tokenizer with the size asked for and no merges, for where the real one is not there."""
    os.makedirs(d, exist_ok=True)
    path = os.path.join(d, "tokenizer.json")
    if os.path.exists(path):
        return
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars = {b: chr(b) for b in visible}
    for n, b in enumerate(b for b in range(256) if b not in chars):
        chars[b] = chr(256 + n)
    ids = {chars[b]: b for b in range(256)}
    ids.update({f"word{i}": i for i in range(256, vocab)})
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    with open(path + ".part", "w") as f:
        json.dump({"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
                   "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": ids, "merges": []}}, f)
    os.rename(path + ".part", path)
