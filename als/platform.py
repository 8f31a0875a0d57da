"""What the verbs share: the specs, the facilities, the ledger, and words for errors."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml
from sqlalchemy import exc

from beamlines.spec import Spec, spec_from_attributes
from resources.errors import FacilityError
from resources.facilities import Facilities, FacilityFileError, load
from resources.ledger import Ledger, WrongLedger
from resources.ledger.location import URL_VARIABLE, ledger_url, sqlite_file, state_dir

PROJECT = Path(__file__).parent.parent
F = TypeVar("F", bound=Callable[..., Any])


def specs() -> dict[str, Spec]:
    """Every beamline, by its id."""
    found = {}
    for path in sorted((PROJECT / "beamlines").glob("*/defs.yaml")):
        spec = spec_from_attributes(yaml.safe_load(path.read_text())["attributes"])
        found[spec.id] = spec
    return found


def spec_of(beamline: str) -> Spec:
    known = specs()
    if beamline not in known:
        raise click.UsageError(f"there is no beamline {beamline!r}; there are {', '.join(known)}")
    return known[beamline]


def facilities() -> Facilities:
    return load()


def ledger(created: bool = False) -> Ledger:
    """The ledger of this installation. Without `created`, one that is not there is an error and not made."""
    path = sqlite_file()
    if not created and not os.environ.get(URL_VARIABLE) and not path.exists():
        raise click.ClickException(
            f"there is no ledger at {path}. Set ALS_STATE to the folder of the installation (als demo prints it)."
        )
    return Ledger(ledger_url(), facilities=facilities().name)


def durable(spec: Spec, at: Facilities) -> set[str]:
    return {name for name, place in at.file.places.get(spec.id, {}).items() if place.durable}


def readable(word: str) -> None:
    """Raises UsageError for a word of the command line that is not UTF-8: the ledger could not be asked about it."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise click.UsageError(f"{word!a}: the name is not valid UTF-8") from None


def print_json(document: Any) -> None:
    """The one document of `--json`, and nothing else on stdout."""
    json.dump(document, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def one_line(text: str) -> str:
    """What others wrote (a reason, a name) for a terminal: on one line, and no character of it moves the cursor."""
    joined = re.sub(r"\s*[\r\n]+\s*", " ", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def plain_errors(verb: F) -> F:
    """Known errors become one line on stderr and exit status 1; a bug keeps its traceback."""

    @functools.wraps(verb)
    def run(*args: Any, **kwargs: Any) -> Any:
        for value in kwargs.values():
            for word in value if isinstance(value, tuple) else (value,):
                if isinstance(word, str) and not word.isascii():
                    readable(word)
        try:
            return verb(*args, **kwargs)
        except (FacilityFileError, WrongLedger, FacilityError) as error:
            raise click.ClickException(str(error)) from None
        except exc.ArgumentError:
            if os.environ.get(URL_VARIABLE) is None:
                raise
            raise click.ClickException(f"{URL_VARIABLE} is no URL of a database: postgresql+psycopg2://…") from None
        except exc.DatabaseError as error:
            if type(error) not in (exc.DatabaseError, exc.OperationalError):  # the others are bugs
                raise
            where = f"at {URL_VARIABLE}" if os.environ.get(URL_VARIABLE) else f"in {state_dir()}"
            raise click.ClickException(f"the ledger {where} cannot be used: {one_line(str(error.orig))}") from None

    return run  # type: ignore[return-value]
