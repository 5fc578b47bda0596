#!/usr/bin/env python3
"""A local Hugging Face hub with faults, and the tests of our downloads against it.

The hub speaks the routes that a client needs (the model's list, HEAD and GET of a file, redirects to a second server
that plays the CDN). A test plants faults, runs the client (`test_hub get ...`) with a fresh HF_HOME and looks at what
it printed, what it asked and what it left on disk. Where huggingface_hub is installed, caches are exchanged with it.

  python3 tests/api/hub.py --tool build/tests/unit/load/test_hub [--only NAME] [--but NAME]
"""
import argparse, collections, concurrent.futures, hashlib, http.server, importlib.util, json, os, pathlib, pty, re, shutil, ssl, struct, subprocess, sys, tempfile, threading, time

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


def safetensors(tensors):
    """name -> bytes, all U8."""
    header, data = {}, b""
    for name, b in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(b)], "data_offsets": [len(data), len(data) + len(b)]}
        data += b
    h = json.dumps(header).encode()
    return struct.pack("<Q", len(h)) + h + data


def pattern(n, seed):
    return (hashlib.sha256(seed.encode()).digest() * (n // 32 + 1))[:n]


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


BIG = safetensors({"a": pattern(3_000_000, "a")})
SMALL_SHARD = safetensors({"b": pattern(1000, "b")})
SHARDED = {
    "config.json": b'{"model_type":"llama"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"version":"1.0"}',
    "tokenizer_config.json": b"{}",
    "README.md": b"# no",
    "original/params.json": b"{}",
    "additional_chat_templates/tool_use.jinja": b"T",
    "consolidated.safetensors": BIG,
    "pytorch_model.bin": b"pickle",
    "model-00001-of-00002.safetensors": BIG,
    "model-00002-of-00002.safetensors": SMALL_SHARD,
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}).encode(),
}
WANTED = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "additional_chat_templates/tool_use.jinja",
          "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"}
SINGLE = {"config.json": b"{}", "model.safetensors": BIG}


class Hub:
    """State shared by both servers. `models` maps id -> files; `faults` is a list of [method, path regex, times, fault]."""

    def __init__(self):
        self.hub = self.serve(Routes)
        self.cdn = self.serve(Cdn)
        self.models = {"org/sharded": dict(SHARDED), "org/single": dict(SINGLE)}
        self.faults, self.log, self.token = [], [], None
        self.siblings = None

    def serve(self, handler):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("H", (handler,), {"state": self}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    scheme = "http"
    url = property(lambda self: f"{self.scheme}://127.0.0.1:{self.hub.server_address[1]}")
    cdn_url = property(lambda self: f"{self.scheme}://127.0.0.1:{self.cdn.server_address[1]}")

    def secure(self, folder):
        """From now on both servers speak TLS with a certificate of their own; returns its file."""
        cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
        try:
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
                            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert], check=True, capture_output=True)
        except FileNotFoundError: raise Skipped("no openssl program")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        for server in (self.hub, self.cdn): server.socket = context.wrap_socket(server.socket, server_side=True)
        self.scheme = "https"
        return cert

    def fault(self, method, path, fault, times=1):
        self.faults.append([method, re.compile(path), times, fault])

    def take_fault(self, method, path):
        for f in self.faults:
            if f[0] == method and f[2] > 0 and f[1].search(path):
                f[2] -= 1
                return f[3]
        return {}

    def asked(self, method, path):
        return [r for r in self.log if r.method == method and re.search(path, r.path)]


