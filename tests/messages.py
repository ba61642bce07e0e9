"""The shapes of all error messages of the packages, read off their sources: ``image <path> is <width>x<height>``.

``python tests/messages.py`` prints them by file. ``docs/troubleshooting.md`` has an entry for each (``test_docs.py``).
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("lightbsr", "lightbsr_arch", "lightbsr_compat", "lightbsr_models", "data")
# What is raised, or collected and then raised as InputError; its subclasses, and functions that return one, are found.
_RAISED = {"InputError", "ValueError", "ArgumentTypeError"}
# What says how a value is shown, and not what it is.
_SHOWING = {"get", "getattr", "join", "len", "list", "map", "repr", "sorted", "split", "splitlines", "str", "tuple"}


def _name(node: ast.AST) -> str:
    """The last name of ``a``, ``a.b`` or ``a.b()``; empty for anything else."""
    if isinstance(node, ast.Call):
        return _name(node.func)
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _placeholder(node: ast.AST) -> str:
    """``<path>`` for ``path``, ``self.path`` and ``opt["path"]``; ``<hint>`` for the nearest known name."""
    names = [_name(part) for part in ast.walk(node) if isinstance(part, ast.Call | ast.Name | ast.Attribute)]
    if "nearest" in names:
        return "<hint>"
    keys = [part.slice.value for part in ast.walk(node) if isinstance(part, ast.Subscript) and _is_text(part.slice)]
    known = [name for name in [*keys, _name(node), *names] if name and name not in _SHOWING]
    return f"<{known[0].strip('_').lower() if known else 'value'}>"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _shapes(node: ast.AST) -> list[str]:
    """The texts that an expression can make."""
    if _is_text(node):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        parts = (
            _placeholder(part.value) if isinstance(part, ast.FormattedValue) else part.value for part in node.values
        )
        return ["".join(parts)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [left + right for left in _shapes(node.left) for right in _shapes(node.right)]
    if isinstance(node, ast.IfExp):
        return _shapes(node.body) + _shapes(node.orelse)
    if isinstance(node, ast.List | ast.Tuple):
        return [shape for part in node.elts for shape in _shapes(part)]
    if isinstance(node, ast.ListComp | ast.GeneratorExp):
        return _shapes(node.elt)
    if isinstance(node, ast.Call) and _name(node) == "join":
        return _shapes(node.args[0])
    return []


def _expressions(tree: ast.Module, raised: set[str]) -> Iterator[ast.expr]:
    """The expressions that errors, and lists of findings, are made of."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            of = _name(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            if _name(node) in raised or (_name(node) == "append" and of in ("findings", "self")):
                yield node.args[0]
        elif isinstance(node, ast.Assign | ast.AugAssign) and isinstance(node.value, ast.List | ast.ListComp):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(_name(target) == "findings" for target in targets):
                yield node.value
        elif isinstance(node, ast.FunctionDef) and node.name.endswith("_findings"):
            yield from (part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value)


def _makers(trees: list[ast.Module]) -> set[str]:
    """The error classes, their subclasses, and the functions whose annotation says that they return one."""
    made = set(_RAISED)
    for _ in range(2):  # a subclass of a subclass
        for node in (node for tree in trees for node in ast.walk(tree)):
            if isinstance(node, ast.ClassDef) and made & {_name(base) for base in node.bases}:
                made.add(node.name)
            if isinstance(node, ast.FunctionDef) and node.returns is not None and _name(node.returns) in made:
                made.add(node.name)
    return made


def normalised(shape: str) -> str:
    """A shape without the names of its placeholders, of which several in a row are one."""
    return " ".join(re.sub(r"(<[^<>]*>)+", "<>", shape).split())


def collect(root: Path = ROOT) -> dict[str, list[str]]:
    """The shapes by file, in the order of the lines; those with fewer than two words of their own are left out."""
    paths = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    raised = _makers(trees)
    found = {}
    for path, tree in zip(paths, trees, strict=True):
        expressions = sorted(_expressions(tree, raised), key=lambda node: (node.lineno, node.col_offset))
        shapes = [shape for node in expressions for shape in _shapes(node)]
        found[path.relative_to(root).as_posix()] = [
            shape for shape in shapes if len(re.findall(r"[A-Za-z]{2,}", re.sub(r"<[^<>]*>", " ", shape))) >= 2
        ]
    return {file: shapes for file, shapes in found.items() if shapes}


if __name__ == "__main__":
    for file, shapes in collect().items():
        print(f"\n{file}")
        print("\n".join(f"- `{shape}`" for shape in shapes))
