#!/usr/bin/env python3
"""Puts the table of what works into docs/lowering.md, between <!-- support:begin --> and <!-- support:end -->.

    rm -f support.tsv
    SYSTOLIC_SUPPORT_MATRIX=support.tsv build/tests/unit/ops/test_ops
    SYSTOLIC_SUPPORT_MATRIX=support.tsv build/tests/unit/device/test_lower_ops
    tools/support_matrix.py support.tsv [--doc docs/lowering.md | --print]

A line is seven fields between tabs, one line per case that was run:
    operation  path     stored                 activations   result     error      tolerance
    linear     cpu|hlo  f32|bf16|f16|-         f32|bf16|f16  pass|fail  1.2e-07    1e-05
stored: the type of the weights, or of attention's cache; - for operations that have neither. error: the largest difference
from the reference of all values, relative to the largest value. A cell of the table shows the worst of its lines.
"""
import argparse
import sys

BEGIN, END = "<!-- support:begin -->", "<!-- support:end -->"
COLUMNS = [("cpu", "f32"), ("hlo", "f32"), ("hlo", "bf16"), ("hlo", "f16")]
HEADS = ["cpu", "hlo f32", "hlo bf16", "hlo f16"]
TYPES = ["f32", "bf16", "f16", "-"]


def read(paths):
    """{operation: {(path, activations): {stored: (passed, error, lines)}}}, in order of appearance."""
    table = {}
    for path in paths:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                fields = line.rstrip("\n").split("\t")
                if len(fields) != 7 or fields[4] not in ("pass", "fail"):
                    sys.exit(f"{path}:{number}: expected operation, path, stored, activations, pass or fail, error, tolerance")
                op, way, stored, act, result, error, _ = fields
                cell = table.setdefault(op, {}).setdefault((way, act), {})
                passed, worst, lines = cell.get(stored, (True, 0.0, 0))
                cell[stored] = (passed and result == "pass", max(worst, float(error)), lines + 1)
    return table


def show(cell):
    if not cell:
        return "-"
    stored = [t for t in TYPES if t in cell]
    failed = [t for t in stored if not cell[t][0]]
    if failed:
        return "**fails**" + ("" if failed == ["-"] else " with " + ", ".join(failed))
    worst = max(cell[t][1] for t in stored)
    return ("yes" if stored == ["-"] else ", ".join(t for t in stored if t != "-")) + (f" ({worst:.1e})" if worst else " (exact)")


def markdown(table):
    rows = ["| operation | " + " | ".join(HEADS) + " |", "|---" * (len(HEADS) + 1) + "|"]
    for op in table:
        rows.append(f"| {op} | " + " | ".join(show(table[op].get(c)) for c in COLUMNS) + " |")
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lines", nargs="+", help="files of lines")
    parser.add_argument("--doc", default="docs/lowering.md")
    parser.add_argument("--print", action="store_true", dest="to_stdout", help="print the table, change nothing")
    args = parser.parse_args()
    text = markdown(read(args.lines))
    if args.to_stdout:
        print(text)
        return
    with open(args.doc, encoding="utf-8") as f:
        doc = f.read()
    begin, end = doc.find(BEGIN), doc.find(END)
    if begin < 0 or end < begin:
        sys.exit(f"{args.doc}: expected {BEGIN} and, after it, {END}")
    with open(args.doc, "w", encoding="utf-8") as f:
        f.write(doc[:begin + len(BEGIN)] + "\n" + text + "\n" + doc[end:])


if __name__ == "__main__":
    main()
