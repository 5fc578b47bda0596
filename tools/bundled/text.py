"""Small helpers for template text: expand `{a|b}` choices and `[name]` variables; add human noise."""

import re

_CHOICE = re.compile(r"\{([^{}]*)\}")
_VAR = re.compile(r"\[([a-z_]+)\]")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])(?!uni)")


def ex(rng, template, **values):
    """Expand the innermost choices until none is left, then put the variables in."""
    while "{" in template:
        template = _CHOICE.sub(lambda m: rng.choice(m.group(1).split("|")), template)
    if values:
        template = _VAR.sub(lambda m: str(values[m.group(1)]), template)
    return _ARTICLE.sub(r"\1n ", template)


def pick(rng, templates, **values):
    return ex(rng, rng.choice(templates), **values)


def an(word):
    return ("an " if word[0].lower() in "aeiou" and not word.startswith(("unicorn", "uni")) else "a ") + word


def cap(s):
    return s[:1].upper() + s[1:]


def join(items, last="and"):
    items = list(items)
    if len(items) == 1:
        return items[0]
    return ", ".join(items[:-1]) + " " + last + " " + items[-1]


def noise(rng, s):
    """Write a question the way people type: lower case, no question mark, a polite word, a typo."""
    r = rng.random()
    if r < 0.07:
        s = rng.choice(["Hey, ", "Hello, ", "Please, ", "So, ", "Ok, ", "And ", "Quick question: ", "Hi! "]) + s[:1].lower() + s[1:] \
            if not s.startswith(("I ", "I'")) else rng.choice(["Hey, ", "Well, ", "So, "]) + s
    elif r < 0.12 and len(s) > 12:
        end = s[-1] if s[-1] in "?.!" else ""
        s = (s[:-1] if end else s) + rng.choice([" please", ", please"]) + end
    if rng.random() < 0.10:
        for a, b in (("What is", "What's"), ("what is", "what's"), ("Who are you", "Who're you"), ("do not", "don't"), ("My name is", "My name's")):
            s = s.replace(a, b)
        if s.startswith("I am "):
            s = "I'm " + s[5:]
    r = rng.random()
    if r < 0.22:
        s = s.lower()
    elif r < 0.235:
        s = s.upper()
    r = rng.random()
    if r < 0.22:
        s = s.rstrip("?.!")
    elif r < 0.25:
        s += s[-1] if s[-1] in "?!" else "!"
    if rng.random() < 0.02 and len(s) > 10 and not any(c.isdigit() for c in s):
        i = rng.randrange(2, len(s) - 2)
        s = s[:i] + s[i + 1:] if rng.random() < 0.5 else s[:i] + s[i + 1] + s[i] + s[i + 2:]
    return s


_ONSET = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl sh sl st th tr zh".split()
_VOWEL = "a e i o u a e i o ai ee oo ia".split()
_CODA = ["", "", "", "n", "r", "l", "s", "m", "t", "k", "x", "nd", "rt"]


def made_up(rng, syllables=(2, 3)):
    """A word that no one knows."""
    return "".join(rng.choice(_ONSET) + rng.choice(_VOWEL) + rng.choice(_CODA) for _ in range(rng.randint(*syllables)))
