#!/usr/bin/env python3
"""The commands beside serve: chat, complete, run-batch, bench, collect-env; and tools/run.sh, tools/setup.sh (the standard library; the openai
package, where it is there, for the example that tools/run.sh prints).

    test_commands.py [--bin build/systolic] [-k NAME]
"""
import atexit, http.server, json, os, re, shutil, signal, socket, subprocess, sys, tempfile, threading, time

from server import BUNDLED, ROOT, SHARED, Server, Skip, binary, free_port, run as main

TESTS = []
def test(f):
    TESTS.append(f)
    return f

SERVER = None
def server():
    """One server for all tests that need one."""
    global SERVER
    if not SERVER:
        SERVER = Server(BUNDLED, "--served-model-name", "tiny", "--enable-log-requests")
        atexit.register(SERVER.stop)
    return SERVER

ENV = {k: v for k, v in os.environ.items() if k not in ("OPENAI_API_KEY", "VLLM_API_KEY")}

def run(*args, stdin="", env=None, timeout=60, cwd=None):
    p = subprocess.run([binary(), *args], input=stdin, capture_output=True, text=True, timeout=timeout, env=dict(ENV, **(env or {})), cwd=cwd)
    return p.returncode, p.stdout, p.stderr

def ok(*args, **kw):
    rc, out, err = run(*args, **kw)
    assert rc == 0, (rc, err[-1000:])
    return out

def fails(text, *args, code=1, **kw):
    rc, out, err = run(*args, **kw)
    last = err.strip().splitlines()[-1] if err.strip() else ""
    assert rc == code and ": error: " in last and text in last, (rc, last)
    return out

def answer(messages, **kw):
    return server().post("/v1/chat/completions", dict({"messages": messages, "temperature": 0}, **kw))[1]["choices"][0]["message"]["content"]

def user(text): return {"role": "user", "content": text}
def to_server(): return ["--url", server().url + "/v1", "--temperature", "0"]

class Stub:
    """with Stub(post) as url: a server whose POST and PUT call post(handler, body)."""
    def __init__(self, post): self.post = post
    def __enter__(self):
        stub = self
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *a): pass
            def send(self, code, body, kind="application/json"):
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            def do_GET(self): self.send(200, json.dumps({"data": [{"id": "stub", "root": BUNDLED}]}).encode())
            def do_POST(self): stub.post(self, self.rfile.read(int(self.headers["Content-Length"])))
            do_PUT = do_POST
        self.h = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.h.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.h.server_port}"
    def __exit__(self, *a):
        self.h.shutdown()
        self.h.server_close()

# ---- the program ----

COMMANDS = (["serve"], ["chat"], ["complete"], ["run-batch"], ["bench", "serve"], ["bench", "latency"], ["bench", "throughput"], ["collect-env"])

@test
def version_help_and_wrong_flags():
    for flag in ("--version", "-v"): assert re.match(r"\d+\.\d+\.\d+ \(vLLM API \d+\.\d+\.\d+\)\n$", ok(flag))
    for flag in ("--help", "-h", "help"):
        out = ok(flag)
        for c in ("serve", "chat", "complete", "run-batch", "bench", "collect-env"): assert f"  {c} " in out, (c, out)
    for c in COMMANDS:
        name = "systolic " + " ".join(c)
        out = ok(*c, "--help")
        assert out.startswith(f"usage: {name}") and "--help" in out, out[:200]
        assert re.match(r"\d+\.\d+\.\d+ ", ok(*c, "--version"))
        fails(f"{name}: error: unrecognized arguments: --frobnicate", *c, "--frobnicate", code=2)
    assert all(k in ok("bench", "--help") for k in ("serve", "latency", "throughput"))

@test
def unknown_commands():
    for args in ([], ["frobnicate"], ["bench"], ["bench", "frobnicate"]):
        rc, out, err = run(*args)
        assert rc == 2 and "usage: systolic" in err and out == "", (args, rc, err)
        if args and args[-1] == "frobnicate": assert "unknown" in err and "'frobnicate'" in err, err

@test
def flag_values():
    fails("--max-tokens", "chat", "--max-tokens", "many", code=2)
    fails("--temperature", "chat", "--temperature", "hot", code=2)
    fails("invalid choice", "bench", "serve", "--backend", "grpc", code=2)
    fails("expected", "chat", "--url", code=2)

# ---- chat and complete ----

@test
def chat_quick():
    want = answer([user("Who are you?")])
    assert "systolic-tiny" in want
    assert ok("chat", *to_server(), "-q", "Who are you?") == want + "\n"
    assert ok("chat", *to_server(), "--quick", "Who are you?", "--model-name", "tiny", stdin="not read\n") == want + "\n"
    assert ok("chat", "--url", server().url, "--temperature=0", "-q", "Who are you?") == want + "\n", "the URL without /v1"

