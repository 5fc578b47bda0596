#!/usr/bin/env python3
"""The server as a program: start-up and its errors, log lines, TLS, Unix socket, signals, flags that change the API (standard library only).

    test_raw_http.py [--bin build/systolic]
"""
import http.client, json, os, re, signal, socket, ssl, subprocess, tempfile, threading, time

from server import BUNDLED, Server, Skip, binary, free_port, run as main

TESTS = []
def test(f):
    TESTS.append(f)
    return f

def run(*args, env=None, timeout=30):
    p = subprocess.run([binary(), "serve", *args], capture_output=True, text=True, timeout=timeout, env=dict(os.environ, **(env or {})))
    return p.returncode, p.stdout, p.stderr

def fails(text, *args, code=1):
    rc, out, err = run(*args)
    last = err.strip().splitlines()[-1] if err.strip() else ""
    assert rc == code and last.startswith("systolic serve: error: ") and text in last, (rc, last)

@test
def version_and_help():
    p = subprocess.run([binary(), "--version"], capture_output=True, text=True)
    assert p.returncode == 0 and re.match(r"\d+\.\d+\.\d+", p.stdout), p
    assert run("--help")[1].count("--") > 200
    assert "--max-num-seqs" in run("--help=SchedulerConfig")[1]
    assert "--max-num-seqs" not in run("--help=CacheConfig")[1]
    assert "Frontend" in run("--help=listgroup")[1]

@test
def small_and_soon_healthy():
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(["strip", "-o", d + "/systolic", binary()], check=True)
        assert os.path.getsize(d + "/systolic") < 5 << 20, os.path.getsize(d + "/systolic")
    times = []
    for _ in range(3):
        with Server() as s: times.append(s.t_healthy)
    assert min(times) < 1, times

@test
def usage_errors():
    fails("unrecognized arguments: --frobnicate", BUNDLED, "--frobnicate", code=2)
    fails("--pipeline-parallel-size 2 is not supported yet", BUNDLED, "--pipeline-parallel-size", "2", code=2)
    fails("invalid choice", BUNDLED, "--dtype", "int9", code=2)