Request = collections.namedtuple("Request", "server method path headers")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # 40 ms for each answer otherwise
    name = "?"

    def log_message(self, *a):
        pass

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    def do_GET(self):
        self.state.log.append(Request(self.name, self.command, self.path, dict(self.headers.items())))
        fault = self.state.take_fault(self.command, self.path)
        if "status" in fault:
            return self.answer(fault["status"], fault.get("headers", {}), fault.get("body", b"{}"))
        if "stall" in fault:
            time.sleep(fault["stall"])
            self.close_connection = True
            return None
        return self.route(fault)

    do_HEAD = do_GET

    def answer(self, code, headers, body=b"", cut=None):
        self.send_response(code)
        headers = dict(headers)
        headers.setdefault("Content-Length", str(len(body)))
        for k, v in headers.items():
            if v is not None:
                self.send_header(k, v)
        if headers["Content-Length"] is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut is None else body[:cut])
        self.wfile.flush()
        if cut is not None:
            self.close_connection = True
            self.connection.shutdown(2)

    def send_file(self, data, fault, headers):
        """A file's bytes with Range, as faulty as asked for."""
        data = fault.get("data", data)
        code, start = 200, 0
        m = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if m and not fault.get("no_range"):
            start = int(m.group(1))
            if start >= len(data):
                return self.answer(416, {"Content-Range": f"bytes */{len(data)}"})
            shift = fault.get("shift", 0)
            code = 206
            headers = {**headers, "Content-Range": f"bytes {start + shift}-{len(data) - 1}/{len(data)}"}
        if fault.get("unsized"):
            headers = {**headers, "Content-Length": None}
        return self.answer(code, headers, data[start:], fault.get("cut"))


class Routes(Handler):
    name = "hub"

    def route(self, fault):
        state = self.state
        if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
            return self.answer(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."})
        m = re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)/revision/([^/?]+)(?:\?.*)?", self.path)
        if m:
            files = state.models.get(m[1])
            if files is None:
                return self.answer(404, {"X-Error-Code": "RepoNotFound"})
            if m[2] not in ("main", COMMIT, "refs%2Fpr%2F1"):
                return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            names = state.siblings or list(files)
            body = json.dumps({"id": m[1], "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}).encode()
            return self.answer(200, {"Content-Type": "application/json"}, fault.get("data", body))
        m = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/?]+\?.*", self.path)  # Python's newer clients
        if m:
            entries = []
            for name, data in state.models[m[1]].items():
                e = {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)}
                if name.endswith(".safetensors"):
                    e["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
                entries.append(e)
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(entries).encode())
        m = re.fullmatch(r"/((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not m or m[1] not in state.models:
            return self.answer(404, {"X-Error-Code": "RepoNotFound"})
        data = state.models[m[1]].get(m[3])
        if data is None:
            return self.answer(404, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes", **fault.get("extra", {})}
        if m[3].endswith(".safetensors"):  # LFS: elsewhere
            etag = hashlib.sha256(data).hexdigest()
            headers = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data)), "Location": f"{state.cdn_url}/{m[1]}/{m[3]}?sig=1", **headers}
            return self.answer(302, headers)
        return self.send_file(data, fault, {"ETag": f'"{git_sha1(data)}"', **headers})


class Cdn(Handler):
    name = "cdn"

    def route(self, fault):
        m = re.fullmatch(r"/(org/[^/]+)/(.+)\?sig=1", self.path)
        if not m:  # an unsigned address
            return self.answer(403, {})
        model, name = m.groups()
        return self.send_file(self.state.models[model][name], fault, {"ETag": '"cdn"'})


# ---- running the client ----

class Failed(Exception):
    pass


class Skipped(Exception):
    pass


def check(cond, what):
    if not cond:
        raise Failed(what)


