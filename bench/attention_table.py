#!/usr/bin/env python3
"""Writes the configuration tables: all of it to docs/attention_table.md, heads of 128 to docs/attention.md (between its markers).

  make build/bench/attention_table && python3 bench/attention_table.py [--build build] [--check]

--check writes nothing and fails if the files say something else, or if auto is anywhere worse than the table by the model."""
import argparse, os, subprocess, sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PAGE, FULL = os.path.join(ROOT, "docs", "attention.md"), os.path.join(ROOT, "docs", "attention_table.md")
BEGIN, END = "<!-- attention_table.py: begin -->\n", "<!-- attention_table.py: end -->\n"
HEAD = "| table: head, page, pages x buffers | MB | us | auto: head, page, pages x buffers | MB | us | table / auto |\n"
INTRO = """# Attention by both policies, on every chip
Made by `python3 bench/attention_table.py`; docs/attention.md explains it. One layer of a decode step, 64 sequences of the context, 32 query heads and 8 KV heads, by the cost model; figures of one device (of v3, v4 and v7x a core, of "v4 megacore" the chip). `head` is the size in the cache; `MB` and `us` are what is read and written and the time. That `int8` and `fp8` are slower than half of `bf16` somewhere is the matrix and vector units' work, which does not shrink.

"""

def rows(build):
    out = subprocess.run([os.path.join(build, "bench", "attention_table")], stdout=subprocess.PIPE, text=True, check=True).stdout
    pairs = {}
    for line in out.splitlines():
        f = line.split("\t")
        pairs.setdefault(tuple(f[:4]), {})[f[4]] = f[5:]
    return pairs

def cells(v):
    if v[0] != "ok": return ["refused: no blocks fit VMEM", "-", "-"]
    _, head, page, pages, _, _, _, stages, _, _, nbytes, us, _ = v
    return [f"{head}, {page}, {pages} x {stages}", f"{float(nbytes) / 1e6:,.0f}", f"{float(us):,.0f}"]

def line(lead, p):
    t, a = p["table"], p["auto"]
    ratio = f"{float(t[11]) / float(a[11]):.2f}" if t[0] == a[0] == "ok" else "-"
    return "| " + " | ".join(lead + cells(t) + cells(a) + [ratio]) + " |\n"

def table(pairs, lead, keep):
    text = "| " + " | ".join(lead) + " " + HEAD + "|" + "---|" * (len(lead) + 7) + "\n"
    names = {"f8e4m3": "fp8", "i8": "int8"}
    for (chip, head, context, kv), p in pairs.items():
        all_ = {"chip": chip, "head size": head, "context": f"{int(context):,}", "KV": names.get(kv, kv)}
        if keep(all_): text += line([all_[k] for k in lead], p)
    return text

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--build", default=os.path.join(ROOT, "build"))
    a.add_argument("--check", action="store_true")
    args = a.parse_args()
    pairs = rows(args.build)
    for key, p in pairs.items():
        if p["table"][0] == "ok" and not float(p["auto"][11]) <= float(p["table"][11]): sys.exit(f"{key}: auto takes longer than the table")
    full = INTRO
    for chip in dict.fromkeys(k[0] for k in pairs):
        full += f"## {chip}\n" + table(pairs, ["head size", "context", "KV"], lambda r: r["chip"] == chip) + "\n"
    page = open(PAGE, encoding="utf-8").read()
    short = table(pairs, ["chip", "context", "KV"], lambda r: r["head size"] == "128" and r["KV"] != "int8" and r["context"] in ("2,048", "8,192", "131,072"))
    page = page[:page.index(BEGIN) + len(BEGIN)] + short + page[page.index(END):]
    for path, text in ((PAGE, page), (FULL, full)):
        if args.check:
            if open(path, encoding="utf-8").read() != text: sys.exit(f"{path} is not what the policies say now: run bench/attention_table.py")
        else:
            open(path, "w", encoding="utf-8").write(text)

main()
