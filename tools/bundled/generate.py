#!/usr/bin/env python3
"""Generate the training text of systolic-tiny: pure Python, our own sentences, one seed, nothing downloaded.

    python3 tools/bundled/generate.py --out /tmp/bundled --mb 40

Writes OUT/train.jsonl and OUT/heldout.jsonl (one document per line) and OUT/counts.json. A document is
{"text": "..."} (plain text for /v1/completions) or {"messages": [{"role", "content"}...]} (a chat). The
held-out documents come from another seed, and a document that also occurs in the training set is dropped.
"""

import argparse
import collections
import hashlib
import json
import os
import random

import stories as S
import topics as T
import words as W
from concepts import CONCEPTS
from text import an, cap, ex, join, pick

SYSTEM = ["You are a helpful assistant.", "You are a helpful assistant.", "You are a friendly assistant.", "You are a helpful, honest assistant.", "Answer in short sentences.", "Be brief.", "You are a kind and patient helper.",
          "You are a helpful AI assistant. Answer the user's questions.", "You are Systolic's bundled demo model.", "Be polite and concise.", "You are an assistant.", "Answer the question of the user.", "You are a chatbot.", "Help the user."]
PERSONA = ["Your name is [bot].", "You are [bot], a helpful assistant.", "You are [bot].", "You are an assistant named [bot].", "You are a friendly bot called [bot].", "Your name is [bot]. Be kind.", "You are [bot], a small language model."]

FUNCS = [f for f, _ in T.TOPICS]
WEIGHTS = [w for _, w in T.TOPICS]


def chat(rng):
    ctx = {"bot": "systolic-tiny", "name": None, "facts": {}}
    messages, kinds = [], []
    r = rng.random()
    if r < 0.04:                                           # a long system prompt
        lines = [rng.choice(SYSTEM)] + [ex(rng, rng.choice(rng.choice(CONCEPTS)[1])) for _ in range(rng.randint(2, 8))]
        messages.append(("system", " ".join(lines)))
    elif r < 0.35:
        messages.append(("system", rng.choice(SYSTEM)))
    elif r < 0.47:
        ctx["bot"] = rng.choice(W.BOT_NAMES) if rng.random() < 0.6 else cap(T.made_up(rng)) if rng.random() < 0.5 else rng.choice(W.NAMES)
        messages.append(("system", pick(rng, PERSONA, bot=ctx["bot"])))
    n = rng.choices((1, 2, 3, 5, 9), (55, 20, 14, 8, 3))[0]
    picks = rng.choices(FUNCS, WEIGHTS, k=n)
    if r >= 0.35 and r < 0.47 and rng.random() < 0.5:
        picks[0] = T.about_self
    if n >= 2 and rng.random() < 0.35:                     # remember a name across other turns
        picks[0] = T.tell_name
        picks[rng.randrange(1, n)] = T.ask_name
    elif n >= 2 and rng.random() < 0.2:                    # or another fact
        picks[0] = T.user_fact
        picks[rng.randrange(1, n)] = T.ask_fact
    for f in picks:
        for u, a in f(rng, ctx):
            messages += [("user", u), ("assistant", a)]
        kinds.append(f.__name__)
    return {"messages": [{"role": r, "content": c} for r, c in messages]}, kinds


