"""From single values to the report: min, median, max, shares of the machine's limits, ratios of Systolic to each peer."""
import os, platform, statistics, time

MIB = 1 << 20


def parameters(c):
    """Of a config.json: (parameters that a decode step of one sequence reads, those that each prompt token multiplies with, all). The head is read
    by a step and once by a prompt; a tied embedding is counted once."""
    d, layers, vocab = c["hidden_size"], c["num_hidden_layers"], c["vocab_size"]
    h = c.get("head_dim") or d // c["num_attention_heads"]
    attn = d * h * (2 * c["num_attention_heads"] + 2 * c["num_key_value_heads"])
    if c.get("num_experts"):
        one = 3 * d * c["moe_intermediate_size"]
        mlp, mlp_all = one * c["num_experts_per_tok"], one * c["num_experts"]
    else:
        mlp = mlp_all = 3 * d * c["intermediate_size"]
    head = vocab * d
    return layers * (attn + mlp) + head, layers * (attn + mlp), layers * (attn + mlp_all) + head * (1 if c.get("tie_word_embeddings") else 2)


def spread(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "values": values}


def merge_limits(rounds):
    """Several measurements of the limits: lowest, median of medians, highest."""
    out = []
    for key in rounds[0] if rounds else ():
        of = [r[key] for r in rounds if key in r]
        out.append({"limit": key[0], "threads": key[1], "unit": of[0]["unit"], "min": min(x["min"] for x in of), "median": statistics.median(x["median"] for x in of), "max": max(x["max"] for x in of)})
    return out


def peaks(limits):
    """(read GB/s, Gop/s of the best instruction that accumulates in float32, of the best int8 one), None where there is none."""
    threads = max((x["threads"] for x in limits), default=0)
    best = lambda *names: max((x["median"] for x in limits if x["threads"] == threads and x["limit"].startswith(names)), default=None)
    return best("streaming read"), best("f32 FMA", "bf16", "amx bf16", "AMX bf16"), best("int8", "amx int8", "AMX int8")


def share(part, whole):
    return 100 * part / whole if part is not None and whole else None


def collect(ctx, run, todo, seconds):
    limits = merge_limits(run.limits)
    read, f32, int8 = peaks(limits)
    rows = []
    for e in todo:
        values = run.values.get((e.shape, e.label))
        if not values:
            continue
        figures = {k: spread(v) for k, v in values.items()}
        row = {"shape": e.shape, "engine": e.name, "scheme": e.scheme, "bits": e.bits, "weight_bytes": e.weight_bytes(), "figures": figures}
        if "decode_1" in figures and row["weight_bytes"]:
            row["decode_1_gb_s"] = figures["decode_1"]["median"] * row["weight_bytes"] / 1e9
            row["decode_1_percent_of_read"] = share(row["decode_1_gb_s"], read)
        if "prefill_512" in figures:
            row["prefill_gop_s"] = figures["prefill_512"]["median"] * 2 * ctx.parameters(e.shape)[1] / 1e9
            row["prefill_percent_of_peak"] = share(row["prefill_gop_s"], f32 if e.bits == "16" else int8)
        rows.append(row)
    return {"date": time.strftime("%Y-%m-%d %H:%M:%S"), "cpu": cpu_name(), "threads": ctx.threads, "load_average": list(os.getloadavg()), "minutes": seconds / 60, "limits": limits,
            "rows": rows, "ratios": ratios(rows), "skipped": ctx.skipped, "out_of_time": sorted({", ".join(map(str, k)) for k in run.late if k[0] != "failed"})}


LESS_IS_BETTER = ("start_s", "rss_bytes", "ttft", "itl", "server_rss")


def ratios(rows):
    """For each of Systolic's rows and each figure: the ratio to every peer of the same shape and bits, so that above 1 Systolic is better."""
    out = []
    for s in (r for r in rows if r["engine"] == "Systolic"):
        for p in (r for r in rows if r["engine"] != "Systolic" and (r["shape"], r["bits"]) == (s["shape"], s["bits"])):
            of = {}
            for k in s["figures"]:
                if k in p["figures"]:
                    a, b = s["figures"][k]["median"], p["figures"][k]["median"]
                    name = k.split(":")[-1]
                    if a > 0 and b > 0:
                        of[k] = b / a if name.startswith(LESS_IS_BETTER) else a / b
            out.append({"shape": s["shape"], "scheme": s["scheme"], "peer": f"{p['engine']} {p['scheme']}", "bits": s["bits"], "times": of})
    return out