@test
def chat_options():
    short = answer([user("Who are you?")], max_tokens=3)
    assert ok("chat", *to_server(), "-q", "Who are you?", "--max-tokens", "3") == short + "\n"
    prompt = "You are a pirate. Answer in one word."
    assert ok("chat", *to_server(), "-q", "Hello", "--system-prompt", prompt) == answer([{"role": "system", "content": prompt}, user("Hello")]) + "\n"
    out = ok("chat", *to_server(), "-q", "Who are you?", "--max-tokens", "5", "--stats").splitlines()
    assert len(out) == 2 and re.fullmatch(r"\(5 tokens, first after \d+ ms(, then \d+\.\d tokens/s)?\)", out[1]), out

def turns(out):
    """The answers of a session, without prompts (an empty line gives two in a row)."""
    return [re.sub("^(> )+", "", line) for line in out.splitlines() if re.match("(> )+[^> ]", line)]

@test
def chat_session_remembers():
    first, second = "My name is Anna.", "What is my name?"
    a1 = answer([user(first)])
    a2 = answer([user(first), {"role": "assistant", "content": a1}, user(second)])
    assert "Anna" in a2 and "Anna" not in answer([user(second)]), "the test needs a model that uses the first turn"
    out = ok("chat", *to_server(), stdin=f"{first}\n\n{second}\n")
    assert out.startswith("Using model: tiny\n") and turns(out) == [a1, a2], out
    assert turns(ok("chat", *to_server(), stdin=f"{first}\n{second}")) == [a1, a2], "last line without newline"

@test
def chat_session_survives_an_error():
    rc, out, err = run("chat", *to_server(), stdin="My name is Anna.\n" + "word " * 3000 + "\nWhat is my name?\n")
    assert rc == 0 and err.count("systolic chat: error: HTTP 400: ") == 1, (rc, err)
    assert "Anna" in turns(out)[-1], "the failed question is taken back, the first one stays"

@test
def complete_is_the_completions_api():
    body = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 12}
    want = server().post("/v1/completions", body)[1]["choices"][0]["text"]
    assert ok("complete", *to_server(), "-q", body["prompt"], "--max-tokens", "12") == want + "\n"
    out = ok("complete", *to_server(), "--max-tokens", "12", "--stats", stdin="Once upon a time\nOnce upon a time\n")
    assert out.count("> " + want + "\n") == 2 and out.count("(12 tokens, first after ") == 2, "no memory between prompts"

@test
def client_errors():
    for c in ("chat", "complete"):
        assert fails("Failed to connect", c, "--url", f"http://127.0.0.1:{free_port()}/v1", "-q", "hi") == ""
        fails("HTTP 404: The model `nope` does not exist.", c, *to_server(), "--model-name", "nope", "-q", "hi")
        fails("HTTP 400: temperature must be non-negative", c, "--url", server().url, "--temperature", "-1", "-q", "hi")
    def broken(h, body): h.send(500, b'{"error": {"message": "out of order"}}')
    with Stub(broken) as url: fails("HTTP 500: out of order", "chat", "--url", url, "-q", "hi")
    def late(h, body): h.send(200, b'data: {"choices":[{"delta":{"content":"par"}}]}\n\ndata: {"error":{"message":"engine died"}}\n\ndata: [DONE]\n\n', "text/event-stream")
    def torn(h, body): h.send(200, b'data: {"choices":[{"delta":{"content":"par"}}]}\n\ndata: {"choi\n\n', "text/event-stream")
    with Stub(torn) as url: fails("no JSON", "chat", "--url", url, "-q", "hi")
    with Stub(late) as url: assert fails("engine died", "chat", "--url", url, "-q", "hi") == "par\n"

@test
def api_keys():
    with Server(BUNDLED, "--api-key", "sesame") as s:
        args = ["chat", "--url", s.url, "-q", "Who are you?", "--max-tokens", "2"]
        fails("HTTP 401", *args)
        fails("HTTP 401", *args, "--api-key", "wrong")
        ok(*args, "--api-key", "sesame")
        ok(*args, env={"OPENAI_API_KEY": "sesame"})
        fails("HTTP 401", "bench", "serve", "--base-url", s.url, "--num-prompts", "1")
        ok("bench", "serve", "--base-url", s.url, "--num-prompts", "1", "--random-input-len", "4", "--random-output-len", "2", env={"OPENAI_API_KEY": "sesame"})

# ---- run-batch ----

def line(id, messages=None, url="/v1/chat/completions", **body):
    return json.dumps({"custom_id": id, "method": "POST", "url": url, "body": dict({"model": "tiny", "messages": messages or [user("Who are you?")], "temperature": 0}, **body)})

BATCH = ["--model", BUNDLED, "--served-model-name", "tiny", "--threads", "2"]
def batch(text, *args):
    with tempfile.TemporaryDirectory() as d:
        with open(d + "/in.jsonl", "w") as f: f.write(text)
        return [json.loads(l) for l in ok("run-batch", "-i", d + "/in.jsonl", "-o", "-", *BATCH, *args).splitlines()]

