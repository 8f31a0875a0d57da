"""Attachments of datasets: the pictures that the catalogue shows.

As recorded: PUT of an attachment detaches it from its dataset (its relationships become an empty list), so that it is
neither listed nor shown as the thumbnail any more.
"""

from __future__ import annotations

import uuid
from typing import Any

from sandbox import scicat_validation as rules
from sandbox.box import Box
from sandbox.scicat_datasets import FORBIDDEN, NO_ACCESS, NOBODY, Account, Datasets, nest, now, signed

Doc = dict[str, Any]


class Attachments:
    def __init__(self, box: Box, datasets: Datasets) -> None:
        self.box, self.datasets = box, datasets

    def add(self, account: Account, pid: str, body: Doc) -> Doc:
        if account is NOBODY:
            raise FORBIDDEN
        wrong = rules.sentences(body, rules.NEW_ATTACHMENT)
        if wrong:
            raise nest(400, wrong)
        with self.box.transaction() as docs:
            dataset = docs.get("scicat_dataset", pid)
            if dataset is None:
                raise nest(404, f"dataset: {pid} not found")
            if not account.owns(dataset) and "ingestor" not in account.groups:
                raise NO_ACCESS
            kept = {k: v for k, v in body.items() if k in rules.ATTACHMENT}
            attachment = signed({"accessGroups": [], **kept, "datasetId": pid}, {}, account)
            attachment["id"] = attachment["_id"] = str(uuid.uuid4())
            docs.put("scicat_attachments", pid, {"items": [*self.datasets.held(docs, "attachments", pid), attachment]})
        return attachment

    def put(self, account: Account, pid: str, attachment_id: str, body: Doc) -> Doc | None:
        wrong = rules.sentences(body, rules.ATTACHMENT, partial=True)
        if wrong:
            raise nest(400, wrong)
        taken = self._take(account, pid, attachment_id)
        if taken is None:
            return None
        aid = taken.pop("id")
        del taken["datasetId"]
        detached = {**taken, **body, "relationships": [], "aid": aid, "updatedBy": account.username, "updatedAt": now()}
        self.box.put("scicat_detached", aid, detached)
        return detached

    def delete(self, account: Account, pid: str, attachment_id: str) -> Doc | None:
        return self._take(account, pid, attachment_id)

    def _take(self, account: Account, pid: str, attachment_id: str) -> Doc | None:
        if account is NOBODY:
            raise FORBIDDEN
        with self.box.transaction() as docs:
            if not account.owns(self.datasets.find(pid, account, docs)):
                raise NO_ACCESS
            items = self.datasets.held(docs, "attachments", pid)
            docs.put("scicat_attachments", pid, {"items": [a for a in items if a["id"] != attachment_id]})
        return next((a for a in items if a["id"] == attachment_id), None)

    def thumbnail(self, account: Account, pid: str) -> Doc:
        self.datasets.find(pid, account)
        for attachment in self.datasets.held(self.box, "attachments", pid):
            if attachment.get("thumbnail"):
                return {"thumbnail": attachment["thumbnail"]}
        return {}
