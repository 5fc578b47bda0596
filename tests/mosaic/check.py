#!/usr/bin/env python3
"""Every registered kernel, and the two examples, in both interpreters: ours in C (src/mosaic) and interp.py, which shares nothing with it
but the kernel's text. The same inputs; results are NaN in the same places and else equal within the case's tolerance (the order of sums
and exp differ). Needs the packages of requirements.txt; without them everything is skipped. Reference kernels that were written by hand
(../shared/reference/mosaic/*.mlir) stand beside ours where they are there.

    make build/bench/kernels && python3 tests/mosaic/check.py [--build build] [KERNEL ...]        VENV with jax: run it with that python
"""
import argparse, json, os, subprocess, sys, tempfile, time

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
SHARED = os.environ.get("SYSTOLIC_SHARED", os.path.join(ROOT, "..", "shared"))
EXAMPLES = {"gather": ("gather_min.mlir", "k"), "fd": ("fd_min.mlir", "fd")}


def read(path, dims, kind):
    import numpy as np
    from interp import TYPES
    if kind == "i4": return np.fromfile(path, np.int8).reshape(dims).astype(TYPES[kind])
    return np.fromfile(path, np.dtype(TYPES[kind])).reshape(dims)


def compare(got, want, tolerance):
    """Worst error over the tolerance; infinite if one is a number and the other is not."""
    import numpy as np
    a, b = got.astype(np.float64), want.astype(np.float64)
    if (np.isnan(a) != np.isnan(b)).any(): return float("inf")
    with np.errstate(invalid="ignore"): e = np.abs(a - b) / (tolerance * np.maximum(1, np.abs(b)))
    return float(np.nanmax(np.where(a == b, 0, e), initial=0)) if a.size else 0.0


def interpret(text, name, call, folder):
    """Runs the text on the inputs of the folder; the worst error against its results."""
    import interp
    n, n_out = len(call["operands"]), len(call["results"])
    operands = [[read(f"{folder}/operand{d * n + i}", o["dims"], o["type"]) for i, o in enumerate(call["operands"])] for d in range(call["devices"])]
    results = [[interp.poison(o["dims"], o["type"]) for o in call["results"]] for _ in range(call["devices"])]
    for d in range(call["devices"]):
        for i, o in enumerate(call["results"]):
            if o["alias"] >= 0:
                results[d][i][...] = operands[d][o["alias"]]
                operands[d][o["alias"]] = results[d][i]
    interp.run(text, name, operands, results)
    return max(compare(results[d][i], read(f"{folder}/result{d * n_out + i}", o["dims"], o["type"]), call["tolerance"])
               for d in range(call["devices"]) for i, o in enumerate(call["results"]))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("kernels", nargs="*")
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--json", help="file for the results, one object per line")
    a = p.parse_args()
    tool = os.path.join(a.build, "bench", "kernels")
    try:
        import interp  # noqa: F401
    except ImportError as e:
        print(f"  skipped: {e} (pip install -r tests/mosaic/requirements.txt)\ncheck_mosaic: 0 passed, 0 failed, 1 skipped")
        return 0
    cases = [(name, 0, "example") for name in ("gather", "fd", "ops", "ring")]
    for line in subprocess.run([tool, "list"], check=True, capture_output=True, text=True).stdout.splitlines():
        name, i, text = line.split(" ", 2)
        cases.append((name, int(i), text))
    failed = passed = skipped = 0
    rows = []
    for name, i, text in cases:
        if a.kernels and name not in a.kernels: continue
        with tempfile.TemporaryDirectory() as folder:
            ours = subprocess.run([tool, "run", name, str(i), folder], capture_output=True, text=True)
            if ours.returncode:
                print(f"FAIL {name} {i} ({text}): {ours.stderr.strip()}")
                failed += 1
                continue
            call = json.load(open(f"{folder}/call.json"))
            todo = [("", open(f"{folder}/kernel.mlir").read(), call["kernel"])]
            if name in EXAMPLES:
                path = os.path.join(SHARED, "reference", "mosaic", EXAMPLES[name][0])
                if os.path.exists(path): todo.append((" (by hand)", open(path).read(), EXAMPLES[name][1]))
                else: skipped += 1; print(f"  skipped: no {path}")
            for what, body, function in todo:
                t0 = time.time()
                try: worst = interpret(body, function, call, folder)
                except Exception as e: worst, text = float("inf"), f"{text}: {type(e).__name__}: {e}"
                rows.append({"kernel": name + what, "case": i, "description": text, "error": worst * call["tolerance"], "tolerance": call["tolerance"]})
                print(f"{'ok  ' if worst <= 1 else 'FAIL'} {name}{what} {i} ({text}): worst difference {worst * call['tolerance']:.2g} of {call['tolerance']:g} allowed, {time.time() - t0:.1f} s", flush=True)
                passed, failed = passed + (worst <= 1), failed + (not worst <= 1)
    if a.json:
        with open(a.json, "w") as f: f.writelines(json.dumps(r) + "\n" for r in rows)
    print(f"check_mosaic: {passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return failed != 0


sys.exit(main())
