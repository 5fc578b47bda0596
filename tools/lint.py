#!/usr/bin/env python3
"""Checks what the compiler does not: who may include whom (LAYERS), one file per third-party header, one door to the heap,
file lengths, names. Prints file:line: what and why; exit 1 if anything was found."""
import collections, os, re, sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
SYSTEM = re.compile(r"^(assert|ctype|dirent|dlfcn|errno|fcntl|fenv|float|fnmatch|getopt|glob|inttypes|limits|linux/.*|locale|math|netdb|netinet/.*|arpa/.*|poll|pthread|sched|"
                    r"setjmp|signal|spawn|stdalign|stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|stdnoreturn|string|strings|sys/.*|termios|threads|time|"
                    r"unistd|gnu/libc-version|utime|wchar|wctype|cpuid|immintrin|arm_neon|sanitizer/.*)\.h$")
HEAP = re.compile(r"(?<![\w.>])(malloc|calloc|realloc|reallocarray|strdup|strndup|free|asprintf|vasprintf|aligned_alloc|posix_memalign)\s*\(")
UNSAFE = re.compile(r"(?<![\w.>])(strcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|atol|atof|exit|_exit|abort)\s*\(")
MAY_EXIT = {"src/cli/main.c", "src/cli/serve.c", "src/base/hash.c", "src/device/pjrt/child.c"} # serve: a second signal; hash: no entropy; child: its child processes

def layers():
    out = {}
    for line in open(os.path.join(ROOT, "LAYERS")):
        line = line.split("#")[0].strip()
        if line:
            name, deps = line.split(":")
            out[name] = set(deps.split()) | {name}
    return out

def strip_comments(text):
    keep_lines = lambda m: "\n" * m.group(0).count("\n")
    return re.sub(r'"(?:\\.|[^"\\\n])*"', '""', re.sub(r"/\*.*?\*/", keep_lines, re.sub(r"//[^\n]*", "", text), flags=re.S))

def main():
    allowed, found, third = layers(), [], collections.defaultdict(set)
    for base, _, files in os.walk(os.path.join(ROOT, "src")):
        for f in sorted(files):
            if not f.endswith((".c", ".h", ".def")): continue
            path = os.path.relpath(os.path.join(base, f), ROOT)
            layer = path.split("/")[1]
            text = open(os.path.join(ROOT, path), encoding="utf-8").read()
            lines = text.count("\n")
            if lines > 1000: found.append(f"{path}:1: {lines} lines (at most 1,000)")
            for n, line in enumerate(text.split("\n"), 1):
                m = re.match(r'\s*#\s*include\s+([<"])([^>"]+)[>"]', line)
                if m and m.group(1) == '"':
                    to = m.group(2).split("/")[0]
                    if to in allowed and to not in allowed.get(layer, ()): found.append(f"{path}:{n}: layer {layer} may not include {to} (LAYERS)")
                    elif to not in allowed and not os.path.exists(os.path.join(ROOT, "include", m.group(2))): found.append(f"{path}:{n}: include \"{m.group(2)}\" by its layer, as \"layer/file.h\"")
                elif m and not SYSTEM.match(m.group(2)):
                    third[m.group(2)].add(path)
            for n, line in enumerate(strip_comments(text).split("\n"), 1):
                m = HEAP.search(line)
                if m and path != "src/base/mem.c": found.append(f"{path}:{n}: {m.group(1)}() by-passes base/mem.h")
                m = UNSAFE.search(line)
                if m and path not in MAY_EXIT: found.append(f"{path}:{n}: {m.group(1)}() is not used here (nothing but main exits; no unbounded string functions)")
                if re.search(r"^\s*(typedef\b.*|\}\s*)\b\w+_t;", line): found.append(f"{path}:{n}: our types do not end in _t")
    for header, users in sorted(third.items()):
        if len(users) > 1: found.append(f"{sorted(users)[1]}:1: third-party header {header} is in several files: {', '.join(sorted(users))}")
    for f in found: print(f)
    print(f"lint: {0 if found else 1} passed, {len(found)} failed")
    return bool(found)

sys.exit(main())