def bad(a, code, error):
    r = a["response"]
    assert set(a) == {"id", "custom_id", "response", "error"} and set(r) == {"status_code", "request_id", "body"}, a
    assert r["status_code"] == code and r["body"] is None and error in json.dumps(a["error"]), a

@test
def batch_answers_are_the_servers():
    questions = ["Who are you?", "Tell me a story about a fox.", "What is your favorite color?", "Hello"]
    lines = [line(f"r-{i}", [user(q)], max_tokens=8 + 4 * i) for i, q in enumerate(questions * 3)]
    out = batch("\n".join(lines) + "\n", "--max-inflight", "5")
    assert [a["custom_id"] for a in out] == [f"r-{i}" for i in range(12)], "order of the input"
    for i, a in enumerate(out):
        assert re.fullmatch(r"vllm-[0-9a-f]{32}", a["id"]) and a["error"] is None, a
        r = a["response"]
        assert list(r) == ["status_code", "request_id", "body"] and r["status_code"] == 200 and r["request_id"].startswith("vllm-batch-"), r
        assert r["body"]["object"] == "chat.completion" and r["body"]["model"] == "tiny"
        want = server().post("/v1/chat/completions", json.loads(lines[i])["body"])[1]
        assert r["body"]["choices"] == want["choices"] and r["body"]["usage"] == want["usage"], (r["body"], want)
    assert len({a["id"] for a in out}) == len(out)

@test
def batch_bad_lines():
    out = batch("\n".join([line("good"), "", "not json", line("url", url="/v1/completions"), line("embed", url="/v1/embeddings"), line("model", model="nope"), line("stream", stream=True),
                           json.dumps({"custom_id": "get", "method": "GET", "url": "/v1/chat/completions", "body": {}}), "[1]", '{"custom_id": 3}',
                           json.dumps({"custom_id": "none", "method": "POST", "url": "/v1/chat/completions"}), line("temp", temperature=-1), line("last")]))
    assert [a["custom_id"] for a in out] == ["good", None, "url", "embed", "model", "stream", "get", None, None, "none", "temp", "last"]
    assert out[0]["error"] is None and out[-1]["error"] is None
    assert out[0]["response"]["body"]["choices"] == out[-1]["response"]["body"]["choices"]
    for a, code, error in zip(out[1:], (400, 400, 400, 404, 400, 400, 400, 400, 400, 400),
                              ("line 3: invalid JSON", "URL /v1/completions was used. Supported endpoints: /v1/chat/completions", "does not support Embeddings API",
                               "The model `nope` does not exist.", "Request must not be sent in stream mode", "method", "line 9: ", "line 10: ", "body", "temperature must be")): bad(a, code, error)
    assert out[4]["error"]["error"]["type"] == "NotFoundError", "an error of the API is kept whole"

@test
def batch_output():
    with tempfile.TemporaryDirectory() as d:
        open(d + "/in", "w").write(line("a", max_tokens=2))
        open(d + "/empty", "w").write("\n  \n")
        open(d + "/old", "w").write("old\n")
        go = lambda out, *more: ["run-batch", "-i", d + "/in", "-o", out, *BATCH, *more]
        out = ok(*go(d + "/out"))
        assert out == "" and json.load(open(d + "/out"))["custom_id"] == "a"
        ok(*go(d + "/old"))
        assert json.load(open(d + "/old"))["custom_id"] == "a"
        os.mkdir(d + "/tmp")
        ok(*go(d + "/out2", "--output-tmp-dir", d + "/tmp"))
        assert json.load(open(d + "/out2"))["custom_id"] == "a" and os.listdir(d + "/tmp") == []
        os.symlink(d + "/target", d + "/link")
        ok(*go(d + "/link"))
        assert os.path.islink(d + "/link") and json.load(open(d + "/target"))["custom_id"] == "a"
        os.mkfifo(d + "/fifo")
        p = subprocess.Popen([binary(), *go(d + "/fifo")], stderr=subprocess.DEVNULL)
        assert json.load(open(d + "/fifo"))["custom_id"] == "a" and p.wait(30) == 0, "what is no file stays what it is"
        for path, why in ((d + "/no/out", "No such file"), (d + "/tmp", "Is a directory")):
            t = time.time()
            fails(why, *go(path))
            assert time.time() - t < 1, "before the model is loaded"
        if os.path.exists("/dev/full"): fails("No space left", *go("/dev/full"))
        fails("config.json", "run-batch", "-i", d + "/in", "-o", d + "/old", "--model", d)
        assert json.load(open(d + "/old"))["custom_id"] == "a", "a failed run leaves the file"
        fails("holds no request", "run-batch", "-i", d + "/empty", "-o", d + "/x", *BATCH)
        fails("cannot open", "run-batch", "-i", d + "/none", "-o", d + "/x", *BATCH)
        fails("arguments are required: -i", "run-batch", "-o", d + "/x", *BATCH, code=2)
        fails("not supported", "run-batch", "-i", d + "/in", "-o", d + "/x", *BATCH, "--max-num-queued-reqs", "4", code=2)
        assert sorted(os.listdir(d)) == ["empty", "fifo", "in", "link", "old", "out", "out2", "target", "tmp"], "nothing left behind"