@test
def start_up_errors():
    fails("/nonexistent/model", "/nonexistent/model")
    with tempfile.TemporaryDirectory() as d:
        fails("config.json", d)
        open(d + "/config.json", "w").write("{")
        fails("config.json", d)
        for f in os.listdir(BUNDLED):
            data = open(f"{BUNDLED}/{f}", "rb").read()
            open(f"{d}/{f}", "wb").write(data[:len(data) // 2] if f == "model.safetensors" else data)
        fails("model.safetensors", d)
        open(d + "/model.safetensors", "wb").write(b"\xff" * 64)
        fails("model.safetensors", d)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        fails("in use", BUNDLED, "--host", "127.0.0.1", "--port", str(s.getsockname()[1]))
    fails("cert", BUNDLED, "--port", "0", "--ssl-certfile", "/nonexistent.pem", "--ssl-keyfile", "/nonexistent.key")
    fails("max_model_len", BUNDLED, "--max-model-len", "1000000")

@test
def log_lines():
    with Server(BUNDLED, "--enable-log-requests", "--enable-log-outputs", env={"VLLM_LOG_STATS_INTERVAL": "0.2"}) as s:
        assert s.t_healthy < 1.0 or os.environ.get("SLOW_MACHINE"), f"healthy after {s.t_healthy:.2f} s"
        s.post("/v1/completions", {"prompt": "Once", "max_tokens": 5, "temperature": 0}, headers={"X-Request-Id": "my-id"})
        time.sleep(0.5)
        text = s.log_text()
    for want in (r"INFO \d\d-\d\d \d\d:\d\d:\d\d \[serve\.c:\d+\] vLLM API server version 0\.33\.0", r"Initializing a V1 LLM engine \(v0\.33\.0\) with config: ",
                 r"Available KV cache memory: [\d.]+ GiB", r"KV cache size: [\d,]+ tokens, Maximum concurrency for [\d,]+ tokens per request: [\d.]+x",
                 r"init engine \(profile, create kv cache, warmup model\) took [\d.]+ s", r"Starting vLLM server on http://127\.0\.0\.1:\d+", r"INFO:     Started server process \[\d+\]",
                 r"INFO:     Waiting for application startup\.", r"INFO:     Application startup complete\.", r'INFO:     127\.0\.0\.1:\d+ - "POST /v1/completions HTTP/1\.1" 200 OK',
                 r"Received request cmpl-my-id: params: SamplingParams\(n=1, .*max_tokens=5.*\), lora_request: None\.", r"Generated response cmpl-my-id: output: '.*finish_reason: length",
                 r"Engine 000: Avg prompt throughput: [\d.]+ tokens/s, Avg generation throughput: [\d.]+ tokens/s, Running: \d+ reqs, Waiting: \d+ reqs, GPU KV cache usage: [\d.]+%, Prefix cache hit rate: [\d.]+%"):
        assert re.search(want, text), want

@test
def quiet_access_log():
    with Server(BUNDLED, "--disable-access-log-for-endpoints", "/health,/metrics") as s:
        s.get("/metrics")
        s.get("/version")
        text = s.log_text()
    assert "/health HTTP" not in text and "/metrics HTTP" not in text and "/version HTTP" in text

@test
def sigterm_ends_with_0():
    s = Server(BUNDLED)
    assert s.stop() == 0 and "Application shutdown complete." in s.log_text()
    assert Server(BUNDLED).stop(signal.SIGINT) == 0

def long_request(s, out):
    try: out.append(s.post("/v1/completions", {"prompt": "Once", "max_tokens": 900, "temperature": 0, "ignore_eos": True}))
    except OSError as e: out.append((0, str(e)))

@test
def sigterm_drains():
    s, out = Server(BUNDLED, "--shutdown-timeout", "30"), []
    t = threading.Thread(target=long_request, args=(s, out))
    t.start()
    while s.metric("vllm:num_requests_running") == 0 and t.is_alive(): time.sleep(0.005)
    s.p.send_signal(signal.SIGTERM)
    t.join()
    assert s.p.wait(30) == 0
    assert out[0][0] == 200 and out[0][1]["usage"]["completion_tokens"] == 900, out[0]

@test
def a_client_that_leaves_is_noticed():
    with Server(BUNDLED) as s:
        c = socket.create_connection(("127.0.0.1", s.port))
        body = json.dumps({"prompt": "Once", "max_tokens": 1000, "temperature": 0, "ignore_eos": True, "n": 1}).encode()
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while s.metric("vllm:num_requests_running") == 0: time.sleep(0.002)
        c.close()
        t = time.time()
        while s.metric("vllm:num_requests_running") > 0: time.sleep(0.005)
        assert time.time() - t < 1.0
        assert sum(float(l.split()[-1]) for l in s.get("/metrics")[1].split("\n") if l.startswith("vllm:request_success_total") and 'reason="abort"' in l) == 1

@test
def unix_socket():
    with tempfile.TemporaryDirectory() as d:
        path = d + "/s"
        p = subprocess.Popen([binary(), "serve", BUNDLED, "--uds", path], stderr=subprocess.PIPE)
        try:
            for _ in range(500):
                if os.path.exists(path): break
                time.sleep(0.01)
            c = http.client.HTTPConnection("localhost")
            c.sock = socket.socket(socket.AF_UNIX)
            c.sock.connect(path)
            c.request("GET", "/version")
            assert json.loads(c.getresponse().read())["version"] == "0.33.0"
            c.close()
        finally:
            p.terminate()
            p.stderr.read()
            assert p.wait(20) == 0

@test
def tls():
    with tempfile.TemporaryDirectory() as d:
        made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", d + "/k.pem", "-out", d + "/c.pem", "-days", "2", "-subj", "/CN=localhost",
                               "-addext", "subjectAltName=IP:127.0.0.1"], capture_output=True)
        if made.returncode: raise Skip("openssl cannot make a certificate")
        port = free_port()
        p = subprocess.Popen([binary(), "serve", BUNDLED, "--host", "127.0.0.1", "--port", str(port), "--ssl-certfile", d + "/c.pem", "--ssl-keyfile", d + "/k.pem"], stderr=subprocess.DEVNULL)
        try:
            ctx = ssl.create_default_context(cafile=d + "/c.pem")
            for _ in range(300):
                try:
                    c = http.client.HTTPSConnection("127.0.0.1", port, context=ctx, timeout=10)
                    c.request("GET", "/health")
                    break
                except ConnectionRefusedError: time.sleep(0.01)
            assert c.getresponse().status == 200
            c.close()
        finally:
            p.terminate()
            assert p.wait(20) == 0

