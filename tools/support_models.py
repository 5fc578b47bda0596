#!/usr/bin/env python3
"""Writes docs/support.md: which architectures work from which checkpoint formats on which devices, as the golden tests found it.

    rm -f golden.tsv; export SYSTOLIC_GOLDEN_RESULTS=$PWD/golden.tsv
    make check                                      # or the tests that have changed: test_golden, test_stored, test_pjrt.py
    SYSTOLIC_TEST_ALL=1 tests/api/test_pjrt.py      # all directories on XLA:CPU
    tools/support_models.py golden.tsv

What the tests found before is in docs/support.tsv, to which the new lines are added, the newest of a golden and a way counting.
Without files the page is written from that alone; --check fails if it lacks a golden or is not what the lines say, and writes nothing.
A line is five fields between tabs (a sixth, where there is one, is said in the cell):
    golden   way          result     error    tolerance
    gpt_oss  cpu          pass|fail  3.1e-05  0.001
    gpt_oss  xla:cpu x2
way: the device, and of how many the mesh was. error: on the CPU the largest difference of a logit, through HTTP of a
logprob, unless the sixth field says otherwise.
What is compiled for TPUs is read from docs/compile.md (bench/compile_table.py --presets)."""
import argparse, json, os, re, sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
GOLDENS = os.path.join(os.environ.get("SYSTOLIC_SHARED", os.path.join(ROOT, "..", "shared")), "goldens")
WAYS = ["cpu", "xla:cpu", "xla:cpu x2", "xla:cpu x4"]
HEADS = ["CPU", "XLA:CPU", "2 devices", "4 devices"]
CHIPS = ["v5e", "v6e", "v7x"]

# Published models whose programs are compiled (bench/compile_table.py --presets), as they are shipped.
PUBLISHED = {
    "Llama-3.1-8B-Instruct": ("LlamaForCausalLM", "bfloat16"), "Llama-3.3-70B-Instruct": ("LlamaForCausalLM", "bfloat16"),
    "Llama-4-Maverick-17B-128E-Instruct": ("Llama4ForConditionalGeneration", "bfloat16"), "Llama-4-Scout-17B-16E-Instruct": ("Llama4ForConditionalGeneration", "bfloat16"),
    "Llama-Guard-4-12B": ("Llama4ForConditionalGeneration", "bfloat16"), "Qwen3-4B": ("Qwen3ForCausalLM", "bfloat16"), "Qwen3-32B": ("Qwen3ForCausalLM", "bfloat16"),
    "Qwen3-30B-A3B": ("Qwen3MoeForCausalLM", "bfloat16"), "Qwen3-Coder-480B-A35B-Instruct": ("Qwen3MoeForCausalLM", "bfloat16"),
    "Qwen2.5-VL-7B-Instruct": ("Qwen2_5_VLForConditionalGeneration", "bfloat16"), "Qwen3-Omni-30B-A3B-Instruct": ("Qwen3OmniMoeForConditionalGeneration", "bfloat16"),
    "gemma-3-27b-it": ("Gemma3ForConditionalGeneration", "bfloat16"), "gpt-oss-20b": ("GptOssForCausalLM", "MXFP4"), "gpt-oss-120b": ("GptOssForCausalLM", "MXFP4"),
    "DeepSeek-V3.1": ("DeepseekV3ForCausalLM", "FP8, blocks of 128 x 128"), "DeepSeek-R1": ("DeepseekV3ForCausalLM", "FP8, blocks of 128 x 128"),
    "Kimi-K2-Thinking": ("DeepseekV3ForCausalLM", "compressed-tensors W4A16"), "Kimi-K2": ("DeepseekV3ForCausalLM", "compressed-tensors W4A16"),
}


def compressed(q):
    """compressed-tensors' formats by the bits of weights and activations, as its recipes are called."""
    g = next(iter(q["config_groups"].values()))
    w, a, fmt = g["weights"], g.get("input_activations"), q["format"]
    if fmt.startswith("nvfp4"): return "compressed-tensors NVFP4" + ("A16" if not a else "")
    if fmt.startswith("mxfp4"): return "compressed-tensors MXFP4" + ("A16" if not a else "")
    if w["type"] == "int" and w["num_bits"] == 8: return "compressed-tensors INT8"
    name = f"W{w['num_bits']}A{a['num_bits'] if a else 16}"
    return "compressed-tensors " + ("FP8 " if w["type"] == "float" else "") + name + (" static" if a and not a["dynamic"] else "")


