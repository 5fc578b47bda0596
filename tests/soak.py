#!/usr/bin/env python3
"""Load and leak run: `make soak` (SECONDS=60 REQUESTS=10000).

1. SECONDS of 64 concurrent streaming clients, a third of which leave in the middle, with prompts from 1 token to the context limit;
2. REQUESTS short requests;
then: every answer equals the one the same prompt got alone, memory is steady, no request or block is left over, the server is alive and drains."""
import json, os, random, sys, threading, time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "api"))
from server import Server, BUNDLED

SECONDS, REQUESTS, CLIENTS = int(os.environ.get("SECONDS", 60)), int(os.environ.get("REQUESTS", 10000)), 64
faults, counts, lock = [], {"whole": 0, "left": 0, "short": 0}, threading.Lock()

def fault(text):
    with lock:
        if len(faults) < 20: faults.append(text)

def count(key):
    with lock: counts[key] += 1

def ids_of(s, text): return s.post("/tokenize", {"prompt": text})[1]["tokens"]

def prompts(s, limit):
    """(token ids, max_tokens, greedy answer alone): short ones, long ones with shared prefixes, and some at the context limit."""
    r, out = random.Random(7), []
    base = ids_of(s, "Once there was a fox who lived in the forest and told stories about the moon. " * 200)
    for n in [1, 2, 3, 15, 16, 17, 31, 33, 64, 100, 150, 200, limit // 2, limit - 9, limit - 1]:
        start = r.choice([0, 0, r.randrange(50)])
        out.append(((base * 2)[start:start + n], min(r.randrange(1, 40), limit - n)))
    done = []
    for ids, n in out:
        code, a = s.post("/v1/completions", {"prompt": ids, "max_tokens": n, "temperature": 0, "ignore_eos": True, "return_token_ids": True})
        assert code == 200, a
        done.append((ids, n, a["choices"][0]["token_ids"]))
    return done

def streaming_client(s, jobs, seed, until):
    r = random.Random(seed)
    while time.time() < until:
        ids, n, want = r.choice(jobs)
        leave = r.random() < 0.33 and r.randrange(n + 1)
        got = []
        try:
            for e in s.stream("/v1/completions", {"prompt": ids, "max_tokens": n, "temperature": 0, "ignore_eos": True, "return_token_ids": True}):
                for c in e.get("choices", []): got += c.get("token_ids") or []
                if leave is not False and len(got) >= leave: break
            else: leave = False
        except (OSError, RuntimeError, ValueError) as e:
            fault(f"stream failed: {e}")
            continue
        if got != want[:len(got)] or (leave is False and len(got) != len(want)): fault(f"wrong answer for {len(ids)} prompt tokens: {got[:8]} instead of {want[:8]}")
        count("whole" if leave is False else "left")

def short_client(s, jobs, quota):
    r, c = random.Random(quota), s.connect()
    for _ in range(quota):
        ids, n, want = r.choice(jobs)
        n = min(n, 4)
        try:
            c.request("POST", "/v1/completions", json.dumps({"prompt": ids, "max_tokens": n, "temperature": 0, "ignore_eos": True, "return_token_ids": True}), {"Content-Type": "application/json"})
            a = json.loads(c.getresponse().read())
            if a["choices"][0]["token_ids"] != want[:n]: fault(f"wrong short answer {a['choices'][0]['token_ids']} instead of {want[:n]}")
        except (OSError, ValueError, KeyError) as e:
            fault(f"short request failed: {type(e).__name__} {e}")
            c.close()
            c = s.connect()
        count("short")

def all_of(threads):
    for t in threads: t.start()
    for t in threads: t.join()

def main():
    with Server(BUNDLED, "--disable-uvicorn-access-log", "--shutdown-timeout", "20", "--kv-cache-memory-bytes", "48M", env={"SYSTOLIC_CHECK_KV": "1"}) as s:
        limit = s.get("/v1/models")[1]["data"][0]["max_model_len"]
        jobs = prompts(s, limit)
        short = [j for j in jobs if len(j[0]) <= 33]
        # A warm-up of the same kind, so that buffers have grown and every KV block was touched before memory is looked at. The cache
        # is too small for 64 long sequences: some are preempted.
        until = time.time() + min(5, SECONDS)
        all_of([threading.Thread(target=streaming_client, args=(s, jobs, i, until)) for i in range(CLIENTS)])
        rss0, t0 = s.rss(), time.time()
        until = time.time() + SECONDS
        all_of([threading.Thread(target=streaming_client, args=(s, jobs, 1000 + i, until)) for i in range(CLIENTS)])
        print(f"{counts['whole']} streams read to the end, {counts['left']} left early in {time.time() - t0:.0f} s", flush=True)
        rss1, t0 = s.rss(), time.time()
        all_of([threading.Thread(target=short_client, args=(s, short, REQUESTS // CLIENTS + 1)) for _ in range(CLIENTS)])
        print(f"{counts['short']} short requests in {time.time() - t0:.1f} s", flush=True)
        for _ in range(100):
            if s.metric("vllm:num_requests_running") + s.metric("vllm:num_requests_waiting") == 0: break
            time.sleep(0.1)
        rss2 = s.rss()
        running = s.metric("vllm:num_requests_running") + s.metric("vllm:num_requests_waiting")
        if running: fault(f"{running:.0f} requests left over")
        if rss2 > rss0 * 1.10 + (16 << 20): fault(f"memory grew from {rss0 >> 20} to {rss2 >> 20} MiB")
        if s.get("/health")[0] != 200: fault("not healthy afterwards")
        time.sleep(1.5)  # the idle KV check
        code = s.stop()
        log = s.log_text()
        if code != 0: fault(f"exit status {code} on SIGTERM")
        if "ERROR" in log: fault("errors in the log: " + [l for l in log.split("\n") if "ERROR" in l][0])
        print(f"RSS {rss0 >> 20} MiB warm, {rss1 >> 20} after streams, {rss2 >> 20} after short requests; exit {code}")
    for f in faults: print("FAULT", f)
    print(f"soak: {0 if faults else 1} passed, {len(faults)} failed")
    return bool(faults)

if __name__ == "__main__": sys.exit(main())
