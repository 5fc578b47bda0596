#!/usr/bin/env python3
"""OpenVINO models of one shape: its own GGUF reader makes the 16-bit one, NNCF the compressed ones. Runs in the OpenVINO environment.

    openvino_export.py 16 GGUF_FILE OUT_DIR            (float16, as the reader takes no BF16)
    openvino_export.py int8|int4 DIR_OF_16 OUT_DIR

int8 is per channel, asymmetric; int4 symmetric in groups of 64 with an int8 head and embedding: what `optimum-cli export openvino
--weight-format` gives, without torch."""
import os, shutil, sys

import openvino as ov

FILES = ("openvino_tokenizer.xml", "openvino_tokenizer.bin", "openvino_detokenizer.xml", "openvino_detokenizer.bin", "config.json", "generation_config.json")


def from_gguf(gguf, out):
    import openvino_genai
    openvino_genai.LLMPipeline(gguf, "CPU", enable_save_ov_model=True)
    where = os.path.dirname(gguf)
    for f in ("openvino_model.xml", "openvino_model.bin", *FILES):
        if os.path.exists(os.path.join(where, f)):
            shutil.move(os.path.join(where, f), os.path.join(out, f))


def compress(kind, src, out):
    import nncf
    model = ov.Core().read_model(os.path.join(src, "openvino_model.xml"))
    if kind == "int8":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    else:
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=64, ratio=1.0)
    ov.save_model(model, os.path.join(out, "openvino_model.xml"), compress_to_fp16=False)
    for f in FILES:
        if os.path.exists(os.path.join(src, f)):
            shutil.copy(os.path.join(src, f), os.path.join(out, f))


def main():
    kind, src, out = sys.argv[1:4]
    part = out + ".part"
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(part)
    if kind == "16":
        from_gguf(os.path.realpath(src), part)
    else:
        compress(kind, src, part)
    shutil.rmtree(out, ignore_errors=True)
    os.rename(part, out)


if __name__ == "__main__":
    main()
