#!/usr/bin/env python3
"""Images and sounds through the chat API: multimodal goldens (prompt logprobs over the whole vocabulary, greedy tokens), caching, chunks, limits, errors.

    test_media.py [--bin build/systolic]        the goldens are in ../shared; without them those tests are skipped, visibly
"""
import array, base64, http.server, json, math, os, shutil, struct, sys, tempfile, threading, zlib

from server import ROOT, SHARED, Server, Skip, run

CODE = {"F32": "f", "I32": "i", "I64": "q"}

def tensors(path, names):
    """name -> (shape, flat array)"""
    out = {}
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8))
        head = json.loads(f.read(n))
        for k, v in head.items():
            if k not in names: continue
            f.seek(8 + n + v["data_offsets"][0])
            a = array.array(CODE[v["dtype"]])
            a.frombytes(f.read(v["data_offsets"][1] - v["data_offsets"][0]))
            out[k] = (v["shape"], a)
    return out

# One character for each token, so that any list of ids can be written; what media become are added tokens.
def char(i): return chr(0x4E00 + i)

FAMILIES = {
    "qwen2_5_vl": {"image": 318, "image_mark": char(316) + "<image>" + char(317)},
    "gemma3_mm": {"image": 319, "boi": 317, "image_mark": "<begin>"},
    "llama4_scout": {"image": 319, "boi": 317, "image_mark": "<begin>"},
    "llama4_guard": {"image": 319, "boi": 317, "image_mark": "<begin>"},
    "llama4_maverick": {"image": 319, "boi": 317, "image_mark": "<begin>"},
    "qwen3_omni": {"image": 315, "audio": 317, "image_mark": char(313) + "<image>" + char(314), "audio_mark": char(318) + "<audio>" + char(319)},
}