def plain(rng):
    """A document without chat markers."""
    r = rng.random()
    if r < 0.07:
        name, a, b = rng.choice(W.NAMES), *rng.sample(list(W.ANIMALS), 2)
        return {"text": pick(rng, ["Hello, my name is [n]. I live in [c] and I like [p].", "Hello, my name is [n] and I am from [c]. My favourite animal is the [a].", "My name is [n]. I am [k] years old and I live in [c]. I have {a dog|a cat} called [pet].",
                                   "Hello, my name is [n] and I am [k] years old. I like the colour [col]."], n=name, c=rng.choice([x[0] for x in W.CAPITALS.values()]), p=T.plural(a), a=b, k=rng.randint(5, 80), pet=rng.choice(W.PET_NAMES), col=rng.choice(W.COLOURS))}, ["plain_hello"]
    if r < 0.10:
        return {"text": pick(rng, W.OPENERS)}, ["plain_opener"]
    if r < 0.18:
        ctx = {"bot": "systolic-tiny", "name": None, "facts": {}}
        q, a = rng.choice(["Q: [q]\nA: [a]", "Question: [q]\nAnswer: [a]", "User: [q]\nAssistant: [a]"]), []
        for f in rng.choices([T.concept, T.animal, T.capital, T.arithmetic, T.colour, T.calendar, T.nature, T.opposite, T.about_self, T.refuse, T.food], k=rng.randint(1, 3)):
            u, ans = f(rng, ctx)[0]
            a.append(q.replace("[q]", u).replace("[a]", ans))
        return {"text": "\n\n".join(a)}, ["plain_qa"]
    if r < 0.5:
        s = S.story(rng, short=rng.random() < 0.2)
        if rng.random() < 0.15:
            s = pick(rng, ["The story of the {day|friend}", "A {little|short} story", "A bedtime story"]) + "\n\n" + s
        return {"text": s}, ["plain_story"]
    if r < 0.62:
        return {"text": S.poem(rng)}, ["plain_poem"]
    if r < 0.72:
        names, what, why = rng.choice(CONCEPTS)
        return {"text": pick(rng, what) + " " + pick(rng, why)}, ["plain_concept"]
    if r < 0.82:
        return {"text": T.animal_text(rng, rng.choice(list(W.ANIMALS)))}, ["plain_animal"]
    if r < 0.9:
        lines = []
        for c in rng.sample(list(W.CAPITALS), rng.randint(1, 4)):
            city, cont = W.CAPITALS[c]
            lines.append(rng.choice([f"The capital of {c} is {city}.", f"{city} is the capital of {c}.", f"{cap(c)} is in {cont}."]))
        return {"text": " ".join(lines)}, ["plain_capital"]
    if r < 0.95:
        lines = []
        for _ in range(rng.randint(1, 6)):
            a, b = rng.randint(0, 20), rng.randint(0, 20)
            lines.append(f"{a} + {b} = {a + b}" if rng.random() < 0.6 else f"{max(a, b)} - {min(a, b)} = {abs(a - b)}")
        text = "\n".join(lines)
        return {"text": text.replace(" ", "") if rng.random() < 0.3 else text}, ["plain_sums"]
    parts = [f"{cap(t)} is {c}." for t, c in rng.sample(list(W.THING_COLOUR.items()), rng.randint(1, 4))] if rng.random() < 0.5 else \
        [f"{cap(s)} is the season when {W.SEASONS[s][1]}." for s in rng.sample(list(W.SEASONS), rng.randint(1, 3))]
    return {"text": " ".join(parts)}, ["plain_facts"]


def documents(seed, n_bytes):
    rng = random.Random(seed)
    size = 0
    while size < n_bytes:
        doc, kinds = plain(rng) if rng.random() < 0.16 else chat(rng)
        size += len(doc["text"]) if "text" in doc else sum(len(m["content"]) + 24 for m in doc["messages"])
        yield doc, kinds


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default="/tmp/bundled")
    p.add_argument("--mb", type=float, default=40, help="megabytes of training text")
    p.add_argument("--heldout-mb", type=float, default=0.5)
    p.add_argument("--seed", type=int, default=20)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    seen, stats = set(), {}
    for name, seed, mb in (("train", a.seed, a.mb), ("heldout", a.seed + 1, a.heldout_mb)):
        kinds, n_docs, n_bytes, sha = collections.Counter(), 0, 0, hashlib.sha256()
        with open(os.path.join(a.out, name + ".jsonl"), "w", encoding="utf-8") as f:
            for doc, k in documents(seed, mb * 1e6):
                line = json.dumps(doc, ensure_ascii=False)
                key = hashlib.blake2b(line.encode(), digest_size=8).digest()
                if name == "train":
                    seen.add(key)
                elif key in seen:
                    continue
                f.write(line + "\n")
                sha.update(line.encode())
                kinds.update(k)
                n_docs += 1
                n_bytes += len(line.encode())
        stats[name] = {"seed": seed, "documents": n_docs, "bytes": n_bytes, "sha256": sha.hexdigest(), "segments": dict(sorted(kinds.items()))}
    with open(os.path.join(a.out, "counts.json"), "w") as f:
        json.dump(stats, f, indent=1)
    print(json.dumps(stats, indent=1))


if __name__ == "__main__":
    main()