def cpu_name():
    try:
        return next(line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# ---- the table ----

def number(v):
    return f"{v:.0f}" if v >= 100 else f"{v:.1f}" if v >= 10 else f"{v:.2f}"


def cell(figures, key, scale=1.0):
    s = figures.get(key)
    return " / ".join(number(s[k] * scale) for k in ("min", "median", "max")) if s else "-"


def table(head, rows):
    widths = [max(len(str(r[i])) for r in [head, *rows]) for i in range(len(head))]
    for r in [head, ["-" * w for w in widths], *rows]:
        print("  ".join(str(x).ljust(w) if i == 0 else str(x).rjust(w) for i, (x, w) in enumerate(zip(r, widths))).rstrip())


def percent(v):
    return "-" if v is None else f"{v:.0f}%"


def show_shape(result, shape):
    rows = [r for r in result["rows"] if r["shape"] == shape]
    print(f"\n{shape}, tokens/s, min / median / max")
    batches = sorted({int(k[7:]) for r in rows for k in r["figures"] if k.startswith("decode_")})
    head = ["engine", "n", "prefill 512", "of peak", *[f"decode x{b}" for b in batches], "x1 of read", "start s", "peak MiB"]
    body = []
    for r in rows:
        f = r["figures"]
        body.append([f"{r['engine']} {r['scheme']}", max(len(x["values"]) for x in f.values()), cell(f, "prefill_512"), percent(r.get("prefill_percent_of_peak")), *[cell(f, f"decode_{b}") for b in batches],
                     percent(r.get("decode_1_percent_of_read")), cell(f, "start_s"), cell(f, "rss_bytes", 1 / MIB)])
    table(head, body)


def show_servers(result):
    loads = sorted({k.split(":")[0] for r in result["rows"] for k in r["figures"] if ":" in k})
    for load in loads:
        print(f"\nserver, load {load}, min / median / max")
        keys = [("output_tok_s", "output tok/s"), ("ttft_p50_ms", "TTFT p50 ms"), ("ttft_p99_ms", "p99"), ("itl_p50_ms", "ITL p50 ms"), ("itl_p99_ms", "p99")]
        table(["engine", *[t for _, t in keys], "peak MiB"], [[f"{r['shape']} {r['engine']} {r['scheme']}", *[cell(r["figures"], f"{load}:{k}") for k, _ in keys], cell(r["figures"], f"{load}:server_rss_bytes", 1 / MIB)]
              for r in result["rows"] if f"{load}:output_tok_s" in r["figures"]])


def show_ratios(result):
    if not result["ratios"]:
        return
    keys = sorted({k for r in result["ratios"] for k in r["times"]}, key=lambda k: (":" in k, k))
    print("\nSystolic to each peer at the same bits, medians; above 1 Systolic is better (times and memory are turned round)")
    table(["", *keys], [[f"{r['shape']} {r['scheme']} : {r['peer']}", *[f"{r['times'][k]:.2f}" if k in r["times"] else "-" for k in keys]] for r in result["ratios"]])


def show(result):
    print(f"{result['cpu']}, {result['threads']} threads, {result['minutes']:.1f} minutes, load average {result['load_average'][0]:.1f}")
    table(["limit", "threads", "min", "median", "max", ""], [[x["limit"], x["threads"], *[number(x[k]) for k in ("min", "median", "max")], x["unit"]] for x in result["limits"]])
    for shape in dict.fromkeys(r["shape"] for r in result["rows"]):
        show_shape(result, shape)
    show_servers(result)
    show_ratios(result)
    for what, why in result["skipped"].items():
        print(f"SKIPPED {what}: {why}")
    if result["out_of_time"]:
        print("fewer rounds for lack of time (--minutes): " + "; ".join(result["out_of_time"]))
