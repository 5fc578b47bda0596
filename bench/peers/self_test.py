"""`run.py --self-test`: the readers of the engines' output, the arithmetic of the report and the bounds of the set-up, without any peer."""
import contextlib, io, json, os, sys, tempfile, time, types, unittest

import engines, peers_setup, replay, report

QWEN = {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "tie_word_embeddings": True}


class Readers(unittest.TestCase):
    def test_llama_bench(self):
        rows = [{"n_prompt": 512, "n_gen": 0, "avg_ts": 129.5}, {"n_prompt": 0, "n_gen": 32, "avg_ts": 13.8}]
        self.assertEqual(engines.parse_llama_bench(json.dumps(rows)), {"prefill": 129.5, "decode": 13.8})

    def test_batched_bench_among_log_lines(self):
        text = 'main: warming up\n0.01 I {"n_kv_max": 8192, "pp": 32, "tg": 16, "pl": 8, "speed_tg": 59.6}\n{"n_kv_max": 8192, "pl": 32, "speed_tg": 84.5}\n\nllama_perf: done\n'
        self.assertEqual(engines.parse_batched_bench(text), {8: 59.6, 32: 84.5})

    def test_worker(self):
        self.assertEqual(engines.parse_worker('a warning {\n{"start_s": 2.5, "prefill": 100.0, "decode": {"1": 14.0, "8": 60.0}}\n')["decode"], {1: 14.0, 8: 60.0})

    def test_limits(self):
        d = engines.parse_limits('{"limit": "streaming read", "threads": 2, "min": 30, "median": 31.5, "max": 32, "unit": "GB/s"}\n')
        self.assertEqual(d["streaming read", 2]["median"], 31.5)

    def test_quantizations(self):
        p = engines.parse_quantizations
        self.assertEqual(p("  --quantization, -q VALUE    Quantisation method. (not supported \n                              yet)\n"), [])
        self.assertEqual(p("  -q VALUE  Method. One of: awq fp8 int8 int4_g32 int4_w8. Supported so far: fp8 int8 \n   int4_g32. (default: x)"), ["int8", "int4_g32"])
        self.assertEqual(p("  -q VALUE  Method. One of: awq w8a8 int4."), ["w8a8", "int4"])
        self.assertEqual(p(""), [])
        self.assertEqual(engines.usual_quantizations(["int8", "int8_g32", "int4", "int4_g32"]), ["int8", "int4"])
        self.assertEqual(engines.usual_quantizations(["int4_g32"]), ["int4_g32"])
        self.assertEqual([engines.bits_of(x) for x in ("int8", "int4_g128", "w4a16", "bfloat16")], ["8", "4", "4", "16"])

    def test_serve_result(self):
        d = {"failed": 0, "output_throughput": 32.7, "p50_ttft_ms": 6300, "p99_ttft_ms": 7000, "p50_itl_ms": 127, "p99_itl_ms": 1000}
        self.assertEqual(engines.parse_serve_result(json.dumps(d) + "\n")["itl_p99_ms"], 1000)
        with self.assertRaises(engines.Failed):
            engines.parse_serve_result(json.dumps({**d, "failed": 1}))


class Replay(unittest.TestCase):
    LINES = ["TIMESTAMP,ContextTokens,GeneratedTokens", *[f"2023-11-16 18:{15 + i // 6:02d}:{i % 6 * 10:02d}.5000000,{100 * (i + 1)},{i + 1}" for i in range(120)]]

    def test_trace(self):
        t = replay.read_trace(self.LINES, 10)
        self.assertEqual((len(t), t[0], t[6]), (61, (0.0, 100, 1), (60.0, 700, 7)))

    def test_schedule(self):
        t = replay.read_trace(self.LINES, 10)
        s = replay.schedule(t, 20, 0.5, 4, 400, 8)
        self.assertEqual(len(s), 10)
        self.assertEqual(s[0], (0.0, 25, 1))
        self.assertEqual([a for a, _, _ in s], sorted(a for a, _, _ in s))
        self.assertTrue(all(0 <= a <= 20 and 1 <= i <= 400 and 1 <= o <= 8 for a, i, o in s))
        self.assertEqual(len(replay.schedule(t, 20, 100, 4, 400, 8)), len(t))     # no more than there are

    def test_best(self):
        self.assertEqual(replay.best({0.5: {"sustained": True}, 1: {"sustained": True}, 2: {"sustained": False}}), 1)
        self.assertIsNone(replay.best({0.5: {"sustained": False}}))