class Client:
    def __init__(self, tool, hub, home):
        self.tool, self.hub, self.home = tool, hub, pathlib.Path(home)
        self.cache = self.home / "hub"

    def env(self, **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "XDG_", "TRANSFORMERS_"))}
        return {**env, "HF_HOME": str(self.home), "HF_ENDPOINT": self.hub.url, "HF_HUB_DOWNLOAD_TIMEOUT": "1", "VLLM_LOGGING_LEVEL": "INFO", **more}

    def start(self, *args, env=None, **kw):
        return subprocess.Popen([self.tool, "get", *args], env=self.env(**(env or {})), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)

    def run(self, *args, env=None, **kw):
        p = self.start(*args, env=env, **kw)
        out, err = p.communicate(timeout=120)
        self.err = err
        check(p.returncode in (0, 1), f"exit status {p.returncode}: {out}{err[-3000:]}")
        check(out.count("\n") == 1, f"not one line: {out!r}")
        return p.returncode, out.strip()

    def ok(self, *args, **kw):
        rc, out = self.run(*args, **kw)
        check(rc == 0, f"failed: {out}\n{self.err}")
        return pathlib.Path(out)

    def fails(self, code, text, *args, **kw):
        rc, out = self.run(*args, **kw)
        check(rc == 1 and out.startswith(code + ": ") and text in out, f"wanted '{code}: ...{text}...', got: {out}")
        return out

    def repo(self, model):
        return self.cache / ("models--" + model.replace("/", "--"))

    def blobs(self, model):
        return {p.name for p in (self.repo(model) / "blobs").iterdir()}

    def holds(self, model, files, names):
        snap = self.repo(model) / "snapshots" / COMMIT
        got = {str(p.relative_to(snap)) for p in snap.rglob("*") if not p.is_dir()}
        check(got == set(names), f"files {sorted(got)}, wanted {sorted(names)}")
        for n in names:
            check((snap / n).read_bytes() == files[n], f"{n} differs")
        check(not [b for b in self.blobs(model) if b.endswith(".incomplete")], "an .incomplete file is left")


TESTS = []


def test(f):
    TESTS.append(f)
    return f


@test
def downloads_what_serving_needs(hub, c):
    d = c.ok("org/sharded")
    check(d == c.repo("org/sharded") / "snapshots" / COMMIT, f"folder {d}")
    c.holds("org/sharded", SHARDED, WANTED)
    check((c.repo("org/sharded") / "refs/main").read_text() == COMMIT, "refs/main")
    sha = hashlib.sha256(BIG).hexdigest()
    check(os.readlink(d / "model-00001-of-00002.safetensors") == f"../../blobs/{sha}", "link")
    check(os.readlink(d / "additional_chat_templates/tool_use.jinja").startswith("../../../blobs/"), "nested link")
    check((c.cache / ".locks/models--org--sharded" / f"{sha}.lock").exists(), "lock")
    n = len(hub.log)
    c.ok("org/sharded")
    check(len(hub.log) == n + 1, "the second time only the list is asked for")


@test
def over_https(hub, c):
    cert = hub.secure(c.home)
    c.fails("i/o", "certificate", "org/sharded")  # nobody vouches for it
    c.ok("org/sharded", env={"REQUESTS_CA_BUNDLE": cert})
    c.holds("org/sharded", SHARDED, set(WANTED))


@test
def config_only(hub, c):
    c.ok("--no-weights", "org/sharded")
    c.holds("org/sharded", SHARDED, {n for n in WANTED if "model" not in n})


@test
def ignored_patterns(hub, c):
    c.ok("--ignore", "tokenizer*", "--ignore", "*_templates*", "org/sharded")
    c.holds("org/sharded", SHARDED, {n for n in WANTED if not n.startswith(("tokenizer", "additional"))})


@test
def revisions(hub, c):
    c.ok("--revision", COMMIT, "org/single")
    check(not (c.repo("org/single") / "refs").exists(), "a commit needs no ref")
    c.ok("--revision", "refs/pr/1", "org/single")
    check((c.repo("org/single") / "refs/refs/pr/1").read_text() == COMMIT, "ref of a pull request")
    c.fails("not found", 'model org/single has no revision "v9"', "--revision", "v9", "org/single")
    c.fails("not found", "model org/none was not found", "org/none")


