"""Checks the structure of the package that docs/architecture.md describes, from its source: `python tests/house.py`.

Counts import circles, imports of a higher room, words that only one room may use, and sizes. `test_house.py` holds each
count.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = """demo cli web teach jobs machine training evaluation inference methods data weights adapters settings families storage
    diffusion optim .""".split()
"""From the top down; "." is the modules beside the rooms. An import may point down this list only."""
ABOVE = "__init__ __main__ api".split()
"""Top-level modules above all rooms except demo."""
BESIDE = "device errors events library_logs missing_path next_command printable prompts units".split()
"""Top-level modules below all rooms."""
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 300, 50
PREDICTION_TYPES = {"epsilon", "v_prediction"}
"""The names in `diffusion.predictions.PREDICTIONS` that are not ordinary words."""


def modules(root: Path = ROOT) -> dict[str, ast.Module]:
    """Path of each module below `customize/`, relative to `root` -> its syntax tree."""
    paths = sorted((root / "customize").rglob("*.py"))
    return {path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def room(path: str) -> str:
    """The room that a module belongs to; "." for those beside the rooms, "" for a module in none."""
    first, *inner = path.removesuffix(".py").split("/")[1:]
    if inner:
        return first if first in ROOMS else ""
    return "cli" if first in ABOVE else "." if first in BESIDE else ""


def imports(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Module -> the modules that it imports, also within functions and for annotations only."""
    by_name = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in trees}

    def targets(node: ast.AST) -> Iterator[str]:
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{alias.name}" if f"{module}.{alias.name}" in by_name else module for alias in names)
            case ast.Import(names=names):
                yield from (alias.name for alias in names)

    return {
        path: {by_name[name] for node in ast.walk(tree) for name in targets(node) if name in by_name} - {path}
        for path, tree in trees.items()
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which reaches all others of its group by imports (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in index:
                visit(target)
            if target in stack:
                low[module] = min(low[module], low[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[-len(group) :]
            found.extend([sorted(group)] if len(group) > 1 else [])

    for module in graph:
        if module not in index:
            visit(module)
    return found


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a module in a higher room."""
    rank = {name: number for number, name in enumerate(ROOMS)}
    pairs = [(path, target) for path, targets in graph.items() for target in sorted(targets)]
    known = [(path, target) for path, target in pairs if room(path) and room(target)]
    return [f"{path} -> {target}" for path, target in known if rank[room(path)] > rank[room(target)]]


def words(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every identifier and of every string."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word) | ast.alias(name=word):
                yield node.lineno, word
            case ast.keyword(arg=str(word)) | ast.Constant(value=str(word)):
                yield node.lineno, word


def with_word(trees: dict[str, ast.Module], wanted: Iterable[str], apart: Iterable[str]) -> list[str]:
    """Places with one of the words, in modules outside the rooms `apart`."""
    wanted, apart = set(wanted), set(apart)
    others = {path: tree for path, tree in trees.items() if room(path) not in apart}
    return [f"{path}:{line} {word}" for path, tree in others.items() for line, word in words(tree) if word in wanted]


def all_calls(trees: dict[str, ast.Module]) -> list[tuple[str, int, str]]:
    """Path, line and source of each call."""
    nodes = [(path, node) for path, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [(path, node.lineno, ast.unparse(node)) for path, node in nodes]


def calls(found: list[tuple[str, int, str]], pattern: str, apart: Iterable[str]) -> list[str]:
    """The calls whose source begins with `pattern` (a regular expression), in modules outside the rooms `apart`."""
    return [f"{path}:{line}" for path, line, text in found if room(path) not in set(apart) and re.match(pattern, text)]


def family_classes(trees: dict[str, ast.Module]) -> set[str]:
    """Classes of `families/` that have `predict`, but for protocols."""
    classes = [node for path, tree in trees.items() if room(path) == "families" for node in ast.walk(tree)]
    classes = [node for node in classes if isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases)]
    return {node.name for node in classes if any(getattr(part, "name", "") == "predict" for part in node.body)}


def long_functions(trees: dict[str, ast.Module]) -> list[str]:
    """Functions of more than 50 lines."""
    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1  # type: ignore[operator]
                found += [f"{path}:{node.name} {lines}"] if lines > MOST_LINES_OF_A_FUNCTION else []
    return found


def same_names(trees: dict[str, ast.Module]) -> list[str]:
    """Modules that share their name with another one, in whichever room."""
    by_name = defaultdict(list)
    for path in trees:
        by_name[path.rpartition("/")[2]].append(path)
    return [" ".join(paths) for name, paths in by_name.items() if len(paths) > 1 and not name.startswith("__")]


def full_rooms(trees: dict[str, ast.Module]) -> list[str]:
    """Folders of more than 15 modules, without `__init__`."""
    folders = defaultdict(list)
    for path in trees:
        folders[path.rpartition("/")[0]].append(path)
    return [f"{folder} {len(paths) - 1}" for folder, paths in folders.items() if len(paths) > 16]


def measured(root: Path = ROOT) -> dict[str, list[str]]:
    """What is counted -> where it was found."""
    trees = modules(root)
    graph, called = imports(trees), all_calls(trees)
    lines = {path: len((root / path).read_text(encoding="utf-8").splitlines()) for path in trees}
    return {
        "modules without a room": [path for path in trees if not room(path)],
        "modules in import circles": [module for circle in circles(graph) for module in circle],
        "imports of a higher room": upward(graph),
        "modules of one name": same_names(trees),
        "rooms of more than 15 modules": full_rooms(trees),
        "modules that name a family class": sorted(
            {found.partition(":")[0] for found in with_word(trees, family_classes(trees), ["families", "demo"])}
        ),
        "alphas_cumprod outside diffusion and families": with_word(trees, ["alphas_cumprod"], ["families", "diffusion"]),
        "prediction types by name outside diffusion and families": with_word(trees, PREDICTION_TYPES, ["diffusion", "families"]),
        "print outside cli and demo": calls(called, r"print\(", ["cli", "demo"]),
        "questions about the class of settings": calls(called, r"(isinstance|getattr|hasattr)\(settings\b", ["methods"]),
        "calls that fail for a user without a home": calls(called, r"Path\.home\(|Path\(.*\)\.expanduser\(", ()),
        f"modules of more than {MOST_LINES} lines": [f"{path} {n}" for path, n in lines.items() if n > MOST_LINES],
        f"functions of more than {MOST_LINES_OF_A_FUNCTION} lines": long_functions(trees),
    }


if __name__ == "__main__":
    named = " ".join(sys.argv[1:])
    for what, found in measured().items():
        print(f"{len(found):5}  {what}")
        if named and named in what:
            print(*[f"         {place}" for place in found], sep="\n")
