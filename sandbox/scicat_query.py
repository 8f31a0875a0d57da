"""Searching datasets as the catalogue does: the loopback `filter` of lists, fullquery, facets, metadata keys.

Traps of the real one that are kept: plain equality turns text that looks like a date into a date, and then matches
nothing; a list has at most 100 entries unless it is asked for more; an unknown relation of fullquery is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sandbox.scicat_units import to_si

Doc = dict[str, Any]
LIMIT = 100
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WORDS_THEN_NUMBERS = re.compile(r"(?:\D*[^\dA-Za-z])?(\d+)(?:[-/, :]+(\d+)){0,2}(?:[ T]\d{1,2}:\d{2}.*)?$")


def looks_like_a_date(text: str) -> bool:
    """Would JavaScript's `new Date(text)` be a date? "ALS-1" and "/a/2026" are; "s1" and "/data/701/s1" are not."""
    match = _WORDS_THEN_NUMBERS.match(text)
    if match:
        return True
    return any(re.match(rf"{month}[a-z]*\.? +\d", text.lower()) for month in MONTHS)


def where(docs: Iterable[Doc], condition: Mapping[str, Any]) -> list[Doc]:
    return [doc for doc in docs if _matches(doc, condition)]


def _matches(doc: Doc, condition: Mapping[str, Any]) -> bool:
    for key, wanted in condition.items():
        if key in ("and", "$and"):
            if not all(_matches(doc, part) for part in wanted):
                return False
        elif key in ("or", "$or"):
            if not any(_matches(doc, part) for part in wanted):
                return False
        elif not _field(values_at(doc, key), wanted):
            return False
    return True


def values_at(doc: Any, path: str) -> list[Any]:
    """All values at a dotted path, those inside arrays as well; keys that hold a dot are found too."""
    if isinstance(doc, list):
        return [value for entry in doc for value in values_at(entry, path)]
    if not isinstance(doc, dict):
        return []
    if path in doc:
        value = doc[path]
        return [value, *value] if isinstance(value, list) else [value]
    found: list[Any] = []
    for at, letter in enumerate(path):
        if letter == "." and path[:at] in doc:
            found += values_at(doc[path[:at]], path[at + 1 :])
    return found


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda value, limit: _ordered(value, limit) and value > limit,
    "gte": lambda value, limit: _ordered(value, limit) and value >= limit,
    "lt": lambda value, limit: _ordered(value, limit) and value < limit,
    "lte": lambda value, limit: _ordered(value, limit) and value <= limit,
    "inq": lambda value, choices: value in choices,
    "in": lambda value, choices: value in choices,
    "eq": lambda value, wanted: bool(value == wanted),
    "like": lambda value, pattern: isinstance(value, str) and re.search(pattern, value, re.I) is not None,
    "regex": lambda value, pattern: isinstance(value, str) and re.search(pattern, value) is not None,
}


def _field(values: list[Any], wanted: Any) -> bool:
    if isinstance(wanted, dict):
        for name, argument in wanted.items():
            operator = name.removeprefix("$")
            if operator in ("ne", "neq"):
                right = argument not in values
            elif operator == "nin":
                right = not any(value in argument for value in values)
            elif operator == "exists":
                right = bool(values) == bool(argument)
            elif operator == "between":
                right = any(_ordered(v, argument[0]) and argument[0] <= v <= argument[1] for v in values)
            elif operator in OPERATORS:
                right = any(OPERATORS[operator](value, argument) for value in values)
            elif operator == "options":
                right = True
            else:
                right = wanted in values
            if not right:
                return False
        return True
    if isinstance(wanted, str) and looks_like_a_date(wanted):
        return False
    if wanted is None:
        return not values or None in values
    return wanted in values


def _ordered(value: Any, limit: Any) -> bool:
    numbers = (int, float)
    return (isinstance(value, numbers) and isinstance(limit, numbers)) or (
        isinstance(value, str) and isinstance(limit, str)
    )


def page(docs: list[Doc], limits: Mapping[str, Any] | None) -> list[Doc]:
    """Order and cut a result: {"skip", "limit", "order": "field:asc"}."""
    limits = limits or {}
    if limits.get("order"):
        field, _, direction = str(limits["order"]).partition(":")

        def key(doc: Doc) -> tuple[bool, Any]:
            values = values_at(doc, field)
            return (bool(values), str(values[0]) if values else "")

        docs = sorted(docs, key=key, reverse=direction.lower() == "desc")
    skip = int(limits.get("skip") or 0)
    return docs[skip : skip + int(limits.get("limit") or LIMIT)]