@test
def the_token_stays_with_the_hub(hub, c):
    hub.token = "hf_secret"
    c.fails("denied", "set HF_TOKEN", "org/single")
    c.fails("denied", "refused the token", "--token", "hf_wrong", "org/single")
    c.ok("org/single", env={"HF_TOKEN": " hf_secret\n"})
    check(all("Authorization" not in r.headers for r in hub.log if r.server == "cdn"), "the CDN saw the token")
    check(hub.asked("GET", "sig=1"), "the CDN was asked")
    shutil.rmtree(c.cache)
    (c.home / "token").write_text("hf_secret\n")
    c.ok("org/single")
    out = c.fails("invalid", "HF_TOKEN", "org/single", env={"HF_TOKEN": "a\r\nX: y"})
    check("X: y" not in out, "the token is not shown")


@test
def gated(hub, c):
    hub.fault("GET", "/api/", {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}})
    out = c.fails("denied", "org/single is gated: accept its conditions at " + hub.url + "/org/single", "org/single")
    check("HF_TOKEN" in out, "names the token")
    hub.fault("HEAD", "model.safetensors", {"status": 401, "headers": {"X-Error-Code": "GatedRepo"}})
    c.fails("denied", "org/single is gated", "org/single")


@test
def cut_connections_resume(hub, c):
    for n in (1_000_000, 700_000, 10, 0):
        hub.fault("GET", r"model\.safetensors\?sig", {"cut": n})
    c.ok("org/single")
    c.holds("org/single", SINGLE, SINGLE)
    ranges = [r.headers.get("Range") for r in hub.asked("GET", "sig=1")]
    check(ranges == [None, "bytes=1000000-", "bytes=1700000-", "bytes=1700010-", "bytes=1700010-"], f"ranges {ranges}")


@test
def resumes_in_the_next_run(hub, c):
    hub.fault("GET", r"sig=1", {"cut": 1_000_000})
    hub.fault("GET", r"sig=1", {"cut": 0}, times=4)
    hub.fault("GET", r"sig=1", {"status": 500}, times=1)
    out = c.fails("i/o", "gave up after 5 attempts", "org/single")
    part = c.repo("org/single") / "blobs" / (hashlib.sha256(BIG).hexdigest() + ".incomplete")
    check(part.stat().st_size == 1_000_000, f"kept {part.stat().st_size}")
    check("model.safetensors" in out, out)
    hub.log.clear()
    c.ok("org/single")
    c.holds("org/single", SINGLE, SINGLE)
    check(hub.asked("GET", "sig=1")[0].headers.get("Range") == "bytes=1000000-", "resumed")


@test
def killed_and_resumed(hub, c):
    hub.fault("GET", r"sig=1", {"cut": 2_000_000})
    hub.fault("GET", r"sig=1", {"stall": 5}, times=9)
    p = c.start("org/single", env={"HF_HUB_DOWNLOAD_TIMEOUT": "60"})
    part = c.repo("org/single") / "blobs" / (hashlib.sha256(BIG).hexdigest() + ".incomplete")
    for _ in range(100):
        if part.exists() and part.stat().st_size == 2_000_000:
            break
        time.sleep(0.05)
    p.kill()
    p.communicate()
    check(part.stat().st_size == 2_000_000, "what had arrived is kept")
    hub.faults.clear()
    hub.log.clear()
    c.ok("org/single")
    c.holds("org/single", SINGLE, SINGLE)
    check(hub.asked("GET", "sig=1")[0].headers.get("Range") == "bytes=2000000-", "resumed")


@test
def servers_that_cannot_resume(hub, c):
    hub.fault("GET", r"sig=1", {"cut": 1_000_000})
    hub.fault("GET", r"sig=1", {"no_range": True})
    c.ok("org/single")
    c.holds("org/single", SINGLE, SINGLE)
    shutil.rmtree(c.cache)
    hub.fault("GET", r"sig=1", {"cut": 1_000_000})
    hub.fault("GET", r"sig=1", {"shift": 1})  # answers with another range: start again
    c.ok("org/single")
    c.holds("org/single", SINGLE, SINGLE)