class Arithmetic(unittest.TestCase):
    def test_parameters(self):
        per_layer = 1024 * 128 * (2 * 16 + 2 * 8) + 3 * 1024 * 3072
        self.assertEqual(report.parameters(QWEN), (28 * per_layer + 151936 * 1024, 28 * per_layer, 28 * per_layer + 151936 * 1024))
        moe = {**QWEN, "num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 512}
        active, prompt, stored = report.parameters(moe)
        self.assertEqual(stored - active, 28 * 28 * 3 * 1024 * 512)
        self.assertEqual(active - prompt, 151936 * 1024)
        self.assertEqual(report.parameters({**QWEN, "tie_word_embeddings": False})[2] - report.parameters(QWEN)[2], 151936 * 1024)

    def test_spread_and_limits(self):
        self.assertEqual({k: report.spread([3, 1, 2])[k] for k in ("min", "median", "max")}, {"min": 1, "median": 2, "max": 3})
        one = {("streaming read", 2): {"min": 28, "median": 30, "max": 31, "unit": "GB/s"}, ("streaming read", 1): {"min": 10, "median": 16, "max": 17, "unit": "GB/s"},
               ("f32 FMA, 512 bit", 2): {"min": 300, "median": 370, "max": 373, "unit": "Gop/s"}, ("bf16 dot (vdpbf16ps, 512 bit)", 2): {"min": 170, "median": 175, "max": 176, "unit": "Gop/s"},
               ("int8 dot (vpdpbusd, 512 bit)", 2): {"min": 1500, "median": 1587, "max": 1600, "unit": "Gop/s"}}
        other = {**one, ("streaming read", 2): {"min": 20, "median": 32, "max": 33, "unit": "GB/s"}}
        limits = report.merge_limits([one, other])
        self.assertEqual(report.peaks(limits), (31, 370, 1587))
        self.assertEqual((limits[0]["min"], limits[0]["max"]), (20, 33))
        self.assertEqual(report.peaks([]), (None, None, None))

    def test_ratios_turn_times_round(self):
        def row(engine, scheme, **f):
            return {"shape": "s", "engine": engine, "scheme": scheme, "bits": "8", "figures": {k: report.spread([v]) for k, v in f.items()}}
        r = report.ratios([row("Systolic", "int8", decode_1=40, start_s=0.5, **{"c8:itl_p99_ms": 100, "c8:output_tok_s": 120}), row("llama.cpp", "Q8_0", decode_1=20, start_s=1, **{"c8:itl_p99_ms": 1000, "c8:output_tok_s": 30})])
        self.assertEqual(r[0]["times"], {"decode_1": 2, "start_s": 2, "c8:itl_p99_ms": 10, "c8:output_tok_s": 4})


class Processes(unittest.TestCase):
    def test_words_of_a_failure(self):
        with self.assertRaisesRegex(engines.Failed, "ended with 3: error: no such thing"):
            engines.finish([sys.executable, "-c", "import sys; print('x'); print('error: no such thing', file=sys.stderr); print('bye', file=sys.stderr); sys.exit(3)"], 30)

    def test_time_limit(self):
        t = time.time()
        with self.assertRaisesRegex(engines.Failed, "took more than"):
            engines.finish([sys.executable, "-c", "import time; time.sleep(60)"], 0.3)
        self.assertLess(time.time() - t, 20)

    def test_peak_memory(self):
        c = engines.finish([sys.executable, "-c", "x = bytearray(100 << 20)\nx[::4096] = b'1' * len(x[::4096])"], 30)
        self.assertGreater(c.rss_bytes, 100 << 20)
        self.assertLess(c.rss_bytes, 200 << 20)


class SetUp(unittest.TestCase):
    def test_a_step_that_does_not_fit_is_skipped_and_said(self):
        with tempfile.TemporaryDirectory() as d, contextlib.redirect_stderr(io.StringIO()) as said:
            s = peers_setup.Setup(d, 1, 0.5)
            self.assertFalse(s.step("big", lambda: False, 2.0, lambda: self.fail("made in spite of its size")))
            self.assertIn("--disk-gb", s.skipped["big"])
            self.assertIn("SKIPPED", said.getvalue())
            self.assertFalse(s.step("broken", lambda: False, 0, lambda: s.sh("broken", ["sh", "-c", "echo the reason; exit 4"])))
            self.assertIn("the reason", s.skipped["broken"])
            self.assertTrue(s.step("there", lambda: True, 99, lambda: self.fail("made again")))

    def test_made_tokenizer(self):
        with tempfile.TemporaryDirectory() as d:
            peers_setup.make_tokenizer(d, 1000)
            t = json.load(open(os.path.join(d, "tokenizer.json"), encoding="utf-8"))["model"]["vocab"]
            self.assertEqual(sorted(t.values()), list(range(1000)))

    def test_every_shape_has_a_configuration(self):
        for shape, (_, billions, _) in peers_setup.SHAPES.items():
            c = json.load(open(os.path.join(peers_setup.ROOT, "bench", "shapes", shape, "config.json")))
            self.assertAlmostEqual(report.parameters(c)[2] / 1e9, billions, delta=0.02)


class Report(unittest.TestCase):
    def test_a_report_with_gaps(self):
        ctx = types.SimpleNamespace(parameters=lambda s: report.parameters(QWEN), threads=2, skipped={"OpenVINO": "not set up"})
        e = lambda name, scheme, bits: types.SimpleNamespace(shape="qwen3-0.6b", label=f"{name} {scheme}", name=name, scheme=scheme, bits=bits, weight_bytes=lambda: None)
        todo = [e("Systolic", "bfloat16", "16"), e("llama.cpp", "BF16", "16"), e("OpenVINO", "16-bit", "16")]
        run = types.SimpleNamespace(limits=[], late={("qwen3-0.6b", "x")}, values={("qwen3-0.6b", "Systolic bfloat16"): {"prefill_512": [180.0, 190.0], "decode_1": [25.0]}, ("qwen3-0.6b", "llama.cpp BF16"): {"decode_1": [14.0], "c8:output_tok_s": [30.0]}})
        with contextlib.redirect_stdout(io.StringIO()) as out:
            report.show(report.collect(ctx, run, todo, 60))
        self.assertIn("180 / 185 / 190", out.getvalue())
        self.assertIn("1.79", out.getvalue())
        self.assertIn("SKIPPED OpenVINO: not set up", out.getvalue())


def main():
    result = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__]))
    return 0 if result.wasSuccessful() else 1
