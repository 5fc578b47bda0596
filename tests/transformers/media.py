"""Pictures and sounds of sizes that nobody chose, for the multimodal goldens: transformers' processors and logits (torch, torchvision, transformers)."""
import json, os, torch, transformers, wave
import numpy as np
from PIL import Image
from safetensors.torch import save_file
from sizes import logits_of, put_prompt, write_json

TOKENS = {"qwen2_5_vl": (316, 318, 317), "qwen3_omni": (313, 315, 314), "gemma3_mm": (317, 319, 318), "llama4_scout": (317, 319, 318), "llama4_maverick": (317, 319, 318),
          "llama4_guard": (317, 319, 318)}       # before, for each row of features, behind

def picture(r, path):
    w, h = r.choice([(r.randrange(20, 300), r.randrange(20, 300)), (r.randrange(30, 60), r.randrange(150, 290)), (r.randrange(200, 420), r.randrange(28, 60)), (56, 56), (113, 57)])
    g = np.random.default_rng(r.randrange(1 << 30))
    tiles = np.kron(g.integers(0, 256, (h // 7 + 1, w // 7 + 1, 3)), np.ones((7, 7, 1)))[:h, :w]
    im = Image.fromarray((tiles * 0.7 + g.integers(0, 77, (h, w, 3))).clip(0, 255).astype(np.uint8), "RGB")
    mode = r.choice(["RGB", "RGB", "RGB", "L", "P"])
    (im.convert("L") if mode == "L" else im.quantize(64) if mode == "P" else im).save(path)
    return Image.open(path).convert("RGB")

def sound(r, path):
    n = r.choice([r.randrange(1600, 16000), r.randrange(16000, 80000), 15999, 16000, 32000])
    g, t = np.random.default_rng(r.randrange(1 << 30)), np.arange(n) / 16000
    x = 0.4 * np.sin(2 * np.pi * (200 + 150 * t) * t) + 0.1 * g.standard_normal(n)
    q = (x.clip(-1, 1) * 32767).astype("<i2")
    with wave.open(path, "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(16000)
        w.writeframes(q.tobytes())
    return q.astype(np.float32) / 32768

def audio_inputs(golden, m, samples):
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import _get_feat_extract_output_lengths as rows_of
    f = transformers.WhisperFeatureExtractor.from_pretrained(golden)(samples, sampling_rate=16000, return_attention_mask=True, return_tensors="pt", padding=True, truncation=False)
    n = int(rows_of(f["attention_mask"].sum(-1), m.thinker.config.audio_config.n_window)[0])
    return n, {"input_features": f["input_features"], "feature_attention_mask": f["attention_mask"]}

def make(d, name, golden, r):
    for f in ("config.json", "model.safetensors", "preprocessor_config.json", "golden.json"): os.symlink(os.path.join(golden, f), os.path.join(d, f))
    cfg = transformers.AutoConfig.from_pretrained(golden)
    m = getattr(transformers, cfg.architectures[0]).from_pretrained(golden, dtype=torch.float32, attn_implementation="eager").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(golden)
    pictures = {k: picture(r, os.path.join(d, f"image_{k}.png")) for k in "ab"}
    prompts = {"img1": "a", "img2": "ab"}
    if name == "qwen3_omni":
        prompts.update(audio1="s", img_audio="bs")
        samples = sound(r, os.path.join(d, "audio_a.wav"))
    some = lambda least, most: [r.randrange(10, 300) for _ in range(r.randrange(least, most))]
    out = {}
    for prompt, kinds in prompts.items():
        ids, inputs, pixels, grids = some(1, 9), {}, [], []
        is_picture = [0] * len(ids)
        for kind in kinds:
            if kind == "s":
                n, more = audio_inputs(golden, m, samples)
                inputs.update(more)
                before, token, behind = 318, 317, 319
            else:
                v = processor(images=[pictures[kind]], return_tensors="pt")
                pixels.append(v["pixel_values"].float())
                if "image_grid_thw" in v: grids.append(v["image_grid_thw"])
                n = int(v["image_grid_thw"].prod()) // 4 if grids else 4 * v["pixel_values"].shape[0]
                before, token, behind = TOKENS[name]
            words = some(3, 30)
            ids += [before] + [token] * n + [behind] + words
            is_picture += [0] + [int(kind != "s")] * n + [0] * (1 + len(words))
        if pixels: inputs["pixel_values"] = torch.cat(pixels)
        if grids: inputs["image_grid_thw"] = torch.cat(grids)
        def logits(seq):
            types = torch.tensor([is_picture + [0] * (len(seq) - len(is_picture))])
            more = {"mm_token_type_ids": types} if name == "qwen2_5_vl" else {"token_type_ids": types} if name == "gemma3_mm" else \
                   {"attention_mask": torch.ones(1, len(seq), dtype=torch.long)} if name == "qwen3_omni" else {}
            return logits_of(m, seq, **inputs, **more)
        with torch.no_grad(): put_prompt(out, prompt, ids, logits, 12)
    save_file(out, os.path.join(d, "golden.safetensors"))
    write_json(d, "prompts.json", prompts)