@test
def early_end_without_a_length(hub, c):
    hub.fault("GET", r"sig=1", {"unsized": True, "data": BIG[:1_500_000]})
    c.ok("org/single")
    c.holds("org/single", SINGLE, SINGLE)
    check(hub.asked("GET", "sig=1")[1].headers.get("Range") == "bytes=1500000-", "resumed")


@test
def stalls(hub, c):
    hub.fault("HEAD", "config.json", {"stall": 3})
    hub.fault("GET", r"sig=1", {"stall": 3})
    c.ok("org/single")
    check("no byte arrived for 1 seconds" in c.err, c.err)
    c.holds("org/single", SINGLE, SINGLE)


@test
def server_errors(hub, c):
    hub.fault("GET", "/api/", {"status": 503}, times=2)
    hub.fault("HEAD", "config.json", {"status": 500})
    hub.fault("GET", "config.json", {"status": 502})
    hub.fault("GET", "sig=1", {"status": 504})
    c.ok("org/single")
    c.holds("org/single", SINGLE, SINGLE)
    shutil.rmtree(c.cache)
    hub.fault("GET", "/api/", {"status": 503}, times=9)
    c.fails("i/o", "gave up after 3 attempts: org/single: the hub answered 503", "org/single")


@test
def too_many_requests(hub, c):
    hub.fault("GET", "/api/", {"status": 429, "headers": {"Retry-After": "1"}})
    hub.fault("GET", "sig=1", {"status": 429, "headers": {"Retry-After": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3))}})
    t = time.time()
    c.ok("org/single")
    check(time.time() - t >= 1.9, "Retry-After was not respected")
    c.holds("org/single", SINGLE, SINGLE)
    hub.fault("GET", "/api/", {"status": 429, "headers": {"Retry-After": "100000"}})
    shutil.rmtree(c.cache)
    c.fails("limit", "the server asks to wait 100000 seconds: org/single: the hub says too many requests (429)", "org/single")


@test
def wrong_contents(hub, c):
    bad = BIG[:-1] + bytes([BIG[-1] ^ 1])
    hub.fault("GET", "sig=1", {"data": bad})
    c.ok("org/single")
    check("wrong contents: the SHA-256 is" in c.err, c.err)
    c.holds("org/single", SINGLE, SINGLE)
    shutil.rmtree(c.cache)
    hub.fault("GET", "sig=1", {"data": bad}, times=2)
    c.fails("i/o", "org/single/model.safetensors: wrong contents", "org/single")
    check(c.blobs("org/single") == {git_sha1(b"{}")}, f"left: {c.blobs('org/single')}")
    # a bad beginning from an earlier run
    (c.repo("org/single") / "blobs" / (hashlib.sha256(BIG).hexdigest() + ".incomplete")).write_bytes(b"x" * 1000)
    c.ok("org/single")
    c.holds("org/single", SINGLE, SINGLE)


@test
def wrong_length(hub, c):
    for data in (BIG[:-5], BIG + b"x"):
        hub.fault("GET", "sig=1", {"data": data}, times=2)
        c.fails("i/o", f"org/single/model.safetensors: wrong length: the hub lists {len(BIG)} bytes, the server sends {len(data)}", "org/single")
        hub.fault("GET", "sig=1", {"data": data, "unsized": True}, times=2)
        if len(data) > len(BIG):
            c.fails("i/o", "wrong length: the server sends more than", "org/single")
        else:
            c.ok("org/single")
        check(not [b for b in c.blobs("org/single") if b.endswith(".incomplete")], "an .incomplete file is left")
        shutil.rmtree(c.cache)
    hub.fault("GET", "config.json", {"data": b"{ }"}, times=2)
    c.fails("i/o", "org/single/config.json: wrong length", "org/single")


