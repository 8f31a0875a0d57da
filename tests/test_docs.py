"""The documentation names what the code has: fields, variables, verbs, documents."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from als.main import VERBS
from beamlines import spec
from beamlines.spec import Spec

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = ["als", "als_assets", "sensors", "resources", "beamlines"]


def text_of(*paths: str) -> str:
    return "\n".join((ROOT / path).read_text() for path in paths)


def sources() -> str:
    return "\n".join(p.read_text() for d in PLATFORM for e in ("*.py", "*.yaml") for p in (ROOT / d).rglob(e))


def fields(model: type[BaseModel]) -> set[str]:
    """The names of all fields of a spec and of the blocks in it."""
    found = set(model.model_fields)
    for field in model.model_fields.values():
        for part in re.findall(r"beamlines\.spec\.(\w+)", str(field.annotation)):
            inner: Any = getattr(spec, part)
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found |= fields(inner)
    return found


def test_every_field_of_a_beamline_is_explained() -> None:
    named = set(re.findall(r"`([a-z_]+):?`", text_of("docs/add-a-beamline.md")))
    assert fields(Spec) - named == set()
    assert {"companions", "describe_at", "attempts"} <= fields(Spec)  # the blocks were looked into


def test_every_variable_of_the_environment_is_in_operations() -> None:
    used = set(re.findall(r"\bALS_[A-Z_]+[A-Z]\b", sources())) - {"ALS_JOB_REQUEST"}  # the end of a here-document
    explained = text_of("docs/operations.md", "deploy/production.env.example")
    assert {name for name in used if name not in explained} == set()


def test_every_document_is_described() -> None:
    printed = set(re.findall(r'"(als-[a-z]+/\d+)"', "\n".join(p.read_text() for p in (ROOT / "als").glob("*.py"))))
    assert printed and {name for name in printed if name not in text_of("docs/json.md")} == set()


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_is_in_the_readme(verb: str) -> None:
    assert f"als {verb} " in text_of("README.md")


def test_links_between_the_documents_lead_somewhere() -> None:
    dead = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            images_to_come = target.startswith("docs/images/")
            if not target.startswith("http") and not images_to_come and not (page.parent / target).exists():
                dead.append(f"{page.name}: {target}")
    assert dead == []
