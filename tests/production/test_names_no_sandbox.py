"""Production code runs unchanged: no module of the platform but the sandbox's own verb and the demo names the sandbox.

Looked for in string literals, identifiers and imports. Prose is free: a docstring or a comment may explain the rule.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ["als", "als_assets", "sensors", "resources", "beamlines"]
MAY = {"als/sandbox.py", "als/demo.py"}
WORD = "sandbox"


def prose(tree: ast.AST) -> set[int]:
    """The ids of the nodes that are docstrings."""
    owners = [
        n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    first = [o.body[0].value for o in owners if o.body and isinstance(o.body[0], ast.Expr)]
    return {id(value) for value in first if isinstance(value, ast.Constant)}


def contents(tree: ast.AST) -> set[int]:
    """The ids of the nodes of als/main.py's table of verbs: it is the list of contents of the command line."""
    tables = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["VERBS"]
    ]
    return {id(inner) for table in tables for inner in ast.walk(table)}


def named(source: str, file: str) -> Iterator[str]:
    tree = ast.parse(source)
    free = prose(tree) | (contents(tree) if file == "als/main.py" else set())
    for node in ast.walk(tree):
        if id(node) in free:
            continue
        if isinstance(node, ast.Constant):
            words = [node.value] if isinstance(node.value, str) else []
        elif isinstance(node, ast.Import | ast.ImportFrom):
            words = [getattr(node, "module", None) or "", *(f"{a.name} {a.asname}" for a in node.names)]
        else:
            fields = ("id", "attr", "arg", "name", "names")
            words = [str(getattr(node, field)) for field in fields if getattr(node, field, None)]
        if any(WORD in word.lower() for word in words):
            yield f"{file}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:80]}"


def test_no_module_but_its_own_verb_and_the_demo_names_the_sandbox() -> None:
    found = []
    for path in (p for package in PACKAGES for p in (ROOT / package).rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        if file not in MAY:
            found += named(path.read_text(), file)
    assert found == []


@pytest.mark.parametrize(
    "code",
    ["import sandbox", "from als import sandbox", "x = sandbox_url", "a.sandbox", "f(sandbox=1)", "x = 'the Sandbox'",
     "f'{x} sandbox'", "def in_sandbox(): pass", "def f(sandbox): pass", "global sandbox", "import x as sandbox"],
)  # fmt: skip
def test_the_look_would_notice(code: str) -> None:
    assert list(named(code, "als/x.py"))


def test_prose_is_free_and_the_table_of_verbs_is_that_of_one_file() -> None:
    assert not list(named('"""The sandbox."""\n# sandbox\nclass A:\n    "sandbox"\n', "als/x.py"))
    assert not list(named("VERBS = {'sandbox': 'x'}", "als/main.py")) and list(
        named("VERBS = {'sandbox': 'x'}", "als/x.py")
    )