@test
def leftovers_in_the_cache(hub, c):
    sha = hashlib.sha256(BIG).hexdigest()
    blobs = c.repo("org/single") / "blobs"
    blobs.mkdir(parents=True)
    (blobs / sha).write_bytes(b"short")                # damaged: replaced
    c.ok("org/single")
    c.holds("org/single", SINGLE, SINGLE)
    check("downloading it again" in c.err, c.err)
    (blobs / sha).rename(blobs / (sha + ".incomplete"))  # complete, only not renamed: no byte is fetched
    hub.log.clear()
    c.ok("org/single")
    c.holds("org/single", SINGLE, SINGLE)
    check(not hub.asked("GET", "sig=1"), "fetched again")
    (blobs / sha).rename(blobs / (sha + ".incomplete"))
    with open(blobs / (sha + ".incomplete"), "ab") as f:
        f.write(b"too long")
    c.ok("org/single")
    c.holds("org/single", SINGLE, SINGLE)


@test
def a_disk_without_room(hub, c):
    p = subprocess.run(["sh", "-c", 'trap "" XFSZ; ulimit -f 200; exec "$0" "$@"', c.tool, "get", "org/single"], env=c.env(), capture_output=True, text=True, timeout=60)
    out = p.stdout
    check(p.returncode == 1 and out.startswith("i/o: org/single/model.safetensors: cannot write"), out + p.stderr)
    check("File too large" in out, out)
    hub.fault("HEAD", "model.safetensors", {"extra": {"X-Linked-Size": str(1 << 60)}})
    c.fails("i/o", "no space for model.safetensors: it needs 1152922 TB", "org/single")
    if subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", "size=2m", "none", c.home], capture_output=True).returncode != 0:
        raise Skipped("no private tmpfs here: ENOSPC is not tried")
    shutil.rmtree(c.cache)
    os.makedirs(c.cache)
    script = f'mount -t tmpfs -o size=2m none "{c.cache}" && exec "$0" "$@"'
    p = subprocess.run(["unshare", "-Urm", "sh", "-c", script, c.tool, "get", "org/single"], env=c.env(), capture_output=True, text=True, timeout=60)
    check(p.returncode == 1 and "no space for model.safetensors" in p.stdout, p.stdout + p.stderr)


@test
def a_cache_we_may_not_write(hub, c):
    c.cache.write_text("a file where the folder should be")
    c.fails("i/o", "cannot create the folder", "org/single")
    c.cache.unlink()
    if os.geteuid() == 0:
        return
    c.cache.mkdir()
    c.cache.chmod(0o500)
    c.fails("denied", "Permission denied", "org/single")
    c.cache.chmod(0o700)


@test
def offline(hub, c):
    offline = {"HF_HUB_OFFLINE": "1"}
    c.fails("not found", f"revision main is not in the cache folder {c.repo('org/sharded')}", "org/sharded", env=offline)
    c.ok("--no-weights", "org/sharded")
    c.ok("--no-weights", "org/sharded", env=offline)
    c.fails("not found", "the weights", "org/sharded", env=offline)
    c.ok("org/sharded")
    n = len(hub.log)
    d = c.ok("org/sharded", env=offline)
    c.ok("--offline", "--revision", COMMIT, "org/sharded")
    (d / "model-00002-of-00002.safetensors").unlink()
    c.fails("not found", f"model-00002-of-00002.safetensors is missing in the cache folder {d}", "org/sharded", env={"TRANSFORMERS_OFFLINE": "yes"})
    check(len(hub.log) == n, "the hub was asked")


@test
def an_unreachable_hub(hub, c):
    dead = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    c.fails("i/o", "and the cache has no complete copy", "org/single", env={**dead})
    c.ok("org/single")
    c.ok("org/single", env={**dead})
    check("using the copy in" in c.err, c.err)
    c.fails("invalid", "HF_ENDPOINT", "org/single", env={"HF_ENDPOINT": "ftp://x"})


