"""Our tokenizer against the `tokenizers` package: the same generated text, one thread, alternately.

  pip install tokenizers
  python bench/tokenizer.py BENCH DIR...      BENCH: bench/bench_tokenizer.c, built; DIR: holds a tokenizer.json
  options: MB=10 RUNS=5 in the environment

Prints load time, and min / median / max MB/s of both, per tokenizer, and whether the ids are equal."""
import os, random, statistics, subprocess, sys, tempfile, time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer

SYLLABLES = "ing er tion the a re con ment ly de pro com ex in un est al ous ful ness ist tra pre sub ver mo la ti so ka ne".split()
OTHERS = ["\u4f60\u597d\u4e16\u754c\u6211\u4eec\u4eca\u5929\u5728\u5317\u4eac\u5927\u5b66\u5b66\u4e60\u8ba1\u7b97\u673a\u79d1\u5b66", "\u3053\u3093\u306b\u3061\u306f\u30c6\u30b9\u30c8\u3067\u3059", "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \u044d\u0442\u043e \u0442\u0435\u043a\u0441\u0442",
          "\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5\uc785\ub2c8\ub2e4", "caf\u00e9 na\u00efve \u00fcber Stra\u00dfe \u0161koda", "\U0001f600\U0001f680\U0001f44d\U0001f3fd"]
CODE = ["def %s(self, %s):\n    return self.%s[%d]\n", "for (int i = 0; i < %s; i++) {\n\t%s[i] += %s * %d;\n}\n", "{\"%s\": [\"%s\", \"%s\"], \"n\": %d}\n", "https://example.org/%s/%s?%s=%d\n"]


def text(mb):
    r, out, size = random.Random(5), [], 0
    words = ["".join(r.choice(SYLLABLES) for _ in range(r.choice((1, 1, 2, 2, 3)))) for _ in range(4000)]
    while size < mb * 1000000:
        k = r.random()
        if k < 0.7:
            s = " ".join(r.choice(words) if r.random() > 0.04 else str(r.randrange(100000)) for _ in range(r.randrange(6, 25))).capitalize() + r.choice((". ", ".\n", "? ", ", \"quoted\"; ", " (note)!\n\n"))
        elif k < 0.85:
            s = r.choice(CODE) % (r.choice(words), r.choice(words), r.choice(words), r.randrange(1000))
        else:
            o = r.choice(OTHERS)
            i = r.randrange(len(o))
            s = (o[i:] + o[:i]) * r.randrange(1, 4) + " "
        out.append(s)
        size += len(s.encode())
    return "".join(out)


def show(name, v):
    return "%s %7.2f %7.2f %7.2f" % (name, min(v), statistics.median(v), max(v))


def main():
    bench, mb, runs = sys.argv[1], float(os.environ.get("MB", "10")), int(os.environ.get("RUNS", "5"))
    body = text(mb)
    n = len(body.encode()) / 1e6
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
        f.write(body)
        f.flush()
        for d in sys.argv[2:]:
            t0 = time.time()
            t = Tokenizer.from_file(os.path.join(d, "tokenizer.json"))
            load = time.time() - t0
            ours, theirs, loads = [], [], []
            for _ in range(runs):
                out = subprocess.run([bench, "time", d, f.name, "1"], capture_output=True, text=True, check=True).stdout.split("\n")
                loads.append(float(out[0].split()[1]))
                ours.append(float(out[1].split()[3]))
                t0 = time.time()
                e = t.encode(body, add_special_tokens=False)
                theirs.append(n / (time.time() - t0))
            ids = subprocess.run([bench, "ids", d, f.name], capture_output=True, text=True, check=True).stdout.split()
            same = ids == [str(i) for i in e.ids]
            print("%-16s load %.3f s (package %.3f)  MB/s min median max: %s | %s | ratio of medians %.1f  ids %s" % (
                os.path.basename(os.path.normpath(d)), statistics.median(loads), load, show("ours", ours), show("package", theirs), statistics.median(ours) / statistics.median(theirs), "equal" if same else "DIFFER"))
            sys.stdout.flush()


main()
