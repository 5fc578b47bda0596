#!/usr/bin/env python3
"""Encoders of images and sounds at full size on the CPU, with made-up weights, beside the same towers in transformers on torch where there is a python that has it.

    encoders.py [--build build] [--torch PYTHON] [--rounds 3] [--threads 2] [--only NAME,...] [--json FILE]

Both in turn, tower by tower, in bfloat16; a first round is not counted. Seconds of one item: least, median, most. The projector that brings the tower's output to the language
model's width is ours alone (transformers has it elsewhere), and takes what the column says. --torch: by default the one that bench/peers set up."""
import argparse, json, os, statistics, subprocess, sys

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(HERE)

# name: preset, what our program is asked for, in words, what torch runs
TOWERS = {
    "qwen2.5-vl": ("Qwen2.5-VL-7B-Instruct", ["image", "32", "32"], "448 x 448 pixels, 1,024 patches", ("Qwen2_5_VisionTransformerPretrainedModel", "vision_config", "qwen", 32)),
    "qwen2.5-vl-large": ("Qwen2.5-VL-7B-Instruct", ["image", "64", "64"], "896 x 896 pixels, 4,096 patches", ("Qwen2_5_VisionTransformerPretrainedModel", "vision_config", "qwen", 64)),
    "gemma-3": ("gemma-3-27b-it", ["image", "1", "1"], "896 x 896 pixels, 4,096 patches", ("SiglipVisionModel", "vision_config", "square", 896)),
    "llama-4": ("Llama-Guard-4-12B", ["image", "1", "1"], "a tile of 336 x 336 pixels, 577 patches", ("Llama4VisionModel", "vision_config", "square", 336)),
    "qwen3-omni": ("Qwen3-Omni-30B-A3B-Instruct", ["image", "32", "32"], "512 x 512 pixels, 1,024 patches", ("Qwen3OmniMoeVisionEncoder", "thinker_config.vision_config", "qwen", 32)),
    "qwen3-omni-audio": ("Qwen3-Omni-30B-A3B-Instruct", ["audio", "3000"], "30 s of sound, 390 tokens", ("Qwen3OmniMoeAudioEncoder", "thinker_config.audio_config", "audio", 3000)),
}

# Runs under the other python: argv = threads, rounds, class, config as JSON, kind, size.
TORCH = r"""
import sys, json, time, importlib, inspect, warnings
warnings.filterwarnings("ignore")
import torch
threads, rounds, name, config, kind, size = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]), sys.argv[5], int(sys.argv[6])
torch.set_num_threads(threads)
modules = {"Qwen2_5_VisionTransformerPretrainedModel": "qwen2_5_vl.modeling_qwen2_5_vl", "SiglipVisionModel": "siglip.modeling_siglip", "Llama4VisionModel": "llama4.modeling_llama4",
           "Qwen3OmniMoeVisionEncoder": "qwen3_omni_moe.modeling_qwen3_omni_moe", "Qwen3OmniMoeAudioEncoder": "qwen3_omni_moe.modeling_qwen3_omni_moe"}
cls = getattr(importlib.import_module("transformers.models." + modules[name]), name)
cfg = cls.config_class(**config)
cfg._attn_implementation = "sdpa"
torch.set_default_dtype(torch.bfloat16)
with torch.device("meta"): model = cls(cfg)
torch.set_default_dtype(torch.float32)      # towers count in it
half = torch.bfloat16
model = model.to_empty(device="cpu").eval()
with torch.no_grad():
    for p in list(model.parameters()) + list(model.buffers()):
        if p.is_floating_point(): p.uniform_(-1e-3, 1e-3)
if kind == "qwen":
    cols = 3 * cfg.temporal_patch_size * cfg.patch_size ** 2
    args = (torch.rand(size * size, cols).to(half), torch.tensor([[1, size, size]]))
elif kind == "square": args = (torch.rand(1, 3, size, size).to(half),)
else: args = (torch.rand(cfg.num_mel_bins, size).to(half), torch.tensor([size]))
seconds = []
with torch.inference_mode():
    for i in range(rounds + 1):
        t = time.monotonic()
        model(*args)
        if i: seconds.append(time.monotonic() - t)
print(json.dumps({"seconds": seconds, "parameters": sum(p.numel() for p in model.parameters())}))
"""


def last_json(command, **kw):
    r = subprocess.run(command, capture_output=True, text=True, **kw)
    if r.returncode: return {"error": (r.stderr.strip().splitlines() or ["?"])[-1][:200]}
    return json.loads(r.stdout.strip().splitlines()[-1])


def torch_config(preset, path):
    with open(os.path.join(ROOT, "src", "model", "presets", preset + ".json")) as f: c = json.load(f)
    for k in path.split("."): c = c[k]
    return c


def show(seconds):
    return f"{min(seconds):.2f} / {statistics.median(seconds):.2f} / {max(seconds):.2f}"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", default=os.path.join(ROOT, "build"))
    ap.add_argument("--torch", default=os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "systolic", "peers", "torch", "bin", "python"))
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--only")
    ap.add_argument("--json")
    a = ap.parse_args()
    names = a.only.split(",") if a.only else list(TOWERS)
    all_rows = []
    print("| tower | item | systolic s | of it projector s | torch s | torch / systolic |\n|---|---|---|---|---|---|")
    for name in names:
        preset, args, words, (cls, path, kind, size) = TOWERS[name]
        ours = last_json([os.path.join(a.build, "bench", "encoders"), preset, *args, "--threads", str(a.threads), "--rounds", str(a.rounds)])
        theirs = {"error": "no torch"}
        if os.path.exists(a.torch):
            theirs = last_json([a.torch, "-c", TORCH, str(a.threads), str(a.rounds), cls, json.dumps(torch_config(preset, path)), kind, str(size)])
        if "error" in ours: sys.exit(f"{name}: {ours['error']}")
        projector = ours["stages"][1]["seconds"] if name in ("gemma-3", "llama-4") else 0
        torch_text = theirs["error"] if "error" in theirs else show(theirs["seconds"])
        ratio = "-" if "error" in theirs else f"{statistics.median(theirs['seconds']) / statistics.median(ours['seconds']):.2f}"
        print(f"| {preset}{' audio' if kind == 'audio' else ''} | {words} | {show(ours['seconds'])} | {projector:.2f} | {torch_text} | {ratio} |", flush=True)
        all_rows.append({"tower": name, "ours": ours, "torch": theirs})
    if a.json:
        with open(a.json, "w") as f: json.dump(all_rows, f, indent=1)


main()