@test
def batch_interrupted():
    with tempfile.TemporaryDirectory() as d:
        open(d + "/in", "w").write("\n".join(line(str(i), max_tokens=900, ignore_eos=True) for i in range(200)))
        for sig in (signal.SIGINT, signal.SIGTERM):
            p = subprocess.Popen([binary(), "run-batch", "-i", d + "/in", "-o", d + "/out", *BATCH], stderr=subprocess.DEVNULL)
            while not os.path.exists(d + "/out.part") and p.poll() is None: time.sleep(0.005)
            p.send_signal(sig)
            assert p.wait(20) == -sig and os.listdir(d) == ["in"], (p.returncode, os.listdir(d))

@test
def batch_over_http():
    got = []
    def put(h, body):
        got.append((h.command, body))
        h.send(200 if h.path == "/out" else 403, b"")
    with Stub(put) as url, tempfile.TemporaryDirectory() as d:
        open(d + "/in", "w").write(line("a", max_tokens=2))
        ok("run-batch", "-i", d + "/in", "-o", url + "/out", *BATCH)
        assert got[0][0] == "PUT" and json.loads(got[0][1])["custom_id"] == "a"
        fails("HTTP 403", "run-batch", "-i", d + "/in", "-o", url + "/forbidden", *BATCH)

# ---- bench serve ----

REPORT = ("Successful requests:", "Failed requests:", "Benchmark duration (s):", "Total input tokens:", "Total generated tokens:", "Request throughput (req/s):",
          "Output token throughput (tok/s):", "Peak output token throughput (tok/s):", "Peak concurrent requests:", "Total token throughput (tok/s):")
KEYS = """date endpoint_type label model_id tokenizer_id num_prompts request_rate burstiness max_concurrency duration completed failed total_input_tokens total_output_tokens
          request_throughput request_goodput output_throughput total_token_throughput max_output_tokens_per_s max_concurrent_requests""".split()
DETAILS = "input_lens output_lens ttfts itls start_times generated_texts errors".split()

def bench(*args): return ok("bench", "serve", "--base-url", server().url, "--num-prompts", "6", "--ignore-eos", *args)

def figures(out):
    """label -> number; checks that labels are padded to 40 columns, as tools that grep them expect."""
    found = {}
    for l in out.splitlines():
        m = re.fullmatch(r"(\S.*:) +(-?\d+(?:\.\d\d)?) *", l)
        if m and l[0] not in "=-":
            assert l[:40].rstrip() == m[1] and l[40] == " ", repr(l)
            found[m[1]] = float(m[2])
    return found

@test
def bench_random():
    with tempfile.TemporaryDirectory() as d:
        out = bench("--random-input-len", "24", "--random-output-len", "5", "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99,99.9", "--goodput", "ttft:60000", "tpot:60000",
                    "--max-concurrency", "2", "--request-rate", "200", "--save-result", "--save-detailed", "--result-dir", d + "/made", "--result-filename", "r.json", "--metadata", "tpu=v6e", "n=1",
                    "--label", "mine", "--request-id-prefix", "bench-xyz-")
        r = json.load(open(d + "/made/r.json"))
    assert "============ Serving Benchmark Result ============\n" in out and out.endswith("=" * 50 + "\n")
    f = figures(out)
    for label in REPORT + ("Maximum request concurrency:", "Request rate configured (RPS):", "Request goodput (req/s):"): assert label in f, label
    for m in ("TTFT", "TPOT", "ITL", "E2EL"):
        for what in ("Mean", "Median", "P50", "P99", "P99.9"): assert f"{what} {m} (ms):" in f, (what, m)
    assert f["Successful requests:"] == 6 and f["Total generated tokens:"] == 30 and f["Total input tokens:"] == 144 and f["Maximum request concurrency:"] == 2
    for k in KEYS + DETAILS: assert k in r, k
    for m in ("ttft", "tpot", "itl", "e2el"):
        for what in ("mean", "median", "std", "p50", "p99", "p99.9"): assert r[f"{what}_{m}_ms"] >= 0
    assert r["endpoint_type"] == "openai" and r["model_id"] == "tiny" and r["label"] == "mine" and r["tpu"] == "v6e" and r["n"] == "1" and r["request_rate"] == 200 and r["max_concurrency"] == 2
    assert r["completed"] == 6 and r["failed"] == 0 and r["input_lens"] == [24] * 6 and r["output_lens"] == [5] * 6 and r["errors"] == [""] * 6
    assert all(len(r[k]) == 6 for k in DETAILS) and r["start_times"] == sorted(r["start_times"])
    assert r["request_goodput"] == r["request_throughput"] and abs(r["request_throughput"] - 6 / r["duration"]) < 1e-9
    assert abs(r["total_token_throughput"] * r["duration"] - 174) < 1e-6
    assert all(f"cmpl-bench-xyz-{i}" in server().log_text() for i in range(6)), "X-Request-Id"

