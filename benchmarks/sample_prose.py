"""Samples sentences from the README, docs, help texts and error messages of one checkout, and prints each with the most similar
one of another checkout.

    python benchmarks/sample_prose.py BEFORE AFTER --number 50 --seed 0

BEFORE and AFTER are checkouts of this repository. Their files are parsed, not imported.
"""

import argparse
import ast
import random
import re
from difflib import SequenceMatcher
from pathlib import Path

CALLS = {"setting": "help", "again": "help", "Problem": "errors", "InputError": "errors", "ResourceError": "errors"}


def sentences(text: str) -> list[str]:
    """The sentences of running text, without code blocks, tables, images and markup."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not re.match(r"\s*([|#!]|-{3,}|    )", line)]
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*- )", "\n".join(lines))
    found = []
    for paragraph in paragraphs:
        plain = re.sub(r"[*]{2}", "", " ".join(paragraph.split())).removeprefix("- ")
        found += re.split(r"(?<=[.?!])\s+(?=[A-Z`(])", plain)
    return [sentence for sentence in found if len(sentence.split()) >= 5]


def literal(node: ast.AST) -> str:
    """A string, or an f-string with its values as {...}; empty for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) or "{...}" for part in node.values)
    return ""


def in_code(path: Path) -> dict[str, list[str]]:
    """Help texts, error messages and docstrings of a module."""
    found: dict[str, list[str]] = {"help": [], "errors": [], "docstrings": []}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            words = [*node.args, *(each.value for each in node.keywords if each.arg == "description")]
            found[CALLS[node.func.id]] += [text for each in words if len((text := literal(each)).split()) >= 4]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            found["docstrings"] += sentences(text)
    return found


def prose(checkout: Path) -> dict[str, list[str]]:
    """All sentences of a checkout, by kind."""
    found = {"README": sentences((checkout / "README.md").read_text(encoding="utf-8")), "docs": [], "help": [], "errors": []}
    found["docstrings"] = []
    for path in sorted((checkout / "docs").glob("*.md")):
        found["docs"] += sentences(path.read_text(encoding="utf-8"))
    for path in sorted((checkout / "customize").rglob("*.py")):
        for kind, texts in in_code(path).items():
            found[kind] += texts
    return {kind: list(dict.fromkeys(texts)) for kind, texts in found.items()}


def main() -> None:
    """Prints the pairs, and marks equal ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--number", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    before, after = prose(arguments.before), prose(arguments.after)
    everything = [(kind, text) for kind in ("README", "docs", "help", "errors") for text in before[kind]]
    for number, (kind, text) in enumerate(random.Random(arguments.seed).sample(everything, arguments.number), 1):
        nearest = max(after[kind], key=lambda other, text=text: SequenceMatcher(None, text, other, autojunk=False).ratio())
        print(f"{number:2} {kind}\n   before: {text}\n   after:  {'(the same)' if nearest == text else nearest}")


if __name__ == "__main__":
    main()
