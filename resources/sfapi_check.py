"""The flight check of NERSC: the key, what it may do and until when, the machine, projects, directories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from resources.errors import FacilityError, Refused
from resources.finding import Finding

if TYPE_CHECKING:
    from resources.sfapi import Superfacility


def findings(nersc: Superfacility, accounts: Sequence[str], paths: Sequence[str]) -> list[Finding]:
    """Each thing tried, in the order in which a person would repair them; ends early when nobody can sign in."""
    found: list[Finding] = []

    def tried(what: str, do: Callable[[], str]) -> bool:
        try:
            found.append(Finding(nersc.service, what, True, do()))
        except FacilityError as error:
            found.append(Finding(nersc.service, what, False, error.reason))
        return bool(found[-1].ok)

    if not tried("sign-in", lambda: _sign_in(nersc)):
        return found
    tried("user", lambda: _user(nersc))
    tried("key's end", lambda: _expiry(nersc))
    tried(f"machine {nersc.machine}", lambda: _machine(nersc))
    tried("may submit jobs", lambda: _may_submit(nersc))
    if accounts:
        known: list[str] = []
        if tried("projects", lambda: _projects(nersc, known)):
            for account in accounts:
                ok = account.removesuffix("_g") in known
                says = "the user is a member" if ok else f"not one of the user's projects ({', '.join(known)})"
                found.append(Finding(nersc.service, f"project {account}", ok, says))
    for path in paths:
        tried(f"directory {path}", lambda path=path: f"{len(nersc.ls(path))} entries")  # type: ignore[misc]
    return found


def _sign_in(nersc: Superfacility) -> str:
    nersc.session.sign_in()
    nersc.session.get("account/", doing="say whose key this is")
    return f"with the key that {nersc.key_env} names"


def _user(nersc: Superfacility) -> str:
    name = str(nersc.session.get("account/", doing="say whose key this is").get("name") or "")
    if nersc.user and name != nersc.user:
        raise Refused(nersc.service, f"the key belongs to {name}, the facility file says {nersc.user}")
    return name


def _expiry(nersc: Superfacility) -> str:
    end = nersc.key_ends()
    if end is None:
        return f"the API does not say when it is; {nersc.key_env}_EXPIRES=2026-12-24 would"
    problem = nersc.key_ending(end, datetime.now(UTC))
    if problem is not None:
        raise problem
    return f"{end:%Y-%m-%d %H:%M} UTC"


def _machine(nersc: Superfacility) -> str:
    nersc.available()
    status = nersc.session.get(f"status/{nersc.machine}", doing="say how the machine is")
    says = str(status.get("description") or "active")
    for one in nersc.planned(datetime.now(UTC)):
        end = f" to {one.end:%Y-%m-%d %H:%M}" if one.end else ""
        says += f"; planned: {one.why}, from {one.start:%Y-%m-%d %H:%M}{end} UTC"
    return says


def _may_submit(nersc: Superfacility) -> str:
    nersc.run_command(["true"])
    return "the key is red: it may run commands, and so submit jobs"


def _projects(nersc: Superfacility, known: list[str]) -> str:
    projects = nersc.session.get("account/projects", doing="list projects") or []
    known += [str(p.get("repo_name")) for p in projects]
    return ", ".join(known)
