"""A page for people about one dataset, where the links in Dagster's pages lead: /scicat/datasets/{pid}."""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Route

from sandbox.box import Box

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h1{font-size:1.3rem}h2{font-size:1.05rem;margin-top:2rem}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.2rem .6rem;border-bottom:1px solid #ddd;vertical-align:top;overflow-wrap:anywhere}"
    "th{width:14rem;font-weight:500;color:#555}img{max-width:100%;border:1px solid #ddd}.pid{color:#777}"
)
SHOWN = (
    "type", "creationTime", "creationLocation", "owner", "contactEmail", "principalInvestigator", "ownerGroup",
    "accessGroups", "proposalIds", "keywords", "sourceFolder", "size", "numberOfFiles", "usedSoftware",
    "jobParameters", "description", "comment",
)  # fmt: skip


def pages(box: Box) -> list[BaseRoute]:
    """Routes below /scicat, beside the interface at /scicat/api."""

    def one(request: Request) -> HTMLResponse:
        return dataset(box, request.path_params["pid"])

    def every(request: Request) -> HTMLResponse:
        rows = [(_link(doc["pid"]), escape(str(doc.get("datasetName", "")))) for doc in box.all("scicat_dataset")]
        return _page("Datasets", _table(rows))

    return [Route("/datasets/{pid:path}", one), Route("/datasets", every)]


def dataset(box: Box, pid: str) -> HTMLResponse:
    doc = box.get("scicat_dataset", pid)
    if doc is None:
        return _page("No such dataset", f"<p>{escape(pid)}</p>", status=404)
    doc = {**doc, "principalInvestigator": ", ".join(doc.get("principalInvestigators", []))}
    facts = [(escape(name), _value(doc[name])) for name in SHOWN if doc.get(name) not in (None, "", [], [None])]
    parts = [f'<p class="pid">{escape(pid)}</p>', _table(facts)]
    if doc.get("inputDatasets"):
        parts += ["<h2>Made from</h2>", *(f"<p>{_link(one)}</p>" for one in doc["inputDatasets"])]
    made = [d["pid"] for d in box.all("scicat_dataset") if pid in d.get("inputDatasets", ())]
    if made:
        parts += ["<h2>Results</h2>", *(f"<p>{_link(one)}</p>" for one in made)]
    for attachment in (box.get("scicat_attachments", pid) or {}).get("items", []):
        caption = escape(attachment.get("caption", ""))
        if str(attachment.get("thumbnail", "")).startswith("data:image/"):
            parts.append(f'<h2>{caption}</h2><img alt="{caption}" src="{escape(attachment["thumbnail"])}">')
    metadata = [(escape(k), _value(v)) for k, v in (doc.get("scientificMetadata") or {}).items()]
    if metadata:
        parts += ["<h2>Metadata</h2>", _table(metadata)]
    blocks = (box.get("scicat_origdatablocks", pid) or {}).get("items", [])
    files = [
        (escape(f["path"]), f"{f['size']} B {escape(f.get('chk', ''))}") for b in blocks for f in b["dataFileList"]
    ]
    if files:
        parts += ["<h2>Files</h2>", _table(files)]
    parts += [
        "<h2>Life cycle</h2>",
        _table([(escape(k), _value(v)) for k, v in doc["datasetlifecycle"].items() if k != "_id"]),
    ]
    return _page(doc.get("datasetName") or pid, "".join(parts))


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    head = f'<!doctype html><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return HTMLResponse(f"{head}<h1>{escape(title)}</h1>{body}", status_code=status)


def _table(rows: list[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows) + "</table>"


def _value(value: Any) -> str:
    if isinstance(value, dict) and "value" in value:
        return escape(f"{value['value']} {value.get('unit', '')}".strip())
    if isinstance(value, list):
        return escape(", ".join(str(one) for one in value))
    return escape(str(value))


def _link(pid: str) -> str:
    return f'<a href="/scicat/datasets/{quote(pid, safe="")}">{escape(pid)}</a>'