def format_of(config):
    q = config.get("quantization_config") or {}
    method = q.get("quant_method")
    if not method: return "bfloat16" if config.get("torch_dtype", config.get("dtype")) == "bfloat16" else "float32"
    if method == "compressed-tensors": return compressed(q)
    if method == "fp8": return "FP8, blocks of %d x %d" % tuple(q["weight_block_size"]) if q.get("weight_block_size") else "FP8"
    return {"awq": "AWQ", "gptq": "GPTQ", "mxfp4": "MXFP4"}.get(method, method)


def goldens():
    """{directory: (architecture, format) or None if it holds no model by itself}"""
    out = {}
    for name in sorted(os.listdir(GOLDENS)):
        d = os.path.join(GOLDENS, name)
        if not os.path.exists(os.path.join(d, "golden.safetensors")) and not os.path.exists(os.path.join(d, "golden.json")): continue
        out[name] = None
        if os.path.exists(os.path.join(d, "config.json")):
            with open(os.path.join(d, "config.json"), encoding="utf-8") as f: c = json.load(f)
            if "Eagle" not in c["architectures"][0]: out[name] = (c["architectures"][0], format_of(c))
    return out


def read(paths):
    """{(golden, way): fields}; later lines count."""
    out = {}
    for path in paths:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                v = line.rstrip("\n").split("\t")
                if len(v) not in (5, 6) or v[1] not in WAYS or v[2] not in ("pass", "fail"):
                    sys.exit(f"{path}:{number}: expected golden, way ({', '.join(WAYS)}), pass or fail, error, tolerance")
                out[v[0], v[1]] = v
    return out


def cell(lines, names, way):
    """The worst of all that ran, and how many of them where these are not all."""
    have = [lines[n, way] for n in names if (n, way) in lines]
    if not have: return "-"
    failed = [v[0] for v in have if v[2] == "fail"]
    if failed: return "**fails**: " + ", ".join(failed)
    worst = max(have, key=lambda v: float(v[3]) / float(v[4]))
    said = "; ".join(sorted({v[5] for v in have if len(v) == 6}))
    return f"{float(worst[3]):.0e} of {float(worst[4]):.0e}" + (f" ({len(have)} of {len(names)})" if len(have) < len(names) else "") + (f", {said}" if said else "")


def compiled():
    """{published model: {chip: cell}} out of docs/compile.md: where it was compiled and which programs, or why not."""
    out = {}
    with open(os.path.join(ROOT, "docs", "compile.md"), encoding="utf-8") as f: doc = f.read()
    found = re.search(r"<!-- compile_table.py --presets: begin -->\n(.*?)<!-- compile_table.py --presets: end -->", doc, re.S)
    for line in found.group(1).splitlines()[2:] if found else []:
        model, target, devices, _, program = [x.strip() for x in line.strip("|").split("|")][:5]
        chips, chip = out.setdefault(model, {}), target.split(":")[0]
        kind = "encoders" if " encoder " in program else program.split(" ")[0]
        bad = next((x for x in ("does not fit", "failed", "cannot be planned") if x in program), None)
        where, kinds = chips.setdefault(chip, [f"{target}, {devices.split(' ')[0]} of them", set()])
        if bad: chips[chip] = [None, bad]
        elif where: kinds.add(kind)
    for chips in out.values():
        for chip, (where, what) in chips.items():
            chips[chip] = f"yes: {where}; " + ", ".join(k for k in ("decode", "step", "encoders") if k in what) if where else "no: " + what
    return out


