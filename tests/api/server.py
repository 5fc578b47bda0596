"""Starts a built server on a free port and talks to it: shared by the API tests and the soak run (standard library only)."""
import http.client, json, os, random, signal, socket, subprocess, sys, tempfile, time

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
SHARED = os.environ.get("SYSTOLIC_SHARED", os.path.join(ROOT, "..", "shared"))
BUNDLED = os.path.join(ROOT, "models", "systolic-tiny")

def binary():
    if "--bin" in sys.argv: return os.path.abspath(sys.argv[sys.argv.index("--bin") + 1])
    return os.path.join(ROOT, "build", "systolic")

def free_port():
    """Not one that the kernel gives to other connections meanwhile."""
    while True:
        port = random.randrange(10000, 32000)
        with socket.socket() as s:
            try: s.bind(("127.0.0.1", port))
            except OSError: continue
            return port

class Server:
    """with Server(model, "--flag", "value") as s: s.post("/v1/completions", {...}). The log is kept in s.log_text()."""
    def __init__(self, model=BUNDLED, *args, env=None, wait=60, health="/health"):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.NamedTemporaryFile("w+", prefix="systolic-", suffix=".log", delete=False)
        self.t_exec = time.time()
        self.p = subprocess.Popen([binary(), "serve", model, "--host", "127.0.0.1", "--port", str(self.port), *args],
                                  stdout=self.log, stderr=subprocess.STDOUT, env=dict(os.environ, **(env or {})))
        while True:
            if self.p.poll() is not None: raise RuntimeError(f"server exited with {self.p.returncode}: {self.log_text()[-2000:]}")
            try:
                if self.request("GET", health, timeout=5)[0] == 200: break
            except OSError: pass
            if time.time() - self.t_exec > wait:
                self.stop()
                raise RuntimeError(f"not healthy within {wait} s: {self.log_text()[-2000:]}")
            time.sleep(0.01)
        self.t_healthy = time.time() - self.t_exec

    def log_text(self):
        self.log.flush()
        with open(self.log.name, errors="replace") as f: return f.read()

    def connect(self, timeout=60): return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, timeout=60):
        """(status, parsed JSON or text)"""
        c = self.connect(timeout)
        try:
            data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
            h = {"Content-Type": "application/json"} if data is not None else {}
            h.update(headers or {})
            c.request(method, path, data, h)
            r = c.getresponse()
            raw = r.read()
            self.headers = r.headers
            try: return r.status, json.loads(raw)
            except ValueError: return r.status, raw.decode("utf-8", "replace")
        finally: c.close()

    def post(self, path, body, **kw): return self.request("POST", path, body, **kw)
    def get(self, path, **kw): return self.request("GET", path, **kw)

    def stream(self, path, body, headers=None, timeout=60):
        """Yields the parsed events of a stream; ends after [DONE]."""
        c = self.connect(timeout)
        try:
            c.request("POST", path, json.dumps(dict(body, stream=True)), dict({"Content-Type": "application/json"}, **(headers or {})))
            r = c.getresponse()
            if r.status != 200: raise RuntimeError(f"HTTP {r.status}: {r.read()[:500]}")
            for line in r:
                if not line.startswith(b"data: "): continue
                if line.strip() == b"data: [DONE]": return
                yield json.loads(line[6:])
        finally: c.close()

    def rss(self):
        """Resident bytes."""
        with open(f"/proc/{self.p.pid}/statm") as f: return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def metric(self, name):
        """Sum of a metric over its label sets."""
        total, text = 0.0, self.get("/metrics")[1]
        for line in text.split("\n"):
            if line.startswith(name) and (line[len(name)] in "{ "): total += float(line.rsplit(" ", 1)[1])
        return total

    def stop(self, sig=signal.SIGTERM, wait=30):
        if self.p.poll() is None:
            self.p.send_signal(sig)
            try: self.p.wait(wait)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()
        return self.p.returncode

    def __enter__(self): return self
    def __exit__(self, *exc):
        self.stop()
        self.log.close()
        if exc[0] is None: os.unlink(self.log.name)

class Skip(Exception): pass

def run(tests):
    """Runs test functions; ends with the line that tools/check.sh reads. A test may raise Skip."""
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    only = sys.argv[sys.argv.index("-k") + 1] if "-k" in sys.argv else ""
    passed = failed = skipped = 0
    for t in tests:
        if only not in t.__name__: continue
        try:
            t()
            passed += 1
        except Skip as e:
            skipped += 1
            print(f"  skipped: {t.__name__}: {e}")
        except Exception as e:
            failed += 1
            import traceback
            traceback.print_exc(limit=-4)
            print(f"FAIL {t.__name__}: {type(e).__name__}: {str(e)[:1000]}")
        sys.stdout.flush()
    print(f"{name}: {passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    sys.exit(failed != 0)
