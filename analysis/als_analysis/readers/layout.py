"""A layout: where a raw file keeps its frames, frame time, ROI and metadata. Data, not code.

    {"reader": "hdf5", "frames": "/entry/data/data",
     "frame_time": {"path": "/entry/instrument/detector/frame_time", "unit": "s"} | {"value": 0.1, "unit": "s"},
     "roi": "/roi/labels", "roi_file": "{stem}_roi.h5", "metadata_file": "{stem}_metadata.hdf",
     "metadata": {"photon_energy": {"path": "/…", "unit": "eV"}, …}}

`reader` is "hdf5", "imm" or null (files of an unknown kind: only hashed).
A path may name an attribute: "/entry/data@name".
`{stem}` is the raw file's name without its last suffix. The layouts shipped with this package are `layouts/*.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from als_analysis.failure import BadArguments

SHIPPED = Path(__file__).parent / "layouts"
DEFAULT = "als_7011"
_KNOWN = {
    "schema",
    "name",
    "description",
    "reader",
    "frames",
    "frame_time",
    "roi",
    "roi_file",
    "metadata_file",
    "metadata",
}


@dataclass(frozen=True)
class Field:
    """One number or text: either at `path` in the file, or `value` given by the layout itself; `unit` may be None."""

    path: str | None = None
    value: Any = None
    unit: str | None = None


@dataclass(frozen=True)
class Layout:
    """A checked layout document."""

    name: str
    reader: str | None = "hdf5"
    frames: str = "/entry/data/data"
    frame_time: Field | None = None
    roi: str | None = None
    roi_file: str | None = None
    metadata_file: str | None = None
    metadata: Mapping[str, Field] = field(default_factory=dict)

    def all_fields(self) -> dict[str, Field]:
        """The metadata's fields and the frame time."""
        return dict(self.metadata) | ({"frame_time": self.frame_time} if self.frame_time is not None else {})

    def companion(self, raw: Path, pattern: str | None) -> Path | None:
        """The companion file that `pattern` names for this raw file (it need not exist), or None without a pattern."""
        return raw.with_name(pattern.replace("{stem}", raw.stem)) if pattern else None


def load_layout(spec: str | Path | Mapping[str, Any] | None = None) -> Layout:
    """Load a layout by shipped name, by file, from JSON text, or from a mapping; None gives the 7.0.1.1 layout.

    Raises `BadArguments` that names the layout and the field at fault.
    """
    if spec is None:
        spec = DEFAULT
    if isinstance(spec, Mapping):
        return _parse(spec, str(spec.get("name", "given")))
    text = str(spec)
    if text.lstrip().startswith("{"):
        return _parse(_decode(text, "layout"), "given")
    shipped = SHIPPED / f"{text}.json"
    path = shipped if "/" not in text and shipped.is_file() else Path(text)
    try:
        content = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.json")))
        raise BadArguments(f"{text}: neither a shipped layout ({names}) nor a readable file: {error}") from error
    return _parse(_decode(content, str(path)), path.stem)


def layout_for(raw: Path, spec: str | Path | Mapping[str, Any] | None) -> Layout:
    """The layout that was asked for, or the one that a file's suffix suggests: `.imm` is 8-ID's older format."""
    return load_layout("imm" if spec is None and raw.suffix.lower() == ".imm" else spec)


def _decode(text: str, where: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BadArguments(f"{where}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadArguments(f"{where}: expected a JSON object")
    return document


def _parse(document: Mapping[str, Any], name: str) -> Layout:
    name = str(document.get("name", name))
    unknown = sorted(set(document) - _KNOWN)
    if unknown:
        raise BadArguments(f"layout {name}: unknown field {unknown[0]}")
    reader = document.get("reader", "hdf5")
    if reader not in ("hdf5", "imm", None):
        raise BadArguments(f"layout {name}: field reader: expected hdf5, imm or null, not {reader!r}")
    texts: dict[str, str | None] = {}
    for key in ("frames", "roi", "roi_file", "metadata_file"):
        value = document.get(key)
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise BadArguments(f"layout {name}: field {key}: expected a string")
        if key.endswith("_file") and value is not None and "/" in value:
            raise BadArguments(f"layout {name}: field {key}: a companion lies in the raw file's own directory")
        texts[key] = value
    metadata = document.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise BadArguments(f"layout {name}: field metadata: expected an object")
    time = document.get("frame_time")
    return Layout(
        name=name,
        reader=reader,
        frames=texts["frames"] or "/entry/data/data",
        frame_time=None if time is None else _field(time, name, "frame_time"),
        roi=texts["roi"],
        roi_file=texts["roi_file"],
        metadata_file=texts["metadata_file"],
        metadata={str(key): _field(item, name, f"metadata.{key}") for key, item in metadata.items()},
    )


def _field(item: Any, layout: str, where: str) -> Field:
    if isinstance(item, str):
        item = {"path": item}
    if not isinstance(item, Mapping) or not ({"path", "value"} & set(item)) or set(item) - {"path", "value", "unit"}:
        raise BadArguments(f'layout {layout}: field {where}: expected {{"path" or "value", "unit"}}')
    path, unit = item.get("path"), item.get("unit")
    if not (path is None or isinstance(path, str)) or not (unit is None or isinstance(unit, str)):
        raise BadArguments(f"layout {layout}: field {where}: path and unit are strings")
    return Field(path=path, value=item.get("value"), unit=unit)
