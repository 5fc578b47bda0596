"""Cases for tests/unit/text/test_tokenizer.c from small tokenizers that cover every component, answered by the `tokenizers` package.

  pip install tokenizers==0.23.3
  python tests/golden/tokenizer_cases.py > tests/golden/tokenizers.json        writes the committed cases
  python tests/golden/tokenizer_cases.py --compare BENCH [N] [DIR...]          compares N random texts for each of them (and for DIR/tokenizer.json)
                                                                               with `BENCH serve`, BENCH being bench/bench_tokenizer built
  python tests/golden/tokenizer_cases.py --code-points BENCH                   compares every code point in every component"""
import json, os, random, subprocess, sys, tempfile
from tokenizers import Tokenizer

BYTES = {"<0x%02X>" % b: b for b in range(256)}


def spell(**kw):
    """A model that spells its input in bytes, each piece ending in </w>."""
    m = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": "</w>", "fuse_unk": False,
         "byte_fallback": True, "vocab": BYTES, "merges": []}
    return {"model": m, **kw}


def bpe(vocab, merges, **kw):
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
            "byte_fallback": False, "vocab": {t: i for i, t in enumerate(vocab)}, "merges": merges, **kw}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern if isinstance(pattern, dict) else {"Regex": pattern}, "behavior": behavior, "invert": invert}


def seq(kind, key, *parts):
    return {"type": "Sequence", key: list(parts)}


def added(content, i=0, **kw):
    return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **kw}