@test
def hostile_answers(hub, c):
    outside = c.home / "evil"
    for name in ("../../../evil", "/etc/evil", "a/../../evil", "a\\b", "..", "x\n", ""):
        hub.siblings = ["config.json", name]
        c.fails("invalid", "the hub lists a file with an unsafe name", "org/single")
    hub.siblings = None
    for etag in ('"../../../../evil"', '".."', '"a/b"', '""', '"' + "a" * 200 + '"'):
        hub.fault("HEAD", "config.json", {"extra": {"ETag": etag}})
        c.fails("invalid", "no usable ETag", "org/single")
    hub.fault("HEAD", "config.json", {"extra": {"X-Repo-Commit": OTHER}})
    c.fails("invalid", "another commit", "org/single")
    hub.fault("HEAD", "model.safetensors", {"extra": {"X-Linked-Size": "-5"}})
    c.fails("invalid", "X-Linked-Size", "org/single")
    for data in (b"", b"[]", b"{", b'{"sha":"../x","siblings":[]}', b'{"sha":"%s"}' % COMMIT.encode(), b"[" * 100000):
        hub.fault("GET", "/api/", {"data": data})
        rc, out = c.run("org/single")
        check(rc == 1 and out.startswith("invalid: "), out)
    hub.models["org/single"] = {"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map":{"a":"../../x.safetensors"}}'}
    c.fails("invalid", "must name a file in the same folder", "org/single")
    shutil.rmtree(c.cache)
    hub.models["org/single"]["model.safetensors.index.json"] = b'{"weight_map":{"a":"x.safetensors"} }'
    c.fails("not found", "names x.safetensors, which the model does not have", "org/single")
    check(not outside.exists() and not (c.cache / "evil").exists(), "wrote outside")


@test
def models_without_safetensors(hub, c):
    hub.models["org/bin"] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    c.fails("unsupported", "org/bin has no *.safetensors; pytorch_model.bin is not read", "org/bin")
    hub.models["org/none"] = {"config.json": b"{}"}
    c.fails("not found", "org/none has no weights", "org/none")
    hub.models["org/odd"] = {"config.json": b"{}", "b.safetensors": SMALL_SHARD, "consolidated.safetensors": BIG}
    c.ok("org/odd")
    c.holds("org/odd", hub.models["org/odd"], {"config.json", "b.safetensors"})


@test
def renamed_models_and_mirrors(hub, c):
    hub.fault("HEAD", "/resolve/.*config.json", {"status": 307, "headers": {"Location": f"/org/sharded/resolve/{COMMIT}/config.json"}})
    hub.models["org/sharded"]["config.json"] = SINGLE["config.json"]
    c.ok("--no-weights", "org/single")
    shutil.rmtree(c.cache)
    # a mirror that sends everything elsewhere, without an ETag of its own
    for method in ("HEAD", "HEAD", "GET"):
        hub.fault(method, "/org/single/resolve/.*config.json", {"status": 302, "headers": {"Location": f"{hub.url}/org/sharded/resolve/{COMMIT}/config.json"}})
    c.ok("--no-weights", "org/single")
    shutil.rmtree(c.cache)
    hub.fault("HEAD", "config.json", {"status": 307, "headers": {"Location": f"/org/single/resolve/{COMMIT}/config.json"}}, times=99)
    c.fails("limit", "more than 5 redirects", "org/single")


@test
def two_at_once(hub, c):
    hub.fault("GET", "sig=1", {"cut": 1_000_000})
    runs = [c.start("org/single") for _ in range(3)]
    for p in runs:
        out, err = p.communicate(timeout=60)
        check(p.returncode == 0, out + err)
    c.holds("org/single", SINGLE, SINGLE)
    check(len(hub.asked("GET", "sig=1")) == 2, "the weights were downloaded once (in two pieces)")


