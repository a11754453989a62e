#!/usr/bin/env python3
"""Files of a crate that take from each other in a circle: none may. Reads `use`, and paths that begin with crate, self or super.

    python3 tests/circles.py [CRATE…]      (folders with a src/; default: all of the workspace)
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATH = re.compile(r"\b(?:crate|super|self)(?:::\w+)+")
USE = re.compile(r"(?:pub(?:\([^)]*\))? )?use ((?:crate|super|self|\w+)[^;]*);")


def modules(src):
    """Files by module path: () is the root."""
    found = {}
    for file in sorted(src.rglob("*.rs")):
        parts = list(file.relative_to(src).with_suffix("").parts)
        if parts[0] == "bin" or parts[-1].endswith("tests") or "tests" in parts:
            continue
        if parts[-1] in ("lib", "main", "mod"):
            parts.pop()
        found[tuple(parts)] = file
    return found


def code(text):
    """Without comments, words and tests at the end of a file."""
    text = text.split("#[cfg(test)]\nmod tests")[0]
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r'"(?:\\.|[^"\\])*"', '""', text)


def spread(tree):
    """All paths of a use tree, as lists of names."""
    tree = tree.strip()
    if "{" not in tree:
        return [[part.strip().split(" as ")[0] for part in tree.split("::")]]
    head, _, rest = tree.partition("{")
    prefix = [part for part in head.split("::") if part]
    inner, depth, items = rest.rsplit("}", 1)[0], 0, [""]
    for letter in inner:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    return [prefix + path for item in items if item.strip() for path in spread(item)]


def taken(module, text, known, children):
    """Modules that a file takes names from."""
    paths = [path for use in USE.findall(text) for path in spread(use)]
    paths += [path.split("::") for path in PATH.findall(re.sub(USE, "", text))]
    for path in paths:
        at = list(module)
        if path[0] == "crate":
            at = []
        elif path[0] == "super":
            at = at[:-1]
        elif path[0] != "self":
            if tuple(module) + (path[0],) not in known:
                continue
            path = ["self"] + path
        rest = path[1:]
        while rest and rest[0] == "super":
            at, rest = at[:-1], rest[1:]
        while rest and tuple(at) + (rest[0],) in known:
            at.append(rest[0])
            rest = rest[1:]
        # what a parent only hands on is its child's
        name = rest[0] if rest else None
        at = children.get(tuple(at), {}).get(name, tuple(at))
        # a file and those in its folder are one room: what they share may stand above them
        if at in known and at != module[: len(at)]:
            yield at, name


def circles(edges):
    """Strongly connected parts of more than one module (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = []
            while True:
                part.append(stack.pop())
                if part[-1] == node:
                    break
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def handed_on(module, text, known):
    """Names that a file hands on from its children, with where they come from."""
    names = {}
    for use in re.findall(r"pub(?:\([^)]*\))? use ([^;]*);", text):
        for path in spread(use):
            path = path[1:] if path[0] == "self" else path
            at = tuple(module)
            while path and at + (path[0],) in known:
                at, path = at + (path[0],), path[1:]
            if at != tuple(module) and path:
                names[path[0]] = at
    return names


def main():
    sys.setrecursionlimit(10_000)
    named = [pathlib.Path(name) for name in sys.argv[1:]]
    crates = named or sorted({file.parent for file in ROOT.glob("**/Cargo.toml") if "target" not in file.parts})
    bad = 0
    for crate in crates:
        known = modules(crate / "src") if (crate / "src").is_dir() else {}
        texts = {module: code(file.read_text()) for module, file in known.items()}
        children = {module: handed_on(module, text, known) for module, text in texts.items()}
        names = {}
        for module, text in texts.items():
            for other, name in taken(module, text, known, children):
                names.setdefault((module, other), set()).add(str(name))
        edges = {}
        for module, other in names:
            edges.setdefault(module, set()).add(other)
        for part in circles(edges):
            bad += 1
            print(f"{len(part)} files in a circle:")
            for module in part:
                for other in sorted(edges.get(module, set()) & set(part)):
                    print(f"  {known[module].relative_to(ROOT)} -> {known[other].relative_to(ROOT)}: {', '.join(sorted(names[module, other]))}")
    if bad:
        sys.exit(f"{bad} circles of files: move what both need into a file that neither is")


main()