@test
def bench_lengths_are_the_servers():
    """What the report calls input tokens is what the server counted, NUL bytes, BOS and torn characters included."""
    before = server().metric("vllm:prompt_tokens_total")
    assert figures(bench("--random-input-len", "500", "--random-output-len", "1", "--seed", "3"))["Total input tokens:"] == 3000
    assert server().metric("vllm:prompt_tokens_total") - before == 3000
    before = server().metric("vllm:prompt_tokens_total")
    out = figures(bench("--random-input-len", "40", "--random-output-len", "2", "--random-range-ratio", "0.5", "--random-prefix-len", "10"))
    assert server().metric("vllm:prompt_tokens_total") - before == out["Total input tokens:"] and 6 * 30 <= out["Total input tokens:"] <= 6 * 70

@test
def bench_rate_and_concurrency():
    with tempfile.TemporaryDirectory() as d:
        go = lambda name, *a: (bench("--random-input-len", "8", "--random-output-len", "2", "--save-detailed", "--result-dir", d, "--result-filename", name, *a), json.load(open(f"{d}/{name}")))
        out, r = go("inf")
        assert r["request_rate"] == "inf" and r["max_concurrency"] is None and r["request_goodput"] is None and "Request rate" not in out and "goodput" not in out
        out, r = go("ramp", "--ramp-up-strategy", "linear", "--ramp-up-start-rps", "20", "--ramp-up-end-rps", "100")
        assert 0.02 < r["start_times"][-1] < 5, r["start_times"]
        out, r = go("one", "--max-concurrency", "1", "--num-warmups", "1")
        ends = [s + t + sum(i) for s, t, i in zip(r["start_times"], r["ttfts"], r["itls"])]
        assert all(s >= e - 1e-3 for s, e in zip(r["start_times"][1:], ends)), "one after the other"
        assert figures(bench("--random-input-len", "8", "--random-output-len", "3", "--goodput", "ttft:0.000001"))["Request goodput (req/s):"] == 0
        assert sorted(os.listdir(d)) == ["inf", "one", "ramp"]
        bench("--random-input-len", "8", "--random-output-len", "2", "--append-result", "--result-dir", d, "--result-filename", "inf")
        assert [json.loads(l)["completed"] for l in open(d + "/inf")] == [6, 6]
    with tempfile.TemporaryDirectory() as d:
        ok("bench", "serve", "--base-url", server().url, "--num-prompts", "1", "--random-input-len", "4", "--random-output-len", "1", "--save-result", cwd=d)
        assert re.fullmatch(r"openai-infqps-tiny-\d{8}-\d{6}\.json", os.listdir(d)[0]), os.listdir(d)

@test
def bench_datasets():
    with tempfile.TemporaryDirectory() as d:
        turn = lambda *v: {"conversations": [{"from": "human" if i % 2 == 0 else "gpt", "value": t} for i, t in enumerate(v)]}
        json.dump([turn("Tell me a story about a fox.", "Once upon a time there was a fox."), turn("alone"), turn("", "no question"), turn("Who are you, and what can you do?", "I am a small model."), {}], open(d + "/s.json", "w"))
        with open(d + "/c.jsonl", "w") as f: f.write('{"prompt": "Once upon a time", "output_tokens": 3}\n\n{"prompt": "There was a fox"}\n')
        share = ["--dataset-name", "sharegpt", "--dataset-path", d + "/s.json"]
        f = figures(bench(*share))
        assert f["Successful requests:"] == 6, "two usable conversations, oversampled"
        f = figures(bench(*share, "--no-oversample", "--sharegpt-output-len", "3"))
        assert f["Successful requests:"] == 2 and f["Total generated tokens:"] == 6
        f = figures(bench("--dataset-name", "custom", "--dataset-path", d + "/c.jsonl", "--no-oversample", "--custom-output-len", "4"))
        assert f["Successful requests:"] == 2 and f["Total generated tokens:"] == 8
        f = figures(bench("--dataset-name", "custom", "--dataset-path", d + "/c.jsonl", "--num-prompts", "1"))
        assert f["Total generated tokens:"] == 3, "output_tokens of the line"
        hits = server().metric("vllm:prefix_cache_hits_total")
        f = figures(bench("--dataset-name", "prefix_repetition", "--prefix-repetition-prefix-len", "64", "--prefix-repetition-suffix-len", "16", "--prefix-repetition-num-prefixes", "2",
                          "--prefix-repetition-output-len", "2", "--max-concurrency", "1", "--seed", "9"))
        assert f["Total input tokens:"] == 480 and f["Total generated tokens:"] == 12
        assert server().metric("vllm:prefix_cache_hits_total") - hits >= 4 * 48, "four of six find their prefix"
        open(d + "/bad.jsonl", "w").write('{"prompt": 3}\n')
        go = ["bench", "serve", "--base-url", server().url, "--dataset-name"]
        fails("bad.jsonl line 1", *go, "custom", "--dataset-path", d + "/bad.jsonl")
        fails("cannot open", *go, "custom", "--dataset-path", d + "/none")
        fails("list of conversations", *go, "sharegpt", "--dataset-path", d + "/bad.jsonl")
        fails("needs --dataset-path", *go, "sharegpt", code=2)