def full(docs: Iterable[Doc], fields: Mapping[str, Any]) -> list[Doc]:
    """fullquery: free text, scientific conditions, and lists of allowed values for anything else."""
    found = list(docs)
    for key, wanted in fields.items():
        if key == "text":
            words = set(_words(wanted))
            found = [doc for doc in found if words & set(_words(doc))]
        elif key == "scientific":
            found = [doc for doc in found if all(_scientific(doc, one) for one in wanted)]
        elif key == "mode":
            found = where(found, wanted)
        elif key in ("userGroups", "metadataKey"):
            continue
        elif isinstance(wanted, dict) and "begin" in wanted:
            found = [d for d in found if any(wanted["begin"] <= v <= wanted["end"] for v in values_at(d, key))]
        else:
            choices = wanted if isinstance(wanted, list) else [wanted]
            found = [doc for doc in found if any(value in choices for value in values_at(doc, key) if value != [])]
    return found


def _words(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [word for entry in value.values() for word in _words(entry)]
    if isinstance(value, list):
        return [word for entry in value for word in _words(entry)]
    return re.findall(r"\w+", value.lower()) if isinstance(value, str) else []


RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "EQUAL_TO_STRING": lambda value, rhs: bool(value == rhs),
    "EQUAL_TO_NUMERIC": lambda value, rhs: bool(value == rhs),
    "EQUAL_TO": lambda value, rhs: bool(value == rhs),
    "GREATER_THAN": OPERATORS["gt"],
    "GREATER_THAN_OR_EQUAL": OPERATORS["gte"],
    "LESS_THAN": OPERATORS["lt"],
    "LESS_THAN_OR_EQUAL": OPERATORS["lte"],
    "RANGE": lambda value, rhs: _ordered(value, rhs[0]) and rhs[0] < value < rhs[1],
}


def _scientific(doc: Doc, condition: Mapping[str, Any]) -> bool:
    relation = RELATIONS.get(str(condition.get("relation")))
    if relation is None:
        return True
    rhs, unit, lhs = condition.get("rhs"), condition.get("unit"), str(condition.get("lhs"))
    entries = values_at(doc.get("scientificMetadata"), lhs)
    if unit and condition.get("relation") != "EQUAL_TO_STRING":
        limits = [to_si(float(one), unit) for one in (rhs if isinstance(rhs, list) else [rhs])]
        rhs_si = [value for value, _ in limits] if isinstance(rhs, list) else limits[0][0]
        return any(
            isinstance(e, dict) and e.get("unitSI") == limits[0][1] and relation(e.get("valueSI"), rhs_si)
            for e in entries
        )
    return any(relation(e.get("value") if isinstance(e, dict) else e, rhs) for e in entries)


def facets(docs: list[Doc], names: list[str]) -> list[Doc]:
    """Counts of the values of each named field, and of all: one document in a list."""
    out: Doc = {}
    for name in names:
        counts: dict[str, tuple[Any, int]] = {}
        for doc in docs:
            for value in _facet_values(doc, name):
                counts[repr(value)] = (value, counts.get(repr(value), (None, 0))[1] + 1)
        ordered = sorted(counts.values(), key=lambda c: (c[0] is not None, str(c[0])), reverse=True)
        out[name] = [{"_id": value, "count": count} for value, count in ordered]
    out["all"] = [{"totalSets": len(docs)}] if docs else []
    return [out]


def _facet_values(doc: Doc, name: str) -> list[Any]:
    values = values_at(doc, name)
    if name in ("creationTime", "endTime", "startTime") and values:
        year, month, day = str(values[0])[:10].split("-")
        return [{"year": int(year), "month": int(month), "day": int(day)}]
    if not values:
        return [None]
    return values[1:] if isinstance(values[0], list) else values


def metadata_keys(docs: Iterable[Doc]) -> list[str]:
    """The dotted names of all metadata, each once, in the order in which they were first seen."""
    keys: dict[str, None] = {}

    def flatten(entry: Mapping[str, Any], path: str) -> None:
        for key, value in entry.items():
            name = f"{path}.{key}" if path else key
            if isinstance(value, dict) and "unit" not in value and "u" not in value:
                flatten(value, name)
            else:
                keys[name] = None

    for doc in docs:
        if isinstance(doc.get("scientificMetadata"), dict):
            flatten(doc["scientificMetadata"], "")
    return list(keys)