def page(lines, dirs):
    rows = {}
    for name, what in dirs.items():
        if what: rows.setdefault(what, []).append(name)
    out = [HEAD, "| architecture | checkpoint | " + " | ".join(HEADS) + " | goldens |", "|---" * (len(HEADS) + 3) + "|"]
    for arch, fmt in sorted(rows):
        names = rows[arch, fmt]
        out.append(f"| `{arch}` | {fmt} | " + " | ".join(cell(lines, names, w) for w in WAYS) + " | " + ", ".join(names) + " |")
    rest = [n for n, what in dirs.items() if not what]
    out += ["", "Not models by themselves, and not served yet: " + ", ".join(rest) + "." if rest else "", "", COMPILED,
            "| model | architecture | checkpoint | " + " | ".join(CHIPS) + " | run on one |", "|---" * (len(CHIPS) + 4) + "|"]
    table = compiled()
    for model in table:
        arch, fmt = PUBLISHED.get(model, ("?", "?"))
        out.append(f"| {model} | `{arch}` | {fmt} | " + " | ".join(table[model].get(c, "-") for c in CHIPS) + " | no |")
    return "\n".join(out) + "\n"


HEAD = """# What works
Architectures and checkpoint formats, each by tiny random checkpoints of it whose logits transformers computed in float32. A cell has the largest difference that a test found and the tolerance that comes with the golden, of the checkpoint that came closest to its own; `-` was not tested. Written by `tools/support_models.py`, which says how to repeat it; operations are in [lowering.md](lowering.md), families in [models.md](models.md), formats in [quantization.md](quantization.md).

- **CPU**: logits of a short and a long prompt, in one piece, in chunks and token by token, and 24 greedy tokens, on the CPU device (`tests/unit/cli`).
- **XLA:CPU**: through StableHLO and PJRT, over HTTP: logprobs of all tokens at all positions of the prompts, and greedy tokens, alone and in company (`tests/api/test_pjrt.py`). **2 devices**, **4 devices**: the same cut by tensor or expert parallelism.
- **Quantised**: also `tests/api/test_stored.py`. Where a format rounds activations, the reference's greedy tokens are of the weights alone, and so is what is compared with them ("activations not rounded": equal on both devices). With rounding ("rms") the short prompt's logits are the reference's to 1e-6 and so are nearly all probes, but one activation that another order of sums puts on the other side of a rounding boundary moves all that follow (by up to 1.2 in these goldens, `sensitivity_actq_1e-6`): of the long prompt the root mean square is compared, and greedy tokens part where the two best are closer than that, between CPU and XLA:CPU too (`llama_ct_fp8_w8a8`: at the eleventh token after the long prompt). Scales of a row's activations are each rank's own on several devices, as in vLLM. Goldens whose MLPs do not come in whole groups per rank are refused there and not in these cells.
"""
COMPILED = """## Compiled for TPUs
The models' own sizes, compiled by libtpu for the smallest topology that holds them ([compile.md](compile.md) has times and temporaries). No TPU was at hand: nothing has been run on one, so nothing is measured there. What was measured on CPUs is in [performance.md](performance.md).
"""


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("lines", nargs="*", help="files of lines")
    p.add_argument("--check", action="store_true", help="write nothing; fail if docs/support.md lacks a golden or would differ")
    args = p.parse_args()
    doc, data = os.path.join(ROOT, "docs", "support.md"), os.path.join(ROOT, "docs", "support.tsv")
    if not os.path.isdir(GOLDENS): sys.exit(f"{GOLDENS} is not here")
    dirs = goldens()
    lines = {k: v for k, v in read([f for f in [data] if os.path.exists(f)] + args.lines).items() if dirs.get(k[0])}
    text = page(lines, dirs)
    if args.check:
        with open(doc, encoding="utf-8") as f: old = f.read()
        lacks = [n for n in dirs if not re.search(rf"[ ,]{n}[ ,.]", old)]
        if lacks: sys.exit(f"docs/support.md lacks {', '.join(lacks)}: run tools/support_models.py")
        sys.exit(None if old == text else "docs/support.md is not what docs/support.tsv and docs/compile.md say: run tools/support_models.py")
    with open(data, "w", encoding="utf-8") as f: f.writelines("\t".join(lines[k]) + "\n" for k in sorted(lines))
    with open(doc, "w", encoding="utf-8") as f: f.write(text)


if __name__ == "__main__":
    main()