@test
def config_file():
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write("served-model-name:\n  - from-file\nmax-model-len: 128\n")
        f.flush()
        with Server(BUNDLED, "--config", f.name) as s:
            card = s.get("/v1/models")[1]["data"][0]
            assert card["id"] == "from-file" and card["max_model_len"] == 128, card

@test
def generation_config():
    body = {"prompt": "Once upon a time", "max_tokens": 8, "seed": 1}
    with Server(BUNDLED, "--override-generation-config", '{"temperature": 0}') as s:
        assert s.post("/v1/completions", dict(body, n=2))[0] == 400, "greedy by default here, and n > 1"
        a = s.post("/v1/completions", body)[1]["choices"][0]["text"]
        b = s.post("/v1/completions", dict(body, temperature=0))[1]["choices"][0]["text"]
        assert a == b
    with Server(BUNDLED, "--generation-config", "vllm") as s:
        assert s.post("/v1/completions", dict(body, n=2))[0] == 200

@test
def load_and_details():
    with Server(BUNDLED, "--enable-server-load-tracking", "--enable-prompt-tokens-details", "--enable-per-request-metrics", "--block-size", "4") as s:
        out = []
        t = threading.Thread(target=long_request, args=(s, out))
        t.start()
        while s.get("/load")[1]["server_load"] == 0 and t.is_alive(): time.sleep(0.002)
        t.join()
        assert s.get("/load")[1]["server_load"] == 0
        body = {"prompt": "Once upon a time there was a little girl named Lily", "max_tokens": 4, "temperature": 0}
        s.post("/v1/completions", body)
        r = s.post("/v1/completions", body)[1]
        assert r["usage"]["prompt_tokens_details"]["cached_tokens"] >= 4, r["usage"]
        assert r["metrics"]["time_to_first_token_ms"] > 0

@test
def admission_limits():
    with Server(BUNDLED, "--max-num-seqs", "1", "--max-num-queued-reqs", "1") as s:
        codes = []
        go = lambda: codes.append(s.post("/v1/completions", {"prompt": "Once", "max_tokens": 300, "temperature": 0, "ignore_eos": True})[0])
        ts = [threading.Thread(target=go) for _ in range(8)]
        for t in ts: t.start()
        for t in ts: t.join()
        assert set(codes) == {200, 503}, codes
        assert s.metric("vllm:admission_rejections_total") == codes.count(503)

@test
def answers_do_not_depend_on_the_batch():
    with Server(BUNDLED, "--max-num-batched-tokens", "64", "--max-num-seqs", "16") as s:
        prompts = [f"{w} went to the park and" for w in ("Tom", "Lily", "The dog", "A big red ball", "Mom", "Ben")]
        body = {"max_tokens": 24, "temperature": 0, "return_token_ids": True}
        alone = [s.post("/v1/completions", dict(body, prompt=p))[1]["choices"][0]["token_ids"] for p in prompts]
        together = [c["token_ids"] for c in s.post("/v1/completions", dict(body, prompt=prompts))[1]["choices"]]
        assert alone == together

@test
def packed_weights_are_kept():
    """The second start maps what the first one packed, with the same answers; a damaged file is made anew."""
    body = {"prompt": "The capital of France", "max_tokens": 20, "temperature": 0}
    def answer(d):
        with Server(BUNDLED, "--weight-cache", d, env={"SYSTOLIC_WEIGHT_CACHE_LEAST": "1"}) as s:
            text = s.post("/v1/completions", body)[1]["choices"][0]["text"]
            for _ in range(200):
                if any(f.endswith(".pack") for f in os.listdir(d)): break
                time.sleep(0.05)
            return text, s.log_text()
    with tempfile.TemporaryDirectory() as d:
        first, log = answer(d)
        assert "Packed weights:" not in log
        again, log = answer(d)
        assert again == first and "Packed weights:" in log, log
        (name,) = os.listdir(d)
        with open(os.path.join(d, name), "r+b") as f: f.truncate(100)
        again, log = answer(d)
        assert again == first and "it is made anew" in log, log
        assert answer(d)[0] == first
    with tempfile.TemporaryDirectory() as d:
        with Server(BUNDLED, "--weight-cache", "off", env={"SYSTOLIC_WEIGHT_CACHE_LEAST": "1", "XDG_CACHE_HOME": d}): assert os.listdir(d) == [] or not os.path.exists(d + "/systolic/weights")

main(TESTS)
