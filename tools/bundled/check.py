#!/usr/bin/env python3
"""Ask systolic-tiny fresh questions of every topic and count right answers (greedy, through transformers).

    python tools/bundled/check.py [--model models/systolic-tiny] [--n 50]

The questions come from generate.py's grammar with a seed that training did not use: names, stories and chats are
new combinations, but in small topics most questions occurred in training; ask.py has prompts that were written by hand. A topic with one right
answer wants exactly that; the others want one of the answers the grammar allows.
"""

import argparse
import itertools
import random
import re
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import concepts
import stories
import topics as T
import words as W
from text import an, ex, pick

EXACT = [T.animal, T.arithmetic, T.as_json, T.calendar, T.capital, T.colour, T.compare, T.count, T.letters, T.opposite, T.yesno, T.repeat, T.food]


def expansions(t):
    """Every text a template without variables can become."""
    m = re.search(r"\{([^{}]*)\}", t)
    return [t] if not m else list(itertools.chain.from_iterable(expansions(t[:m.start()] + c + t[m.end():]) for c in m.group(1).split("|")))


CONCEPT = [set(itertools.chain.from_iterable(expansions(t) for t in what + why)) for _, what, why in concepts.CONCEPTS]


def cases(rng, n):
    """(topic, messages, judge) with judge(answer) -> bool."""
    def fresh():
        return {"bot": "systolic-tiny", "name": None, "facts": {}}

    def ask(*us):
        return [{"role": "user" if i % 2 == 0 else "assistant", "content": u} for i, u in enumerate(us)]
    for _ in range(n):
        for f in EXACT:
            q, a = f(rng, fresh())[0]
            if "I did not" in a or "I do not" in a or "cannot" in a or "too" in a:
                continue                                    # refusals are counted below
            yield f.__name__, ask(q), lambda s, a=a: s == a
        q, a = T.concept(rng, fresh())[0]
        yield "concept", ask(q), lambda s, ok=[c for c in CONCEPT if a in c][0]: s in ok
        q, a = T.nature(rng, fresh())[0]
        yield "nature", ask(q), lambda s, ok=[v for v in list(W.WEATHER.values()) + list(W.SKY.values()) if a in v][0]: s in ok
        q, a = T.refuse(rng, fresh())[0]
        yield "refuse", ask(q), lambda s: s in T.SORRY or "simple English" in s
        q, a = T.near_miss(rng, fresh())[0]
        yield "near_miss", ask(q), lambda s: s.startswith(("I do not know", "I did not learn", "I am sorry", "I was only", "Sorry", "That is beyond"))
        ctx = fresh()
        u, v = T.tell_name(rng, ctx)[0]
        name = ctx["name"]
        yield "greet_by_name", ask(u), lambda s, name=name: name in s
        x = T.animal(rng, ctx)[0]
        yield "recall_name", ask(u, v, *x, T.ask_name(rng, ctx)[0][0]), lambda s, name=name: s in (f"Your name is {name}.", f"You are {name}.")
        ctx = fresh()
        u, v = T.user_fact(rng, ctx)[0]
        q, a = T.ask_fact(rng, ctx)[0]
        yield "recall_fact", ask(u, v, q), lambda s, a=a: s == a
        yield "no_name_yet", ask(T.ask_name(rng, fresh())[0][0]), lambda s: s.startswith(("You have not told", "I do not know your"))
        hero, name = stories.hero_of(rng), rng.choice(W.NAMES)
        yield "story", ask(pick(rng, stories.ASK_NAMED, a_hero=an(hero), hero=hero, name=name)), lambda s, h=hero, n=name: h in s and s.count(n) >= 3
        bot = rng.choice(W.BOT_NAMES)
        yield "persona", [{"role": "system", "content": f"You are {bot}, a helpful assistant."}] + ask(rng.choice(["What is your name?", "Who are you?"])), lambda s, b=bot: b in s


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="models/systolic-tiny")
    p.add_argument("--n", type=int, default=50)
    p.add_argument("--seed", type=int, default=99)
    p.add_argument("--show", type=int, default=2, help="wrong answers to print for each topic")
    a = p.parse_args()
    torch.set_num_threads(1)
    tok = AutoTokenizer.from_pretrained(a.model)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    score, wrong, begin = {}, {}, time.time()
    for topic, messages, judge in cases(random.Random(a.seed), a.n):
        e = tok.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**e, max_new_tokens=220, do_sample=False, temperature=None, top_p=None)
        s = tok.decode(out[0, e["input_ids"].shape[1]:], skip_special_tokens=True)
        score.setdefault(topic, []).append(judge(s))
        if not judge(s):
            wrong.setdefault(topic, []).append((messages[-1]["content"], s))
    for topic in sorted(score):
        v = score[topic]
        print(f"{topic:14s} {sum(v):4d} of {len(v):4d}")
        for q, s in wrong.get(topic, [])[:a.show]:
            print(f"      {q!r} -> {s!r}")
    v = list(itertools.chain.from_iterable(score.values()))
    print(f"{'all':14s} {sum(v):4d} of {len(v):4d}  ({time.time() - begin:.0f} s)")


if __name__ == "__main__":
    main()