@test
def bench_chat():
    with tempfile.TemporaryDirectory() as d:
        for flag in ("--backend", "--endpoint-type"):
            f = figures(bench(flag, "openai-chat", "--random-input-len", "8", "--random-output-len", "4", "--temperature", "0", "--extra-body", '{"seed": 1}', "--save-result", "--result-dir", d, "--result-filename", "r"))
            assert f["Successful requests:"] == 6 and f["Total generated tokens:"] == 24 and f["Total input tokens:"] > 48, "with the template"
            assert json.load(open(d + "/r"))["endpoint_type"] == "openai-chat"

@test
def bench_failures():
    small = ["--num-prompts", "4", "--random-input-len", "4", "--random-output-len", "2"]
    fails("does not answer", "bench", "serve", "--port", str(free_port()), *small)
    out = fails("4 of 4 requests failed; the first: HTTP 404", "bench", "serve", "--base-url", server().url, *small, "--endpoint", "/nope")
    assert figures(out)["Failed requests:"] == 4 and figures(out)["Successful requests:"] == 0
    fails("does not exist", "bench", "serve", "--base-url", server().url, *small, "--model", "nope", "--tokenizer", BUNDLED)
    fails("no tokenizer in 'nope'", "bench", "serve", "--base-url", server().url, *small, "--model", "nope")
    n = []
    def half(h, body):
        n.append(1)
        if len(n) % 2: h.send(500, b"tired")
        else: h.send(200, b'data: {"choices":[{"text":"a"}]}\n\ndata: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":1}}\n\ndata: [DONE]\n\n', "text/event-stream")
    with Stub(half) as url, tempfile.TemporaryDirectory() as d:
        out = fails("2 of 4 requests failed; the first: HTTP 500: tired", "bench", "serve", "--base-url", url, *small, "--max-concurrency", "1", "--save-detailed", "--result-dir", d, "--result-filename", "r")
        r = json.load(open(d + "/r"))
    assert r["completed"] == 2 and r["failed"] == 2 and [bool(e) for e in r["errors"]] == [True, False, True, False] and r["total_output_tokens"] == 2, r

@test
def bench_flags_are_checked_first():
    """Before anything is sent: there is no server here."""
    for args, text in (("--goodput ttft", "--goodput"), ("--goodput speed:3", "--goodput"), ("--percentile-metrics ttft,foo", "--percentile-metrics"), ("--metric-percentiles 50,x", "--metric-percentiles"),
                       ("--metric-percentiles 101", "--metric-percentiles"), ("--request-rate 0", "--request-rate"), ("--request-rate fast", "--request-rate"), ("--num-prompts 0", "--num-prompts"),
                       ("--max-concurrency 0", "--max-concurrency"), ("--random-input-len -1", "--random-input-len"), ("--input-len 99999999999", "--input-len"), ("--random-range-ratio 1", "--random-range-ratio"),
                       ("--prefix-repetition-num-prefixes -5", "--prefix-repetition-num-prefixes"), ("--burstiness 0", "--burstiness"), ("--header x", "--header"), ("--ramp-up-strategy linear", "--ramp-up-start-rps"),
                       ("--dataset-name hf", "invalid choice"), ("--lora-modules a", "not supported")):
        fails(text, "bench", "serve", "--port", "1", *args.split(), code=2)
    fails("cannot make --result-dir", "bench", "serve", "--base-url", server().url, "--save-result", "--result-dir", "/nonexistent/dir")

# ---- bench latency and throughput ----

@test
def bench_latency():
    with tempfile.TemporaryDirectory() as d:
        go = ["bench", "latency", "--model", BUNDLED, "--input-len", "8", "--output-len", "4", "--batch-size", "2", "--num-iters-warmup", "1", "--num-iters", "3"]
        out = ok(*go, "--output-json", d + "/l.json")
        r = json.load(open(d + "/l.json"))
    assert re.match(r"Avg latency: [\d.e-]+ seconds\n", out) and re.findall(r"^(\d+)% percentile latency: [\d.e-]+ seconds$", out, re.M) == ["10", "25", "50", "75", "90", "99"], out
    assert {"avg_latency", "latencies", "percentiles"} <= set(r) and list(r["percentiles"]) == ["10", "25", "50", "75", "90", "99"]
    assert len(r["latencies"]) == 3 and abs(sum(r["latencies"]) / 3 - r["avg_latency"]) < 1e-9 and r["percentiles"]["50"] == sorted(r["latencies"])[1]
    fails("--num-iters", *go, "--num-iters", "0", code=2)
    fails("--output-len", *go, "--output-len", "-1", code=2)
    fails("do not fit the context length, 1024", *go, "--input-len", "1000", "--output-len", "100")
    fails("cannot write /nonexistent/l.json", *go, "--output-json", "/nonexistent/l.json")