BL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
META = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
CONTR = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]%s[\p{Ll}\p{Lm}\p{Lo}\p{M}]%s" + CONTR + "?|"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = CONTR + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = CASED % ("*", "+") + CASED % ("+", "*") + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL
DS = [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
      r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|""" + TAIL]
REGEXES = [r"\p{N}{1,3}+", r"[^\S\n]+", r"\w+|[^\w\s]", r"\bfoo\b", r"(?m:a.b)", r"^.", r".$", r"[a-c[x-z]&&[^b]]", r"\h+", r"[\w-]+", r"[\p{Han}]+|\p{Hiragana}", r"\P{L}",
           r"\p{^L}+", r"(?<=a)b", r"x{,2}y", r"(?:ab|a)++c?", r"[[:alpha:]]+|[[:digit:]]", r"a{2}?", r"\p{Letter}\p{Lowercase_Letter}*", r"(?i)straSSe", r"\u0041|\x42", r"",
           r"x*", r"[\p{L}&&[^\p{Lu}]]+", r"\s+$|\s", r"(\w)\1", r"[^\p{L}\d\s]+", r"\p{Alnum}+|\p{Punct}", r"\d+|\D", r"\A.|.\z", r"[一-鿿]+", r"(?>a+)b|a", r"[]a]+|[^]b]"]


def normalizers():
    rep = lambda pat, c: {"type": "Replace", "pattern": pat, "content": c}
    yield from ({"type": t} for t in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"))
    yield from ({"type": "Strip", "strip_left": a, "strip_right": b} for a in (True, False) for b in (True, False))
    yield rep({"String": " "}, "\u2581")
    yield rep({"String": "aa"}, "b")
    yield rep({"Regex": r"\s+"}, " ")
    yield rep({"Regex": " {2,}"}, "")
    yield {"type": "Prepend", "prepend": "\u2581"}
    for c in (True, False):
        for h in (True, False):
            for s in (None, True, False):
                for l in (True, False):
                    if c or not h:
                        yield {"type": "BertNormalizer", "clean_text": c, "handle_chinese_chars": h, "strip_accents": s, "lowercase": l}
    yield seq("N", "normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True})
    yield seq("N", "normalizers", {"type": "Prepend", "prepend": "\u2581"}, rep({"String": " "}, "\u2581"))
    yield seq("N", "normalizers", {"type": "NFKC"}, seq("N", "normalizers", {"type": "Lowercase"}, rep({"String": "``"}, '"')))


def pre_tokenizers():
    for a in (True, False):
        for r in (True, False):
            yield {"type": "ByteLevel", "add_prefix_space": a, "trim_offsets": True, "use_regex": r}
    for pat in ({"String": "-"}, {"String": "ab"}, {"String": ""}, r"[aeiou]+", r"\s"):
        for b in BEHAVIORS:
            for inv in (False, True):
                yield split(pat, b, inv)
    for scheme in ("always", "first", "never"):
        for s in (True, False):
            yield {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": s}
    yield {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": True}
    yield {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True}
    yield from ({"type": t} for t in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts"))
    yield from ({"type": "Punctuation", "behavior": b} for b in BEHAVIORS)
    yield from ({"type": "Digits", "individual_digits": b} for b in (True, False))
    yield {"type": "CharDelimiterSplit", "delimiter": "-"}
    yield {"type": "FixedLength", "length": 3}
    yield seq("P", "pretokenizers", {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True})
    yield seq("P", "pretokenizers", {"type": "Whitespace"}, {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Isolated"})
    yield seq("P", "pretokenizers", dict(BL, add_prefix_space=True, use_regex=True), split({"String": "\u0120"}))
    for rx in (GPT2, LLAMA3, QWEN2, O200K):
        yield seq("P", "pretokenizers", split(rx), BL)
    yield seq("P", "pretokenizers", *[split(r) for r in DS], BL)
    yield from (split(r) for r in REGEXES)


def models():
    yield "bpe suffix", {"pre_tokenizer": {"type": "Whitespace"}, "model": bpe(list("abcd") + ["a</w>", "b</w>", "ab", "ab</w>", "cab</w>", "<unk>"], [["a", "b"], ["a", "b</w>"], ["c", "ab</w>"]], end_of_word_suffix="</w>", unk_token="<unk>")}
    yield "bpe prefix", {"pre_tokenizer": {"type": "Whitespace"}, "model": bpe(list("abcd") + ["##a", "##b", "##c", "ab", "##bc", "abc", "<unk>"], [["a", "##b"], ["##b", "##c"], ["ab", "##c"]], continuing_subword_prefix="##", unk_token="<unk>")}
    for fuse in (True, False):
        for fall in (True, False):
            v = ["<unk>", "\u2581", "a", "b", "ab", "\u2581a", "aa", "\u2581\u2581"] + (["<0x%02X>" % b for b in range(256) if b != 0xC3] if fall else [])
            yield "bpe unk %s %s" % (fuse, fall), {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
                                                   "model": bpe(v, [["a", "b"], ["\u2581", "a"], ["a", "a"], ["\u2581", "\u2581"]], unk_token="<unk>", fuse_unk=fuse, byte_fallback=fall)}
    yield "bpe no unk", {"model": bpe(list("ab"), [])}
    yield "bpe old merges", {"model": bpe(["a", "b", "ab"], ["a b"])}
    yield "bpe crossing", {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
                           "model": bpe(["<unk>", "\u2581", "a", "b", "a\u2581", "a\u2581b", "\u2581b"], [["a", "\u2581"], ["\u2581", "b"], ["a\u2581", "b"]], unk_token="<unk>", ignore_merges=True)}
    yield "bpe ignore merges", {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
                                "model": bpe(["<unk>", "\u2581", "a", "b", "ab", "\u2581ab", "bb a"], [["a", "b"]], unk_token="<unk>", ignore_merges=True)}
    for ig in (True, False):
        yield "byte-level partial %s" % ig, {"pre_tokenizer": dict(BL, use_regex=True), "decoder": BL,
                                             "model": bpe(list("abcde") + ["\u0120", "\u00c3", "\u0120a", "ab", "\u0120ab", "<unk>", "bcd"], [["\u0120", "a"], ["a", "b"], ["\u0120a", "b"]], unk_token="<unk>", ignore_merges=ig)}
    uni = [["<unk>", 0.0], ["\u2581", -2.0], ["a", -3.0], ["b", -3.5], ["ab", -4.0], ["\u2581a", -3.2], ["abab", -9.0], ["\u00e9", -5.0], ["\u2581\u2581", -1.0], ["ba", -4.0]]
    for fall in (True, False):
        yield "unigram %s" % fall, {"pre_tokenizer": META, "decoder": META, "model": {"type": "Unigram", "unk_id": 0, "vocab": uni + ([["<0x%02X>" % b, -20.0] for b in range(256)] if fall else []), "byte_fallback": fall}}
    yield "unigram no unk", {"model": {"type": "Unigram", "unk_id": None, "vocab": uni, "byte_fallback": False}}
    wp = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 8, "vocab": {t: i for i, t in enumerate(["[UNK]", "a", "b", "##a", "##b", "##bc", "abc", "caf", "##\u00e9", "!", "'", "do", "not"])}}
    yield "wordpiece", {"pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}, "model": wp}
    yield "wordlevel", {"pre_tokenizer": {"type": "Whitespace"}, "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1, "foo": 2, "caf\u00e9": 3}, "unk_token": "<unk>"}}


def added_tokens():
    toks = [added("<s>"), added("<a b>", lstrip=True), added("<r>", rstrip=True), added("<lr>", lstrip=True, rstrip=True), added("word", single_word=True), added("<N>", normalized=True, special=False),
            added("<<", special=False), added("<s><s>"), added("  ", special=False), added("SP", normalized=True), added("A B", normalized=True, special=False, rstrip=True), added("\u00c9t\u00e9", normalized=True, special=False, single_word=True)]
    yield "added plain", spell(added_tokens=toks)
    yield "added lower", spell(added_tokens=toks, normalizer={"type": "Lowercase"}, pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True})
    yield "added strip", spell(added_tokens=toks, normalizer=seq("N", "normalizers", {"type": "NFD"}, {"type": "Strip", "strip_left": True, "strip_right": True}), pre_tokenizer=META)
    yield "added replace", spell(added_tokens=toks, normalizer={"type": "Replace", "pattern": {"String": "  "}, "content": " "}, pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False})


def posts():
    t = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[C]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[S]", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
         "special_tokens": {"[C]": {"id": "[C]", "ids": [65, 66], "tokens": ["A", "B"]}, "[S]": {"id": "[S]", "ids": [67], "tokens": ["C"]}}}
    yield t
    yield {"type": "BertProcessing", "sep": ["s", 1], "cls": ["c", 2]}
    yield {"type": "RobertaProcessing", "sep": ["s", 1], "cls": ["c", 2], "trim_offsets": True, "add_prefix_space": True}
    yield {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    yield seq("P", "processors", {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, t)


def decoders():
    """Over a vocabulary of awkward tokens."""
    fb, fu = {"type": "ByteFallback"}, {"type": "Fuse"}
    rep = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    st = lambda c, a, b: {"type": "Strip", "content": c, "start": a, "stop": b}
    yield None
    yield from (BL, META, dict(META, prepend_scheme="never"), dict(META, prepend_scheme="first"), fb, fu, rep)
    yield {"type": "Replace", "pattern": {"Regex": "[\u2581h]+"}, "content": "_"}
    yield from (st(" ", 1, 0), st("h", 1, 1), st("\u2581", 0, 2))
    yield from ({"type": "WordPiece", "prefix": "##", "cleanup": c} for c in (True, False))
    yield {"type": "BPEDecoder", "suffix": "</w>"}
    yield from ({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": c} for c in (True, False))
    yield seq("D", "decoders", rep, fb, fu, st(" ", 1, 0))
    yield seq("D", "decoders", fb, META, fu)
    yield seq("D", "decoders", {"type": "WordPiece", "prefix": "##", "cleanup": False}, BL)


DEC_VOCAB = ["h", "he", "##llo", "\u2581hi", "\u2581", "hi</w>", "<pad>", "|", ".", "n't", "do", "not", "'", "'s", "?", "\u0120x", "\u00c3", "\u00a9", "<0xC3>", "<0xA9>", "<0x41>", "<0xE4>", "\u00e9", "caf\u00e9 ", " ", "hh", "\u2581\u2581a", "<0x0a>", "\uff5c", "<s>", ""]


def specs():
    out = []
    add = lambda name, s: out.append((name, {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, **s}))
    for i, n in enumerate(normalizers()):
        add("normalizer %d %s" % (i, n["type"]), spell(normalizer=n))
    for i, p in enumerate(pre_tokenizers()):
        add("pre_tokenizer %d %s" % (i, p["type"]), spell(pre_tokenizer=p))
    for n, s in models():
        add("model " + n, s)
    for n, s in added_tokens():
        add(n, s)
    for i, p in enumerate(posts()):
        add("post %d %s" % (i, p["type"]), spell(post_processor=p))
    for i, d in enumerate(decoders()):
        add("decoder %d %s" % (i, d and d["type"]), {"decoder": d, "model": bpe(DEC_VOCAB, []), "added_tokens": [added("<s>", 29), added("<t>", 31, special=False)]})
    return out


FIXED = ["", " ", "a", "ab abab  cab", "The quick brown foX's foo-bar, don't 12345.67!\n\n  x\r\n", "\u4e2d\u6587abc \u65e5\u672c\u8a9e\u30ab\u30bf\u30ab\u30ca", "Caf\u00e9 cafe\u0301 \u00c9t\u00e9 \u01c5 \u0130I \ufb01 \u2460\u00bd", "<s>a <a b> b<r>  c <lr> word words <N><<<s><s>A B  A B\u00c9t\u00e9 \u00e9t\u00e9 sword",
         "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea\U0001f44d\U0001f3fd", "\t\u00a0\u3000\u200b\u2028x\u0085y\u180ez\ufeff", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0939\u093f\u0928\u094d\u0926\u0940 \u0627\u0644\u0633\u064e\u0651", "\x00\x01\x7f\ufffd\uffff\U0010ffff", "don\u2019t I'LL 'S'\u017f we'Re", "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab", "a" * 60 + " " * 5 + "b" * 9,
         "aab---a-ab-", "straSSe foo aXb\nab aaac xxy xy ABC\u0391\u03b1\u00df--\u2581\u2581a", "q\u0323\u0307 \u1e0b\u0323 \uac00\u11a8 \uff76\uff9e \u212b \u0958"]
ALPHABETS = ["ab ", "aAbB'sStTrRvVeElLmMdD ", " \t\n\r\u00a0\u3000\u2028x.", "0123456789\u00b2\u0663\u2167\u00bd a", ".,!?-_/\\'\"()[]{}<>@#$%^&*+=~`| a\n", "\u00e9e\u0301\u0323\u0307a\u030a\u00c5\ufb01\u01c5\u02b0\u0130\u1e9e", "\u4e2d\u6587\u3042\u30a2\u30fc\ud55c\u1100\u1161\u11a8\uff21\uff76\uff9e ", "\u0915\u094d\u0937\u093f\u0e01\u0e33\u0639\u064e\u0651\u05d0 ",
             "\U0001f600\U0001f468\u200d\U0001f1e9\U0001f1ea\u2764\ufe0f\U0001f3fd ", "<s>ab|word N\u2581_# ", "\x00\x01\x1f\x7f\x85\u00ad\u200b\u200d\ufeff\ufffd\ue000a "]


def random_text(r):
    k = r.random()
    n = r.randrange(1, 40)
    if k < 0.55:
        a = r.choice(ALPHABETS)
        return "".join(r.choice(a) for _ in range(n))
    if k < 0.8:
        a = "".join(ALPHABETS)
        return "".join(r.choice(a) for _ in range(n))
    if k < 0.9:
        return " ".join(r.choice(FIXED) for _ in range(2))
    out = []
    while len(out) < n:
        c = r.choice([r.randrange(0x20, 0x3000), r.randrange(0x3000, 0x110000), r.randrange(0x20, 0x250)])
        if not 0xD800 <= c < 0xE000:
            out.append(chr(c))
    return "".join(out)


def try_encode(t, text, special):
    try:
        return t.encode(text, add_special_tokens=special).ids
    except Exception:
        return None


def main():
    r = random.Random(1)
    docs = []
    for name, s in specs():
        t = Tokenizer.from_str(json.dumps(s))
        doc = {"name": name, "tokenizer": s}
        if s["model"]["vocab"] == BYTES:
            doc["tokenizer"] = dict(s, model=dict(s["model"], vocab="BYTES"))
        if name.startswith("decoder"):
            n = len(DEC_VOCAB) + 1
            doc["decodes"] = []
            for k in range(14):
                ids = [r.randrange(n) for _ in range(r.randrange(0, 9))]
                try:
                    doc["decodes"].append([ids, t.decode(ids, skip_special_tokens=False), t.decode(ids, skip_special_tokens=True)])
                except BaseException as e:  # the package panics on some: nothing to learn there
                    if "Panic" not in type(e).__name__:
                        raise
        else:
            texts = FIXED + [random_text(r) for _ in range(4)] if name.startswith(("added", "model")) else r.sample(FIXED, 5) + [random_text(r) for _ in range(3)]
            doc["encodes"] = [[x, try_encode(t, x, False)] + ([try_encode(t, x, True)] if s["post_processor"] else []) for x in texts]
        docs.append(doc)
    print("[")
    print(",\n".join(json.dumps(d, ensure_ascii=True, separators=(",", ":")) for d in docs))
    print("]")


class Server:
    def __init__(self, bench, text):
        self.dir = tempfile.TemporaryDirectory()
        with open(os.path.join(self.dir.name, "tokenizer.json"), "w") as f:
            f.write(text)
        self.p = subprocess.Popen([bench, "serve", self.dir.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, q):
        self.p.stdin.write(json.dumps(q) + "\n")
        self.p.stdin.flush()
        return json.loads(self.p.stdout.readline())

    def close(self):
        self.p.stdin.close()
        self.p.wait()
        self.dir.cleanup()


def compare(bench, n, dirs):
    r, bad, done = random.Random(int(os.environ.get("SEED", "2"))), 0, 0
    todo = [(name, json.dumps(s)) for name, s in specs()] if not dirs else [(d, open(os.path.join(d, "tokenizer.json")).read()) for d in dirs]
    for name, text in todo:
        t, srv, shown = Tokenizer.from_str(text), Server(bench, text), 0
        for k in range(n):
            x = FIXED[k] if k < len(FIXED) else random_text(r)
            try:
                got = srv.ask({"text": x})
            except Exception:
                print("CRASH", name, ascii(x))
                bad += 1
                break
            want = {"ids": try_encode(t, x, False), "ids_special": try_encode(t, x, True)}
            done += 1
            ids = want["ids_special"] if k % 2 else [r.randrange(t.get_vocab_size()) for _ in range(r.randrange(0, 12))]
            if ids is not None:
                try:
                    want["decode"], want["decode_skip"] = t.decode(ids, skip_special_tokens=False), t.decode(ids)
                    ans = srv.ask({"ids": ids})
                    got.update(ans)
                    if "error" in ans and any(t.id_to_token(i) is None for i in ids):
                        want.pop("decode"), want.pop("decode_skip")
                except BaseException:
                    want.pop("decode", None)
            for f in want:
                if got.get(f) != want[f]:
                    bad += 1
                    shown += 1
                    if shown <= 2:
                        print("DIFF", name, f, ascii(x if f.startswith("ids") else ids), "\n  want", ascii(want[f])[:300], "\n  got ", ascii(got.get(f, got))[:300])
        srv.close()
        if shown:
            print("     ", name, shown, "differ")
    print("%d texts, %d differences" % (done, bad))
    return bad != 0


def code_points(bench):
    """Every code point between letters: the first that differ, by component."""
    cps = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    total = 0
    for name, s in specs():
        if not name.startswith(("normalizer", "pre_tokenizer")):
            continue
        text = json.dumps(s)
        t, srv, bad = Tokenizer.from_str(text), Server(bench, text), []
        chunks = [cps[b:b + 256] for b in range(0, 0x30000, 256)] + [cps[b:b + 256] for b in range(0xDF800, 0xE0800, 256)]
        while chunks:
            c = chunks.pop()
            x = "a" + "a".join(map(chr, c)) + "a"
            if srv.ask({"text": x}).get("ids") != try_encode(t, x, False):
                if len(c) == 1:
                    bad.append(c[0])
                else:
                    chunks += [c[:len(c) // 2], c[len(c) // 2:]]
            if len(bad) > 400:
                break
        srv.close()
        total += len(bad)
        if bad:
            print(name, json.dumps(s["normalizer"] or s["pre_tokenizer"])[:150], len(bad), [hex(c) for c in sorted(bad)[:30]])
            sys.stdout.flush()
    print("%d differences" % total)
    return total != 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compare"]:
        sys.exit(compare(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 200, sys.argv[4:]))
    if sys.argv[1:2] == ["--code-points"]:
        sys.exit(code_points(sys.argv[2]))
    main()
