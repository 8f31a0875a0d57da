"""The sandbox's SciCat against every answer that was recorded from the real backend 4.5.0.

`answers.jsonl` is the record; requests build on each other, so the whole file is replayed once, in order.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import requests

RECORD = Path(__file__).parent.parent / "contracts" / "scicat"
VOLATILE = {
    "_id", "__v", "createdAt", "updatedAt", "access_token", "created", "userId", "dateOfPublishing",
    "archiveRetentionTime", "publishedOn", "history", "time",
}  # fmt: skip
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def masked(value: Any, saved: dict[str, str]) -> Any:
    """What differs from run to run becomes a placeholder; facets (`_id` and `count`) are shown as they are."""
    if isinstance(value, dict):
        if set(value) == {"_id", "count"}:
            return value
        return {k: "<v>" if varies(k, v) else masked(v, saved) for k, v in value.items()}
    if isinstance(value, list):
        return [masked(v, saved) for v in value]
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, str):
        for name, text in saved.items():
            value = value.replace(text, "$" + name)
        if value.startswith("[{"):
            return json.loads(value)
        return UUID.sub("<uuid>", value)
    return value


def varies(key: str, value: Any) -> bool:
    return (
        key in VOLATILE
        or (key == "id" and isinstance(value, str) and len(value) > 20)
        or (key == "dateOfDiskPurging" and value != "2026-06-01T00:00:00.000Z")
    )


def test_the_sandbox_gives_every_answer_that_the_real_backend_gave(sandbox: Any) -> None:
    base = sandbox.url + "/scicat/api"
    people = json.loads((RECORD / "accounts.json").read_text())
    logins = {
        p["username"]: requests.post(
            f"{base}/v3/auth/login", json={"username": p["username"], "password": p["password"]}, timeout=30
        )
        for p in people
    }
    saved: dict[str, str] = {}
    wrong, count = [], 0
    for line in (RECORD / "answers.jsonl").read_text().splitlines():
        case = json.loads(line)
        path = case["path"]
        for name, text in saved.items():
            path = path.replace("$" + name, text)
        headers = dict(case["headers"])
        if case["user"]:
            known = logins.get(case["user"])
            headers["Authorization"] = "Bearer " + (known.json()["id"] if known else "junk")
        answer = requests.request(case["verb"], base + path, json=case["body"], headers=headers, timeout=30)
        try:
            body = answer.json()
        except ValueError:
            body = answer.text or None
        saved |= {name: body[key] for name, key in case["save"].items()}
        expected = masked(case["response"], {})
        if (answer.status_code, masked(body, saved)) != (case["status"], expected):
            wrong.append(f"{case['id']}: {answer.status_code} {json.dumps(body)[:300]}")
        count += 1
    assert not wrong, "\n".join(wrong)
    assert count == 109