@test
def progress_lines(hub, c):
    c.ok("--progress", "org/single")
    check(re.search(r"model\.safetensors: 3\.0 MB downloaded in [0-9.]+ s \(.*/s\)", c.err), c.err)
    shutil.rmtree(c.cache)
    try: primary, secondary = pty.openpty()
    except OSError as e: raise Skipped(f"no terminal to be had here: {e}")
    p = subprocess.Popen([c.tool, "get", "--progress", "org/single"], env=c.env(), stdout=subprocess.DEVNULL, stderr=secondary)
    os.close(secondary)
    text = b""
    try:
        while chunk := os.read(primary, 65536):
            text += chunk
    except OSError:
        pass
    p.wait()
    check(b"\rmodel.safetensors 100% [====" in text and b"3.0 MB/3.0 MB" in text, text)


@test
def caches_are_exchanged_with_python(hub, c):
    if not importlib.util.find_spec("huggingface_hub"):
        raise Skipped("huggingface_hub is not installed")
    script = "import sys, huggingface_hub as h; print(h.snapshot_download('org/sharded', allow_patterns=sys.argv[1:]))"
    python = lambda *names, **env: subprocess.run([sys.executable, "-c", script, *names], env=c.env(HF_HUB_DISABLE_XET="1", **env), capture_output=True, text=True, timeout=100)
    p = python(*WANTED)
    check(p.returncode == 0, p.stderr)
    hub.log.clear()
    d = c.ok("org/sharded")
    check(str(d) == p.stdout.strip().splitlines()[-1], p.stdout)
    check([r.method for r in hub.log] == ["GET"], "only the list is asked for")
    c.holds("org/sharded", SHARDED, WANTED)
    shutil.rmtree(c.cache)
    c.ok("org/sharded")
    p = python(*WANTED, HF_HUB_OFFLINE="1")
    check(p.returncode == 0 and p.stdout.strip().splitlines()[-1] == str(d), p.stdout + p.stderr)
    hub.log.clear()
    p = python(*WANTED)
    check(p.returncode == 0 and not hub.asked("GET", "resolve|sig=1"), f"Python fetched again: {hub.log} {p.stderr}")


@test
def out_of_memory(hub, c):
    hub.models["org/tiny"] = {"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map":{"a":"b.safetensors"}}', "b.safetensors": SMALL_SHARD}
    os.makedirs(c.home / "dir")
    p = c.start("--oom", "--dir", str(c.home / "dir"), "org/tiny", env={"VLLM_LOGGING_LEVEL": "ERROR"})
    out, err = p.communicate(timeout=300)
    check(p.returncode == 0, out + err[-2000:])
    print("  " + out.strip())


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--tool", required=True, help="the test_hub program")
    ap.add_argument("--only", default="")
    ap.add_argument("--but", default="\0")
    args = ap.parse_args()
    counts = collections.Counter()

    def run(t):
        home = tempfile.mkdtemp(prefix="systolic-hub-")
        try:
            hub = Hub()
            t(hub, Client(os.path.abspath(args.tool), hub, home))
            return "passed", ""
        except Skipped as e:
            return "skipped", f"skipped: {t.__name__}: {e}"
        except (Failed, OSError, subprocess.SubprocessError) as e:
            return "failed", f"FAIL {t.__name__}: {e}"
        finally:
            shutil.rmtree(home, ignore_errors=True)

    tests = [t for t in TESTS if args.only in t.__name__ and args.but not in t.__name__]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:  # they mostly wait
        for outcome, text in pool.map(run, tests):
            counts[outcome] += 1
            if text:
                print(text, flush=True)
    print(f"hub.py: {counts['passed']} cases hold, {counts['failed']} do not" + (f", {counts['skipped']} skipped" if counts["skipped"] else ""))
    sys.exit(counts["failed"] != 0)


main()