@test
def bench_throughput():
    with tempfile.TemporaryDirectory() as d:
        go = ["bench", "throughput", "--model", BUNDLED, "--num-prompts", "5", "--output-json", d + "/t.json"]
        out = ok(*go, "--input-len", "8", "--output-len", "4", "--prefix-len", "3")
        r = json.load(open(d + "/t.json"))
        assert re.match(r"Throughput: [\d.]+ requests/s, [\d.]+ total tokens/s, [\d.]+ output tokens/s\n", out) and "Total num prompt tokens:  55\nTotal num output tokens:  20\n" in out, out
        assert {"elapsed_time", "num_requests", "total_num_tokens", "requests_per_second", "tokens_per_second"} <= set(r)
        assert r["num_requests"] == 5 and r["total_num_tokens"] == 75 and abs(r["tokens_per_second"] * r["elapsed_time"] - 75) < 1e-6
        ok(*go, "--input-len", "8", "--output-len", "4", "--n", "2", "--backend", "vllm", "--async-engine")
        assert json.load(open(d + "/t.json"))["total_num_tokens"] == 120
        json.dump([{"conversations": [{"value": "Tell me a story about a fox."}, {"value": "Once upon a time there was a fox."}]}], open(d + "/s.json", "w"))
        ok(*go, "--dataset-name", "sharegpt", "--dataset-path", d + "/s.json", "--output-len", "4")
        assert json.load(open(d + "/t.json"))["num_requests"] == 5
        fails("needs --dataset-path", *go, "--dataset-name", "sharegpt")
        fails("--num-prompts", *go, "--num-prompts", "0", code=2)
        fails("not supported", *go, "--backend", "hf", code=2)

@test
def bench_of_a_shape():
    """A config.json alone is enough with dummy weights, as in bench/shapes."""
    with tempfile.TemporaryDirectory() as d:
        shape = json.load(open(os.path.join(ROOT, "bench", "shapes", "qwen3-0.6b", "config.json")))
        shape.update(num_hidden_layers=2, vocab_size=2048, hidden_size=256, intermediate_size=512)
        json.dump(shape, open(d + "/config.json", "w"))
        go = ["--model", d, "--load-format", "dummy", "--max-model-len", "64", "--input-len", "8", "--output-len", "4"]
        assert "Avg latency: " in ok("bench", "latency", *go, "--batch-size", "2", "--num-iters-warmup", "0", "--num-iters", "1")
        assert "Throughput: " in ok("bench", "throughput", *go, "--num-prompts", "3")
        fails("safetensors", "bench", "latency", "--model", d, "--num-iters", "1")

# ---- collect-env ----

@test
def collect_env():
    secrets = {"HF_TOKEN": "s3cret1", "VLLM_API_KEY": "s3cret2", "OPENAI_API_KEY": "s3cret3", "HF_ENDPOINT": "https://me:s3cret4@hub.example", "https_proxy": "http://me:s3cret5@proxy", "SYSTOLIC_DB_PASSWD": "s3cret6",
               "VLLM_auth_header": "s3cret7"}
    out = ok("collect-env", env=dict(secrets, VLLM_HOST_IP="10.0.0.7", UNRELATED_VARIABLE="private"))
    assert "s3cret" not in out and "private" not in out, out
    for name in secrets: assert f"{name}=(set)\n" in out, name
    assert "VLLM_HOST_IP=10.0.0.7\n" in out
    for row in ("OS", "Kernel", "libc", "Version", "Compiler", "Architectures", "CPU", "Kernels", "Compute threads", "Memory"): assert re.search(rf"^{row} +: \S", out, re.M), row

# ---- tools/run.sh and tools/setup.sh ----