class Model:
    """A golden checkpoint with a tokenizer and a template."""
    def __init__(self, name):
        self.dir = os.path.join(SHARED, "goldens", name)       # or a folder
        self.name = os.path.basename(self.dir)
        if not os.path.exists(os.path.join(self.dir, "golden.safetensors")): raise Skip(f"no goldens of {name}")
        self.family = next(f for n, f in FAMILIES.items() if n in self.name)
        self.tmp = tempfile.TemporaryDirectory()
        for f in os.listdir(self.dir):
            if f.endswith((".json", ".safetensors")) and not f.startswith("golden"): os.symlink(os.path.join(self.dir, f), os.path.join(self.tmp.name, f))
        special = {self.family[k]: s for k, s in (("image", "<image>"), ("audio", "<audio>"), ("boi", "<begin>")) if k in self.family}
        vocab = {special.get(i, char(i)): i for i in range(320)}
        added = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, s in special.items()]
        self.write("tokenizer.json", {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "pre_tokenizer": None, "post_processor": None, "decoder": None,
                                      "normalizer": {"type": "Replace", "pattern": {"String": "\n"}, "content": ""},
                                      "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                                                "byte_fallback": False, "vocab": vocab, "merges": []}})
        template = ("{%- for m in messages %}{%- if m.content is string %}{{- m.content }}{%- else %}{%- for c in m.content %}{%- if c.type == 'image' %}{{- '" + self.family["image_mark"] +
                    "' }}{%- elif c.type == 'audio' %}{{- '" + self.family.get("audio_mark", "") + "' }}{%- else %}{{- c.text }}{%- endif %}{%- endfor %}{%- endif %}{%- endfor %}")
        self.write("tokenizer_config.json", {"chat_template": template})

    def write(self, name, value):
        with open(os.path.join(self.tmp.name, name), "w") as f: json.dump(value, f)

    def serve(self, *args, **kw):
        return Server(self.tmp.name, "--dtype", "float32", "--max-logprobs", "-1", "--served-model-name", "m", *args, **kw)

    def data(self, file):
        with open(os.path.join(self.dir, file), "rb") as f: return base64.b64encode(f.read()).decode()

    def image(self, which): return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{self.data(f'image_{which}.png')}"}}
    def audio(self): return {"type": "input_audio", "input_audio": {"data": self.data("audio_a.wav"), "format": "wav"}}

    def parts(self, ids, media):
        """The golden's prompt as content parts: `media` stand where runs of placeholders are, with the tokens that frame them."""
        out, text, i, media = [], "", 0, list(media)
        places = [self.family[k] for k in ("image", "audio") if k in self.family]
        def is_place(j): return 0 <= j < len(ids) and ids[j] in places
        while i < len(ids):
            if is_place(i + 1) and not is_place(i): # the token before a run belongs to it, and the one behind
                if text: out.append({"type": "text", "text": text})
                text = ""
                out.append(media.pop(0))
                i += 1
                while is_place(i): i += 1
                i += 1
                continue
            text += char(ids[i])
            i += 1
        assert not media, "fewer runs of placeholders than media"
        return out + ([{"type": "text", "text": text}] if text else [])

def logsoftmax(row):
    m = max(row)
    s = math.log(sum(math.exp(x - m) for x in row))
    return [x - m - s for x in row]

def ask(s, parts, **more):
    return s.post("/v1/chat/completions", dict({"model": "m", "messages": [{"role": "user", "content": parts}], "temperature": 0, "ignore_eos": True, "add_generation_prompt": False,
                                                "max_tokens": 24, "return_token_ids": True}, **more), timeout=120)

def check_prompt(m, s, prompt, media):
    """(the parts, the tokens that followed, what is off most of the logprobs)"""
    g = tensors(os.path.join(m.dir, "golden.safetensors"), [f"{prompt}.{k}" for k in ("input_ids", "logits", "greedy_ids", "greedy_margin")])
    ids, (T, V), flat = list(g[f"{prompt}.input_ids"][1]), g[f"{prompt}.logits"][0], g[f"{prompt}.logits"][1]
    parts = m.parts(ids, media)
    code, r = ask(s, parts, prompt_logprobs=-1)
    assert code == 200, f"{m.name}/{prompt}: HTTP {code} {str(r)[:300]}"
    assert r["prompt_token_ids"] == ids, f"{m.name}/{prompt}: tokens {r['prompt_token_ids']}, wanted {ids}"
    worst = 0.0
    for t in range(1, T):
        want = logsoftmax(list(flat[(t - 1) * V:t * V]))
        got = {int(k): v["logprob"] for k, v in r["prompt_logprobs"][t].items()}
        worst = max([worst] + [abs(got[v] - want[v]) for v in range(V) if want[v] > -30])
    with open(os.path.join(m.dir, "golden.json")) as f: tol = max(4 * json.load(f)["suggested_atol"], 2e-3)
    print(f"  {m.name}/{prompt}: {T} tokens, worst logprob error {worst:.1e}")
    assert worst <= tol, f"{m.name}/{prompt}: logprobs are off by {worst}"
    out = r["choices"][0]["token_ids"]
    for a, b, margin in zip(g[f"{prompt}.greedy_ids"][1], out, g[f"{prompt}.greedy_margin"][1]):
        if a != b:
            assert margin < 5 * tol, f"{m.name}/{prompt}: greedy tokens {out}"
            break
    return parts, out, worst

TESTS = []
def test(f):
    TESTS.append(f)
    return f

# ---- goldens ----

def golden(name, prompts, *args, encoders="the host's CPU", **kw):
    m = Model(name)
    media = {"a": m.image("a"), "b": m.image("b"), "s": m.audio() if "audio" in m.family else None}
    with m.serve(*args, **kw) as s:
        for prompt, kinds in prompts.items(): check_prompt(m, s, prompt, [media[k] for k in kinds])
        assert f"they run on {encoders}" in s.log_text(), s.log_text()

@test
def golden_qwen2_5_vl(): golden("qwen2_5_vl", {"img1": "a", "img2": "ab"})
@test
def golden_gemma3(): golden("gemma3_mm", {"img1": "a", "img2": "ab"})
@test
def golden_llama4_scout(): golden("llama4_scout", {"img1": "a", "img_tiles": "b"})
@test
def golden_llama4_guard(): golden("llama4_guard", {"img1": "a", "img_tiles": "b"})
@test
def golden_llama4_maverick(): golden("llama4_maverick", {"img1": "a", "img_tiles": "b"})
@test
def golden_qwen3_omni(): golden("qwen3_omni", {"img1": "a", "img2": "ab", "audio1": "s", "img_audio": "bs"})
@test
def golden_gemma3_in_chunks(): golden("gemma3_mm", {"img2": "ab"}, "--max-num-batched-tokens", "16", "--max-num-seqs", "8", "--block-size", "16")
@test
def golden_qwen3_omni_in_chunks(): golden("qwen3_omni", {"img_audio": "bs"}, "--max-num-batched-tokens", "8", "--max-num-seqs", "2")

# ---- on a PJRT device, encoders too: their rows come back and go into its steps ----

def pjrt(name, prompts, *args, devices=1):
    plugin = os.environ.get("SYSTOLIC_PJRT_CPU", os.path.join(ROOT, "build", "pjrt", "libpjrt_cpu.so"))
    if not os.path.exists(plugin): raise Skip("no XLA:CPU plugin (make pjrt-cpu)")
    quick = {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"}     # as in test_pjrt.py
    cache = os.path.join(ROOT, "build", "pjrt", "programs-quick")
    os.makedirs(cache, exist_ok=True)
    golden(name, prompts, "--device", f"pjrt:{plugin}?cpu_device_count={devices}", "--program-cache", cache, "--lazy-compile", "--max-num-seqs", "2", *args, encoders=f"{devices} x cpu", env=quick, wait=300)

@test
def pjrt_qwen2_5_vl(): pjrt("qwen2_5_vl", {"img1": "a", "img2": "ab"}, "--max-num-batched-tokens", "64")
@test
def pjrt_gemma3(): pjrt("gemma3_mm", {"img1": "a", "img2": "ab"}, "--max-num-batched-tokens", "16", "--max-num-seqs", "8", "--block-size", "16")
@test
def pjrt_llama4_scout(): pjrt("llama4_scout", {"img1": "a", "img_tiles": "b"}, "--max-num-batched-tokens", "64")
@test
def pjrt_qwen3_omni(): pjrt("qwen3_omni", {"img2": "ab", "img_audio": "bs"}, "--max-num-batched-tokens", "64")
@test
def pjrt_two_ranks(): pjrt("qwen2_5_vl", {"img2": "ab"}, "--max-num-batched-tokens", "16", "--tensor-parallel-size", "2", devices=2)

# ---- processors: newer checkpoints' files, settings by flag and by request ----

def image_tokens(s, m, **kw):
    code, r = ask(s, [m.image("a"), {"type": "text", "text": char(3)}], **kw)
    return len(r["prompt_token_ids"]) if code == 200 else (code, r["error"]["message"])

@test
def processor_config_in_place_of_preprocessor_config():
    m = Model("qwen2_5_vl")
    with m.serve() as s: want = image_tokens(s, m)
    with open(os.path.join(m.dir, "preprocessor_config.json")) as f: flat = json.load(f)
    newer = Model("qwen2_5_vl")
    os.unlink(os.path.join(newer.tmp.name, "preprocessor_config.json"))
    newer.write("processor_config.json", {"image_processor": flat, "processor_class": "Qwen2_5_VLProcessor"})
    with newer.serve() as s: assert image_tokens(s, newer) == want

@test
def processor_settings():
    m = Model("qwen2_5_vl")
    small = {"max_pixels": 3136}
    with m.serve() as s:
        full = image_tokens(s, m)
        code, why = image_tokens(s, m, mm_processor_kwargs=small)
        assert code == 400 and "--trust-request-mm-kwargs is not set" in why, why
    with m.serve("--mm-processor-kwargs", json.dumps(small), "--trust-request-mm-kwargs") as s:
        less = image_tokens(s, m)
        assert less < full, (less, full)
        assert image_tokens(s, m, mm_processor_kwargs={"max_pixels": 12845056}) == full
        assert image_tokens(s, m) == less    # what another request's settings made is not taken for this one's
        code, why = image_tokens(s, m, mm_processor_kwargs={"max_pixles": 5})
        assert code == 400 and "max_pixles" in why, why
        assert image_tokens(s, m, media_io_kwargs={"image": {}}) == less
        code, why = image_tokens(s, m, media_io_kwargs={"video": {"num_frames": 3}})
        assert code == 400 and "media_io_kwargs: video: settings are of image; video is not read" in why, why
    try:
        with m.serve("--mm-processor-kwargs", '{"num_frames": 3}'): raise AssertionError("a setting that does not exist was taken")
    except RuntimeError as e: assert "--mm-processor-kwargs: mm_processor_kwargs: num_frames" in str(e), e

def png(width, height, pixel, alpha=False):
    """pixel(x, y) -> 3 or, with alpha, 4 bytes"""
    def chunk(kind, body): return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    rows = b"".join(b"\0" + b"".join(bytes(pixel(x, y)) for x in range(width)) for y in range(height))
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6 if alpha else 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(body).decode()}}

def answer(s, parts, **kw):
    code, r = ask(s, parts, max_tokens=4, prompt_logprobs=3, **kw)
    assert code == 200, r
    return r["prompt_token_ids"], r["prompt_logprobs"], r["choices"][0]["token_ids"]

@test
def pan_and_scan():
    """A long image becomes itself and its crops: what the same prompt with the crops as images of their own gives, to the bit."""
    m, pan = Model("gemma3_mm"), {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 30}
    def colour(x, y): return (x * 7 % 256, y * 11 % 256, (x * y) % 256)
    long, text = png(101, 40, colour), {"type": "text", "text": char(3)}
    crops = [png(34 if i < 2 else 33, 40, lambda x, y, i=i: colour(x + 34 * i, y)) for i in range(3)]
    with m.serve("--trust-request-mm-kwargs") as s:
        whole, want = answer(s, [long, text]), answer(s, [long, *crops, text])
        assert want[0].count(319) == 16 and whole[0].count(319) == 4, (want[0], whole[0])
        assert answer(s, [long, text], mm_processor_kwargs=pan) == want     # the words around them are not in this vocabulary
        assert answer(s, [png(60, 52, colour), text], mm_processor_kwargs=pan)[0].count(319) == 4
        code, r = s.post("/tokenize", {"model": "m", "messages": [{"role": "user", "content": [long, text]}], "add_generation_prompt": False, "mm_processor_kwargs": pan})
        assert code == 200 and r["tokens"] == want[0], r
    with m.serve("--mm-processor-kwargs", json.dumps(pan)) as s:
        assert answer(s, [long, text]) == want
        assert answer(s, [long, text, long])[0].count(319) == 32

@test
def transparency_is_laid_over_a_colour():
    m, text = Model("gemma3_mm"), {"type": "text", "text": char(3)}
    half = png(40, 40, lambda x, y: (200, 10 * (x % 20), 30, 0 if x < 20 else 255), alpha=True)
    over = {c: png(40, 40, lambda x, y, c=c: c if x < 20 else (200, 10 * (x % 20), 30)) for c in ((255, 255, 255), (10, 200, 90))}
    io = {"image": {"rgba_background_color": [10, 200, 90]}}
    with m.serve("--trust-request-mm-kwargs") as s:
        white, green = (answer(s, [over[c], text])[1] for c in over)
        assert white != green and answer(s, [half, text])[1] == white
        assert answer(s, [half, text], media_io_kwargs=io)[1] == green
        assert answer(s, [half, text])[1] == white      # rows made with other settings are not taken
    with m.serve("--media-io-kwargs", json.dumps(io)) as s: assert answer(s, [half, text])[1] == green
    try:
        with m.serve("--media-io-kwargs", '{"video": {"num_frames": 3}}'): raise AssertionError("settings of video were taken")
    except RuntimeError as e: assert "--media-io-kwargs: media_io_kwargs: video" in str(e), e

# ---- what the engine does with them ----

@test
def cached_prefixes_know_their_images():
    """The same text over different images shares no blocks; the same image does, and gives the same tokens. Preempted ones too."""
    m = Model("qwen2_5_vl")
    before, after = {"type": "text", "text": char(5) * 3}, {"type": "text", "text": char(9) * 40}
    b_as_large = [before, m.image("b"), after]
    with m.serve("--enable-prompt-tokens-details", "--block-size", "16") as s:
        def go(parts):
            code, r = ask(s, parts, max_tokens=8)
            assert code == 200, r
            return r["choices"][0]["token_ids"], (r["usage"].get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        first, cached = go([before, m.image("a"), after])
        assert cached == 0, cached
        again, cached = go([before, m.image("a"), after])
        assert again == first and cached >= 16, (again, first, cached)
        other, cached = go(b_as_large)
        assert cached == 0, "another image took the first one's blocks"
    with m.serve("--block-size", "16", env={"SYSTOLIC_HOSTILE": "3"}) as s:
        code, r = ask(s, [before, m.image("a"), after], max_tokens=8)
        assert code == 200 and r["choices"][0]["token_ids"] == first, r

# ---- requests ----

def error(s, parts, code, text):
    got, r = ask(s, parts)
    assert got == code and text.lower() in str(r).lower(), (got, str(r)[:400])

@test
def limits_and_errors():
    m = Model("gemma3_mm")
    pixel = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs="}}
    with m.serve("--limit-mm-per-prompt", '{"image": 2}') as s:
        assert ask(s, [pixel, pixel])[0] == 200
        error(s, [pixel] * 3, 400, "At most 2 image(s)")
        error(s, [m_audio()], 400, "audio")
        error(s, [{"type": "video_url", "video_url": {"url": "x"}}], 400, "video_url")
        error(s, [{"type": "image_url", "image_url": {"url": "data:image/png;base64,????"}}], 400, "base64")
        error(s, [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}], 422, "cannot identify image")
        error(s, [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + m.data("image_a.png")[:400]}}], 422, "PNG")
        error(s, [{"type": "image_url", "image_url": {"url": "ftp://somewhere/x.png"}}], 400, "HTTP, data or file URL")
        error(s, [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], 400, "--allowed-local-media-path")
        error(s, [{"type": "image_url", "image_url": {}}], 400, "url")
        error(s, [pixel, {"type": "text", "text": "<begin>"}], 400, "placeholder")
        code, r = s.post("/tokenize", {"model": "m", "messages": [{"role": "user", "content": [pixel, {"type": "text", "text": char(3)}]}], "add_generation_prompt": False})
        assert code == 200 and r["tokens"] == [317] + [319] * 4 + [318, 3], r
        assert s.get("/health")[0] == 200

