#!/usr/bin/env python3
"""A server on simulated chips: the real API and engine, tokens and times of the simulation (docs/simulator.md).

    test_sim.py [--bin build/systolic] [-k NAME]
"""
import atexit, concurrent.futures, re, subprocess, time

from server import Server, binary, run as main

TESTS = []
def test(f):
    TESTS.append(f)
    return f

MODEL = "Llama-3.3-70B-Instruct"
SERVERS = {}
def server(device):
    if device not in SERVERS:
        SERVERS[device] = Server(MODEL, "--device", device, "--tensor-parallel-size", "8", "--max-model-len", "8192", "--max-num-seqs", "64")
        atexit.register(SERVERS[device].stop)
    return SERVERS[device]

def complete(s, prompt, n, **kw):
    code, r = s.post("/v1/completions", dict({"model": MODEL, "prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, "return_token_ids": True}, **kw))
    assert code == 200, (code, r)
    return r

def metric(s, name):
    text = s.get("/metrics")[1]
    return sum(float(v) for v in re.findall(rf"^vllm:{name}{{[^}}]*}} (\S+)$", text, re.M))

@test
def a_preset_is_served_without_weights():
    s = server("sim:v6e-8")
    r = complete(s, [1, 2, 3, 4, 5], 20)
    ids = r["choices"][0]["token_ids"]
    assert len(ids) == 20 and r["usage"]["completion_tokens"] == 20, r
    assert complete(s, [9, 8, 7, 6, 5], 20)["choices"][0]["token_ids"] == ids   # greedy: of the place alone
    seeded = [complete(s, [1, 2, 3], 8, temperature=1, seed=7)["choices"][0]["token_ids"] for _ in range(2)]
    assert seeded[0] == seeded[1] and seeded[0] != ids[:8]
    assert "simulat" in s.log_text()

@test
def clients_wait_as_long_as_the_chip_would():
    """141 GB of weights over eight times 1638 GB/s take 10.8 ms at least."""
    s = server("sim:v6e-8")
    start = time.time()
    complete(s, [1, 2, 3], 32)
    took = time.time() - start
    assert 32 * 0.0108 < took < 32 * 0.04 + 0.5, took
    gaps, n = metric(s, "inter_token_latency_seconds_sum"), metric(s, "inter_token_latency_seconds_count")
    assert 0.0108 < gaps / n < 0.05, gaps / n

@test
def virtual_time_is_in_the_metrics():
    s = server("sim:v6e-8?speed=0")
    start = time.time()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        all_ids = list(pool.map(lambda i: complete(s, [i + 1] * 2000, 256)["choices"][0]["token_ids"], range(32)))
    took = time.time() - start
    assert all(x == all_ids[0] for x in all_ids) and len(all_ids[0]) == 256
    simulated = metric(s, "e2e_request_latency_seconds_sum") / 32
    assert simulated > 256 * 0.0108, simulated          # each waited for its tokens,
    assert took < simulated * 4, (took, simulated)      # we did not
    assert metric(s, "generation_tokens_total") == 32 * 256
    assert metric(s, "time_to_first_token_seconds_count") == 32

@test
def logprobs_and_streams_work():
    s = server("sim:v6e-8?speed=0")
    r = complete(s, [5, 6], 4, logprobs=1)
    assert len(r["choices"][0]["logprobs"]["token_logprobs"]) == 4
    assert all(-1 < x <= 0 for x in r["choices"][0]["logprobs"]["token_logprobs"]), r
    events = list(s.stream("/v1/completions", {"model": MODEL, "prompt": [1, 2, 3], "max_tokens": 5, "temperature": 0, "return_token_ids": True}))
    assert sum(len(e["choices"][0].get("token_ids") or []) for e in events if e["choices"]) == 5

@test
def replicas_share_the_requests_and_idle_devices_are_told():
    r = subprocess.run([binary(), "serve", "Qwen3-4B", "--device", "sim:v6e-8", "--tensor-parallel-size", "4", "--data-parallel-size", "3"], capture_output=True, text=True, timeout=60)
    assert r.returncode != 0 and "need more than the 8 devices" in r.stderr, (r.returncode, r.stderr)
    r = subprocess.run([binary(), "serve", "bench/shapes/qwen3-0.6b", "--device", "cpu", "--load-format", "dummy", "--data-parallel-size", "2"], capture_output=True, text=True, timeout=60)
    assert r.returncode != 0 and "replicas run beside each other on simulated chips" in r.stderr, (r.returncode, r.stderr)
    blocks = {}
    for dp in 1, 2:
        s = Server("Qwen3-4B", "--device", "sim:v6e-8?speed=0", "--tensor-parallel-size", "2", "--data-parallel-size", str(dp), "--max-model-len", "2048", "--max-num-seqs", "8")
        try:
            assert f"has 8 devices, {2 * dp} are used so far" in s.log_text(), s.log_text()
            with concurrent.futures.ThreadPoolExecutor(32) as pool:
                ids = list(pool.map(lambda i: s.post("/v1/completions", {"model": "Qwen3-4B", "prompt": [i + 1] * 500, "max_tokens": 64, "temperature": 0, "ignore_eos": True, "return_token_ids": True})[1]["choices"][0]["token_ids"], range(32)))
            assert all(x == ids[0] for x in ids) and len(ids[0]) == 64
            assert metric(s, "generation_tokens_total") == 32 * 64 and metric(s, "request_success_total") == 32
            blocks[dp] = int(re.search(r'num_gpu_blocks="(\d+)"', s.get("/metrics")[1]).group(1))
        finally:
            s.stop()
    assert blocks[2] == 2 * blocks[1] > 0, blocks

if __name__ == "__main__": main(TESTS)
