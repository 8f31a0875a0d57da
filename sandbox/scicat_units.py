"""SI values of physical quantities, as the catalogue adds them to metadata: 850 eV becomes 1.36e-16 (kg m^2) / s^2.

The real backend asks mathjs. This knows the units that beamlines write, with the constants and the spelling of
mathjs; any other unit stays as it is, as the backend does it with units that mathjs does not know.
"""

from __future__ import annotations

import math
import re

Dimensions = tuple[int, ...]  # powers of kg, m, s, A, K, cd, mol, rad, b

BASE = ("kg", "m", "s", "A", "K", "cd", "mol", "rad", "b")
NONE: Dimensions = (0,) * len(BASE)
PREFIXES = {
    "": 1.0, "da": 1e1, "h": 1e2, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "d": 1e-1, "c": 1e-2, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15, "a": 1e-18,
}  # fmt: skip


def _of(**powers: int) -> Dimensions:
    return tuple(powers.get(name, 0) for name in BASE)


ENERGY = _of(kg=1, m=2, s=-2)
PREFIXED: dict[str, tuple[float, Dimensions]] = {
    "m": (1.0, _of(m=1)),
    "g": (1e-3, _of(kg=1)),
    "s": (1.0, _of(s=1)),
    "A": (1.0, _of(A=1)),
    "K": (1.0, _of(K=1)),
    "cd": (1.0, _of(cd=1)),
    "mol": (1.0, _of(mol=1)),
    "rad": (1.0, _of(rad=1)),
    "b": (1.0, _of(b=1)),
    "B": (8.0, _of(b=1)),
    "eV": (1.602176565e-19, ENERGY),
    "J": (1.0, ENERGY),
    "Hz": (1.0, _of(s=-1)),
    "N": (1.0, _of(kg=1, m=1, s=-2)),
    "Pa": (1.0, _of(kg=1, m=-1, s=-2)),
    "bar": (1e5, _of(kg=1, m=-1, s=-2)),
    "W": (1.0, _of(kg=1, m=2, s=-3)),
    "V": (1.0, _of(kg=1, m=2, s=-3, A=-1)),
    "C": (1.0, _of(s=1, A=1)),
    "T": (1.0, _of(kg=1, s=-2, A=-1)),
    "ohm": (1.0, _of(kg=1, m=2, s=-3, A=-2)),
    "L": (1e-3, _of(m=3)),
    "l": (1e-3, _of(m=3)),
}
PLAIN: dict[str, tuple[float, Dimensions]] = {
    "meter": (1.0, _of(m=1)),
    "angstrom": (1e-10, _of(m=1)),
    "micron": (1e-6, _of(m=1)),
    "inch": (0.0254, _of(m=1)),
    "second": (1.0, _of(s=1)),
    "seconds": (1.0, _of(s=1)),
    "min": (60.0, _of(s=1)),
    "minute": (60.0, _of(s=1)),
    "minutes": (60.0, _of(s=1)),
    "h": (3600.0, _of(s=1)),
    "hour": (3600.0, _of(s=1)),
    "hours": (3600.0, _of(s=1)),
    "day": (86400.0, _of(s=1)),
    "days": (86400.0, _of(s=1)),
    "deg": (math.pi / 180, _of(rad=1)),
    "degree": (math.pi / 180, _of(rad=1)),
    "degrees": (math.pi / 180, _of(rad=1)),
    "kelvin": (1.0, _of(K=1)),
    "torr": (133.322, _of(kg=1, m=-1, s=-2)),
    "atm": (101325.0, _of(kg=1, m=-1, s=-2)),
}
CELSIUS = {"degC", "celsius"}

_FACTOR = re.compile(r"\s*([*/]?)\s*(?:(\d+(?:\.\d+)?)|([A-Za-z]+)(?:\s*\^\s*(-?\d+))?)")


def to_si(value: float, unit: str) -> tuple[float, str]:
    """(value, unit) in SI base units; unchanged when the unit is not known."""
    if unit in CELSIUS:
        return value + 273.15, "K"
    parsed = _parse(unit)
    if parsed is None:
        return value, unit
    factor, dimensions = parsed
    return value * factor, _spell(dimensions)


def _parse(text: str) -> tuple[float, Dimensions] | None:
    """The factor and dimensions of "1/angstrom", "keV", "kg m^2 / s^2"; every "/" divides by one unit."""
    factor, powers, at = 1.0, list(NONE), 0
    while at < len(text.rstrip()):
        match = _FACTOR.match(text, at)
        if match is None or match.end() == at:
            return None
        operator, number, name, power = match.groups()
        sign = -1 if operator == "/" else 1
        if number is not None:
            factor *= float(number) ** sign
        else:
            known = _unit(name)
            if known is None:
                return None
            exponent = sign * int(power or 1)
            factor *= known[0] ** exponent
            powers = [p + exponent * q for p, q in zip(powers, known[1], strict=True)]
        at = match.end()
    return (factor, tuple(powers)) if at else None


def _unit(name: str) -> tuple[float, Dimensions] | None:
    if name in PLAIN:
        return PLAIN[name]
    for prefix, scale in PREFIXES.items():
        rest = name[len(prefix) :]
        if name.startswith(prefix) and rest in PREFIXED:
            factor, dimensions = PREFIXED[rest]
            return scale * factor, dimensions
    return None


def _spell(dimensions: Dimensions) -> str:
    """As mathjs prints it: "(kg m^2) / s^2", "m^-1", "m / s"."""
    above = [(name, p) for name, p in zip(BASE, dimensions, strict=True) if p > 0]
    below = [(name, p) for name, p in zip(BASE, dimensions, strict=True) if p < 0]
    if not above:
        return " ".join(f"{name}^{p}" for name, p in below)
    top = " ".join(name if p == 1 else f"{name}^{p}" for name, p in above)
    if not below:
        return top
    bottom = " ".join(name if p == -1 else f"{name}^{-p}" for name, p in below)
    top = f"({top})" if len(above) > 1 else top
    return f"{top} / ({bottom})" if len(below) > 1 else f"{top} / {bottom}"


def with_si(metadata: object) -> object:
    """Scientific metadata with valueSI and unitSI beside every numeric value that has a unit, at any depth."""
    if isinstance(metadata, str):  # a recorded oddity: text becomes a map of its characters
        return {str(i): c for i, c in enumerate(metadata)}
    if not isinstance(metadata, dict):
        return metadata
    out: dict[str, object] = {}
    for key, entry in metadata.items():
        out[key] = entry
        if isinstance(entry, dict):
            value, unit = entry.get("value"), entry.get("unit")
            if isinstance(value, int | float) and not isinstance(value, bool) and isinstance(unit, str) and unit:
                value_si, unit_si = to_si(value, unit)
                out[key] = {**entry, "valueSI": value_si, "unitSI": unit_si}
            elif "unit" not in entry:
                out[key] = with_si(entry)
    return out
