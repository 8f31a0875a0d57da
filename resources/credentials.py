"""Secrets, read where they are kept each time they are needed, so that rotating one needs no restart.

A variable of the environment holds a secret, or it names the file that holds it: as an absolute path, or through a
second variable with `_FILE` behind its name. Such a file belongs to its owner alone (mode 0600).
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

from resources.errors import CredentialProblem

BEFOREHAND = timedelta(days=7)  # so long before its end staff are told
LEAST = timedelta(days=1)


def read(variable: str, service: str, what: str) -> str:
    """The secret that the environment variable holds or names the file of.

    `what` is for people: "the id of the Globus client". Raises CredentialProblem, saying what to set or to change;
    never with the secret in it.
    """
    value = os.environ.get(variable, "").strip()
    path = os.environ.get(f"{variable}_FILE", "").strip()
    if not path and value.startswith("/") and Path(value).is_file():
        path = value
    if path:
        return _from_file(Path(path), variable, service, what)
    if not value:
        raise CredentialProblem(
            service,
            f"{what} is missing: set {variable}, or {variable}_FILE to a file of mode 0600 that holds it",
            "MISSING",
        )
    return value


def ends_soon(end: datetime, made: datetime, now: datetime) -> bool:
    """Is it time to make a new one? A week before the end; for one that lives for less than a month, in the last
    quarter of its life; in any case a day before. Aware times."""
    life = max(end - made, timedelta(0))
    return end - now < min(BEFOREHAND, max(LEAST, life / 4))


def given(variable: str) -> bool:
    """Is it set at all, by itself or by the name of a file?"""
    return any(os.environ.get(name, "").strip() for name in (variable, f"{variable}_FILE"))


def _from_file(path: Path, variable: str, service: str, what: str) -> str:
    try:
        if path.stat().st_mode & 0o077:
            raise CredentialProblem(
                service, f"others can read {what} in {path} ({variable}): run `chmod 600` on it", "MODE"
            )
        value = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialProblem(
            service, f"{what} cannot be read from {path} ({variable}): {error}", "UNREADABLE"
        ) from error
    if not value:
        raise CredentialProblem(service, f"{what}: the file {path} ({variable}) is empty", "EMPTY")
    return value