def m_audio(): return {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}

@test
def prompt_logprobs_of_whole_images():
    """Gemma 3 reads an image in one step, so each of its tokens needs a row of logits there."""
    m = Model("gemma3_mm")
    with m.serve("--max-num-seqs", "2") as s:
        code, r = ask(s, [m.image("a"), {"type": "text", "text": char(3)}], prompt_logprobs=1)
        assert code == 400 and "--max-num-seqs 5 makes enough" in str(r), (code, r)
    with m.serve("--max-num-seqs", "5") as s: assert ask(s, [m.image("a"), {"type": "text", "text": char(3)}], prompt_logprobs=1)[0] == 200

@test
def text_only():
    m = Model("gemma3_mm")
    with m.serve("--language-model-only") as s:
        error(s, [m.image("a")], 400, "no image input")
        assert ask(s, [{"type": "text", "text": char(3) * 4}])[0] == 200

@test
def files_and_servers():
    m = Model("gemma3_mm")
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/elsewhere":
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{self.server.server_port}/image_a.png")
                self.end_headers()
                return
            with open(os.path.join(m.dir, "image_a.png"), "rb") as f: data = f.read()
            self.send_response(200 if self.path == "/image_a.png" else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        def log_message(self, *a): pass
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{web.server_port}"
    def url(u): return [{"type": "image_url", "image_url": {"url": u}}, {"type": "text", "text": char(3)}]
    with tempfile.TemporaryDirectory() as folder, m.serve("--allowed-local-media-path", folder, "--allowed-media-domains", "127.0.0.1", env={"VLLM_MEDIA_EGRESS_BLOCK_PRIVATE": "0"}) as s:
        shutil.copy(os.path.join(m.dir, "image_a.png"), os.path.join(folder, "an image.png"))
        os.symlink(os.path.join(m.dir, "image_b.png"), os.path.join(folder, "link.png"))
        want = ask(s, [m.image("a"), {"type": "text", "text": char(3)}])[1]["choices"][0]["token_ids"]
        for u in (f"file://{folder}/an%20image.png", f"{at}/image_a.png"):
            code, r = ask(s, url(u))
            assert code == 200 and r["choices"][0]["token_ids"] == want, (u, r)
        error(s, url(f"file://{folder}/link.png"), 400, "subpath")
        error(s, url(f"file://{folder}/../x.png"), 400, "")
        error(s, url(f"{at}/missing.png"), 400, "404")
        error(s, url(f"http://localhost:{web.server_port}/image_a.png"), 400, "allowed domains")
        error(s, url(f"{at}/elsewhere"), 400, "")  # a redirect to a host that is not allowed
    with m.serve() as s:    # any host, but none of this network
        for u in (f"{at}/image_a.png", f"http://localhost:{web.server_port}/image_a.png", "http://169.254.169.254/latest", "http://[::1]/x"):
            error(s, url(u), 400, "VLLM_MEDIA_EGRESS_BLOCK_PRIVATE=0")
    web.shutdown()

if __name__ == "__main__": run(TESTS)
