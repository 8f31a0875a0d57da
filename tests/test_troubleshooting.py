"""Every message that people can be shown is in docs/troubleshooting.md, and every row there is still a message.

Messages are collected from the source: the string literals and f-strings that reach the exceptions and outcomes whose
words are shown, with `…` for what is filled in. A row covers a message when the words between its `…` are in it, in
their order.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGES = ["als", "als_assets", "sensors", "resources", "beamlines"]
# whose arguments are shown to people: outcomes, what services say, what the command line says, what a person is asked
SHOWN = {
    "NotDone", "Wait", "Unavailable", "Refused", "CredentialProblem", "NotFound", "ClickException", "UsageError",
    "BadParameter", "FacilityFileError", "WrongLedger", "SandboxProblem", "ask_person", "hold_back", "Failure",
    "BadArguments", "RawFileError", "QMapError", "OutputError", "MetadataMissing", "SourceChanged", "HpssUnavailable",
    "NotWhole", "ExistsOtherwise", "HpssRefused", "TryAgain",
}  # fmt: skip
# files of nothing but reasons for people: every sentence in them counts
REASONS = ["resources/slurm_states.py", "resources/globus_tasks.py", *(f"beamlines/policy/{n}.py" for n in (
    "settled", "names", "deletable", "restricted", "due"))]  # fmt: skip
LEAST = 8  # letters that a row has in common with a message: with fewer it would cover too much
# messages without a row, each with the reason; a key is how the message begins
NEEDS_NONE = {
    "launch failed requeued held": "Slurm's name for a reason, by which ours is found",
    "the job …": "a frame: what is filled in has rows",
    "user id …": "a frame within `the job was cancelled by …`",
}


@dataclass(frozen=True)
class Message:
    text: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def text_of(node: ast.expr, names: dict[str, list[str]]) -> list[str]:
    """What an expression can say; [] for what is no text of ours."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values)]  # type: ignore[misc]
    if isinstance(node, ast.IfExp):
        return text_of(node.body, names) + text_of(node.orelse, names)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left, names) or ["…"], text_of(node.right, names) or ["…"]
        return [a + b for a in left for b in right]
    if isinstance(node, ast.BoolOp):
        return [one for value in node.values for one in text_of(value, names)]
    if isinstance(node, ast.Name):
        return names.get(node.id, [])
    return []


def messages_in(file: Path) -> Iterator[Message]:
    tree = ast.parse(file.read_text())
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module)):
        names: dict[str, list[str]] = {}
        for node in ast.walk(function) if not isinstance(function, ast.Module) else function.body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                names.setdefault(node.targets[0].id, []).extend(text_of(node.value, names))
        for node in ast.walk(function):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                given = [*node.args, *(k.value for k in node.keywords)] if called in SHOWN else []
                if called == "NotDone":  # the second says what to do, which needs no page
                    given = given[:1]
                given += [k.value for k in node.keywords if k.arg in ("why", "question", "reason")]
                for argument in given:
                    for text in text_of(argument, names):
                        if is_words(text):
                            yield Message(" ".join(text.split()), f"{file.relative_to(ROOT)}:{node.lineno}")


def is_words(text: str) -> bool:
    """A sentence or a part of one; no code, key or name."""
    return " " in text.strip() and len(re.findall(r"[a-zA-Z]{2,}", text)) >= 2


def reasons_in(file: Path) -> Iterator[Message]:
    """All that is said in a file, but for its docstrings and what only a programmer is told."""
    tree = ast.parse(file.read_text())
    silent = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    silent |= {id(part) for n in ast.walk(tree) if isinstance(n, ast.Raise) for part in ast.walk(n)}
    silent |= {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in silent:
            for text in text_of(node, {}):
                if is_words(text):
                    yield Message(" ".join(text.split()), f"{file.relative_to(ROOT)}:{node.lineno}")


@cache
def messages() -> list[Message]:
    files = [file for part in PACKAGES for file in sorted((ROOT / part).rglob("*.py"))]
    found: dict[str, Message] = {}
    for file in files:
        said = reasons_in(file) if str(file.relative_to(ROOT)) in REASONS else messages_in(file)
        for message in said:
            found.setdefault(message.text, message)
    return list(found.values())


@cache
def fragments() -> list[str]:
    """Everything in backticks on the page that could be a message."""
    return [f for f in re.findall(r"`([^`]+)`", PAGE.read_text()) if pieces(f)]


def pieces(fragment: str) -> list[str]:
    """The words between its dots."""
    parts = [piece.strip(" .:,;()") for piece in " ".join(fragment.split()).split("…")]
    return [part for part in parts if re.search(r"[a-z]", part)]


def covers(fragment: str, message: str) -> bool:
    at = 0
    for piece in pieces(fragment):
        at = message.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True


def test_the_collector_finds_messages_of_every_kind() -> None:
    texts = [message.text for message in messages()]
    for part in ("the scan was not copied", "NERSC does not accept the key", "say why: --why", "met a bug"):
        assert any(part in text for text in texts), part
    assert len(texts) > 200


def test_every_message_has_a_row() -> None:
    rows = [f for f in fragments() if sum(map(len, pieces(f))) >= LEAST]
    lacking = [
        str(m)
        for m in messages()
        if not any(covers(f, m.text) for f in rows) and not m.text.startswith(tuple(NEEDS_NONE))
    ]
    assert not lacking, f"{len(lacking)} messages are not in {PAGE.name}:\n" + "\n".join(lacking)


def test_every_row_is_still_a_message() -> None:
    said = "\0".join(all_words())
    gone = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("|") and not line.startswith(("| message", "|---")):
            for fragment in re.findall(r"`([^`]+)`", line.split("|")[1]):
                words = "[^\0]*?".join(re.escape(piece) for piece in pieces(fragment))
                if not fragment.startswith("(exit") and not re.search(words, said):
                    gone.append(fragment)
    assert not gone, "nothing says this any more:\n" + "\n".join(gone)


@cache
def all_words() -> set[str]:
    """Every text in the source, also that of the programs and of the tests' own messages to people."""
    files = [f for part in (*PACKAGES, "analysis/als_analysis", "scripts", "sandbox") for f in (ROOT / part).rglob("*")]
    out: set[str] = set()
    for file in files:
        if file.suffix == ".py":
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp | ast.IfExp):
                    out |= {" ".join(text.split()) for text in text_of(node, {})}
        elif file.parent.name == "scripts" and file.is_file():
            out.add(file.read_text(errors="replace"))
    return out


def test_every_exit_code_of_the_programs_has_a_row() -> None:
    files = [ROOT / "analysis/als_analysis/failure.py", ROOT / "analysis/als_analysis/hpss/errors.py"]
    codes = {int(c) for file in files for c in re.findall(r"^    exit_code = (\d+)", file.read_text(), re.MULTILINE)}
    assert {3, 69, 70, 73} <= codes
    page = PAGE.read_text()
    assert sorted(code for code in codes if f"(exit {code})" not in page) == []


@pytest.mark.parametrize(
    ("fragment", "message", "covered"),
    [
        ("… has … bytes", "a.h5 at cfs has … bytes, the scan's file has …", True),
        ("… has … bytes", "… bytes are what it has", False),
        ("failed (exit …)", "the job failed: …", False),
    ],
)
def test_a_row_covers_a_message_that_has_its_words_in_their_order(fragment: str, message: str, covered: bool) -> None:
    assert covers(fragment, message) is covered


if __name__ == "__main__":
    for one in messages():
        print(one)
