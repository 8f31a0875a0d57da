"""Samples, proposals and instruments of the catalogue: as much as the accounts are asked about."""

from __future__ import annotations

import uuid
from typing import Any

from sandbox import scicat_validation as rules
from sandbox.box import Box
from sandbox.scicat_datasets import FORBIDDEN, NOBODY, Account, HttpError, nest, now

Doc = dict[str, Any]
KEYS = {"samples": "sampleId", "proposals": "proposalId", "instruments": "pid"}
TABLES = {"samples": rules.SAMPLE, "proposals": rules.PROPOSAL, "instruments": rules.INSTRUMENT}
WRITERS = {"proposals": {"admin", "proposalingestor"}, "instruments": {"admin"}}


class Records:
    def __init__(self, box: Box) -> None:
        self.box = box

    def all(self, account: Account, kind: str) -> list[Doc]:
        return [doc for doc in self.box.all(f"scicat_{kind.lower()}") if self._reads(account, kind.lower(), doc)]

    def get(self, account: Account, kind: str, key: str) -> Doc:
        doc = self.box.get(f"scicat_{kind.lower()}", key)
        if doc is None:
            raise nest(404, f"{kind.lower().removesuffix('s').capitalize()}: {key} not found")
        if not self._reads(account, kind.lower(), doc):
            raise nest(403, "Unauthorized access")
        return doc

    def add(self, account: Account, kind: str, body: Doc) -> Doc:
        self._guard(account, kind)
        wrong = rules.sentences(body, TABLES[kind])
        if wrong:
            raise nest(400, wrong)
        if kind == "samples" and not account.owns(body) and "ingestor" not in account.groups:
            raise nest(403, "Unauthorized to create this sample")
        key = str(body.get(KEYS[kind]) or uuid.uuid4())
        made = {"createdBy": account.username, "updatedBy": account.username, "createdAt": now(), "updatedAt": now()}
        owned = {} if kind == "instruments" else {"accessGroups": [], "isPublished": False}
        doc = {**owned, **body, KEYS[kind]: key, **made, "_id": str(uuid.uuid4()), "__v": 0}
        with self.box.transaction() as docs:
            if docs.get(f"scicat_{kind}", key):
                raise HttpError(500, "Internal server error")
            docs.put(f"scicat_{kind}", key, doc)
        return doc

    def patch(self, account: Account, kind: str, key: str, body: Doc) -> Doc:
        self._guard(account, kind)
        wrong = rules.sentences(body, TABLES[kind], partial=True)
        if wrong:
            raise nest(400, wrong)
        doc = self.get(account, kind, key)
        if kind == "samples" and not account.owns(doc):
            raise nest(403, "Unauthorized to update this sample")
        doc = {**doc, **body, "updatedBy": account.username, "updatedAt": now()}
        self.box.put(f"scicat_{kind}", key, doc)
        return doc

    @staticmethod
    def _guard(account: Account, kind: str) -> None:
        if account is NOBODY or (kind in WRITERS and not WRITERS[kind] & set(account.groups)):
            raise FORBIDDEN

    @staticmethod
    def _reads(account: Account, kind: str, doc: Doc) -> bool:
        return account is not NOBODY if kind == "instruments" else account.reads(doc)