def run_sh(port):
    """A copy of the tree's skeleton, so that the binary under test is the one that runs. Returns (process, directory)."""
    d = tempfile.TemporaryDirectory()
    os.makedirs(d.name + "/build")
    os.makedirs(d.name + "/tools")
    shutil.copy(os.path.join(ROOT, "tools", "run.sh"), d.name + "/tools/run.sh")
    os.symlink(binary(), d.name + "/build/systolic")
    os.symlink(os.path.join(ROOT, "models"), d.name + "/models")
    p = subprocess.Popen([d.name + "/tools/run.sh"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(ENV, PORT=str(port)), start_new_session=True)
    return p, d

@test
def run_script_serves_and_stops():
    for sig, group in ((signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True)):
        port = free_port()
        p, d = run_sh(port)
        with d:
            out = ""
            try:
                for l in p.stdout:
                    out += l
                    if "print(r.choices" in l: break
                if group: os.killpg(p.pid, sig) # what Ctrl-C does
                else: p.send_signal(sig)
                out += p.stdout.read()
                assert p.wait(20) == 0, (sig, group, p.returncode, out)
            finally:
                if p.poll() is None: p.kill()
            url = f"http://127.0.0.1:{port}"
            for want in (f"build/systolic chat --url {url}/v1\n", f"curl -s {url}/v1/chat/completions -H 'Content-Type: application/json'", f"OpenAI(base_url='{url}/v1'", "model='systolic-tiny'",
                         "Application shutdown complete."): assert want in out, (want, out)

@test
def what_the_run_script_says_works():
    port = free_port()
    p, d = run_sh(port)
    with d:
        out = ""
        try:
            for l in p.stdout:
                out += l
                if "print(r.choices" in l: break
            threading.Thread(target=p.stdout.read, daemon=True).start()
            chat = re.search(r"^  build/systolic (chat .*)$", out, re.M)[1].split()
            assert len(ok(*chat, "-q", "Who are you?")) > 5
            curl = re.search(r"^  (curl .*\n.*)$", out, re.M)[1]
            if shutil.which("curl"): assert "choices" in json.loads(subprocess.run(["bash", "-c", curl], capture_output=True, text=True).stdout)
            code = re.search(r'^  python3 -c "\n(.*)"$', out, re.M | re.S)[1]
            try: import openai
            except ImportError: openai = None
            if openai: assert len(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) > 5
        finally:
            p.terminate()
            assert p.wait(20) == 0

@test
def run_script_with_a_taken_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        p, d = run_sh(s.getsockname()[1])
        with d: out = p.communicate(timeout=20)[0]
        assert p.returncode == 1 and f"Port {s.getsockname()[1]} is in use" in out and "is being served" not in out, (p.returncode, out)
    p, d = run_sh("eighty")
    with d: out = p.communicate(timeout=20)[0]
    assert p.returncode == 2 and "--port: 'eighty' is not an integer" in out, (p.returncode, out)

def setup_sh(fakes, *args):
    """tools/setup.sh with these programs (name -> script) before the real ones."""
    with tempfile.TemporaryDirectory() as d:
        for name, text in fakes.items():
            with open(f"{d}/{name}", "w") as f: f.write("#!/bin/sh\n" + text + "\n")
            os.chmod(f"{d}/{name}", 0o755)
        p = subprocess.run(["sh", os.path.join(ROOT, "tools", "setup.sh"), *args], capture_output=True, text=True, env=dict(ENV, PATH=d + ":" + ENV["PATH"], LOG=d + "/log"))
        log = open(d + "/log").read() if os.path.exists(d + "/log") else ""
        return p.returncode, p.stdout, p.stderr, log

@test
def setup_script():
    installed = 'case "$*" in *Version*) echo 2.1.12-stable-8;; *) echo "install ok installed";; esac'
    missing = 'case "$*" in *libjansson-dev|*libpcre2-dev) exit 1;; *Version*) echo 2.1.12-stable-8;; *) echo "install ok installed";; esac'
    versions = 'case "$2" in 2.1.12-stable-8*) exit 0;; *) exit 1;; esac' # dpkg --compare-versions HAVE ge WANT
    user_id, root_id, no_sudo = 'echo 1000', 'echo 0', 'exit 1'
    line = "apt-get install -y --no-install-recommends libjansson-dev libpcre2-dev"
    assert setup_sh({"dpkg-query": installed, "dpkg": versions, "id": user_id}) == (0, "", "", ""), "nothing happens when everything is there"
    rc, out, err, _ = setup_sh({"dpkg-query": missing, "dpkg": versions, "id": user_id, "sudo": no_sudo})
    assert rc == 1 and f"    sudo apt-get update && sudo {line}\n" in err and out == "", (rc, out, err)
    log = 'echo "$0 $*" | sed "s|.*/||" >> "$LOG"'
    rc, out, err, did = setup_sh({"dpkg-query": missing, "dpkg": versions, "id": root_id, "apt-get": log})
    assert rc == 0 and did == line + "\n", (rc, err, did)
    rc, out, err, did = setup_sh({"dpkg-query": missing, "dpkg": versions, "id": user_id, "sudo": f'[ "$1" = -n ] && exit 0\n{log}', "apt-get": "exit 1"})
    assert rc == 0 and did == "sudo " + line + "\n", (rc, err, did)
    old = installed.replace("stable-8", "stable-1")
    rc, out, err, _ = setup_sh({"dpkg-query": old, "dpkg": versions, "id": user_id, "sudo": no_sudo})
    assert rc == 1 and "--no-install-recommends libevent-dev\n" in err, "too old a libevent"
    assert setup_sh({}, "frobnicate")[0] == 2

@test
def scripts_parse():
    for f in sorted(os.listdir(os.path.join(ROOT, "tools"))):
        if f.endswith(".sh"): subprocess.run(["bash", "-n", os.path.join(ROOT, "tools", f)], check=True)

@test
def the_page_of_what_works_is_whole():
    if not os.path.isdir(os.path.join(SHARED, "goldens")): raise Skip("no ../shared")
    p = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "support_models.py"), "--check"], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0, p.stderr

main(TESTS)
