"""The sandbox's folder: what every service and every detached worker shares.

    DIR/address.json       {"url", "port", "pid"} of the running server
    DIR/credentials.json   what the clients log in with (mode 0600)
    DIR/state.db           documents of all services, the faults, and what outlives a reset (secrets, the port)
    DIR/als, DIR/nersc …   the disks of the facilities

Services keep their state here and nowhere else, so that killing the server or a worker at any moment loses nothing.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.fault_kinds import problem_of

Doc = dict[str, Any]


class Box:
    """One sandbox folder. Cheap to make; open one per process (and thread)."""

    def __init__(self, directory: Path | str) -> None:
        self.dir = Path(directory).resolve()
        self.dir.mkdir(parents=True, exist_ok=True)
        with self._connect() as db:
            db.execute("pragma journal_mode=wal")
            db.execute(
                "create table if not exists docs(kind text, id text, seq integer, doc text, primary key(kind, id))"
            )
            db.execute("create index if not exists docs_seq on docs(kind, seq)")
            db.execute("create table if not exists faults(id integer primary key, left integer, doc text)")
            db.execute("create table if not exists kept(name text primary key, value text)")

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.dir / "state.db", timeout=30, isolation_level=None)
        db.execute("pragma synchronous=normal")  # a killed process loses nothing; only a power cut could
        try:
            yield db
        finally:
            db.close()

    @contextmanager
    def transaction(self) -> Iterator[Documents]:
        """Read and write documents as one atomic step (BEGIN IMMEDIATE)."""
        with self._connect() as db:
            db.execute("begin immediate")
            try:
                yield Documents(db)
            except BaseException:
                db.execute("rollback")
                raise
            db.execute("commit")

    def get(self, kind: str, doc_id: str) -> Doc | None:
        with self._connect() as db:
            return Documents(db).get(kind, doc_id)

    def put(self, kind: str, doc_id: str, doc: Doc) -> None:
        with self.transaction() as docs:
            docs.put(kind, doc_id, doc)

    def all(self, kind: str) -> list[Doc]:
        with self._connect() as db:
            return Documents(db).all(kind)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """A JSON-able value that is made once and outlives resets: a secret, the port."""
        with self.transaction() as docs:
            docs.db.execute("insert or ignore into kept(name, value) values(?, ?)", (name, json.dumps(make())))
            row = docs.db.execute("select value from kept where name = ?", (name,)).fetchone()
        return json.loads(row[0])

    def wipe(self) -> None:
        """Forget all documents and faults (a reset); what is kept stays."""
        with self.transaction() as docs:
            docs.db.execute("delete from docs")
            docs.db.execute("delete from faults")

    # faults: data, added by tests or by `als sandbox fault add`

    def add_fault(self, fault: Doc) -> int:
        """fault: {service, route|path, kind, when: before|after, count, delay}; see faults.py for the kinds.

        Raises ValueError for one that no service plays.
        """
        if (problem := problem_of(fault)) is not None:
            raise ValueError(problem)
        with self.transaction() as docs:
            cursor = docs.db.execute(
                "insert into faults(left, doc) values(?, ?)", (int(fault.get("count", 1)), json.dumps(fault))
            )
            return int(cursor.lastrowid or 0)

    def faults(self) -> list[Doc]:
        with self._connect() as db:
            rows = db.execute("select id, left, doc from faults order by id").fetchall()
        return [{**json.loads(doc), "id": i, "left": left} for i, left, doc in rows]

    def clear_faults(self) -> None:
        with self.transaction() as docs:
            docs.db.execute("delete from faults")

    def take_fault(self, matches: Any) -> Doc | None:
        """Use up one count of the first fault for which `matches(fault)` is true, or None. Counts < 0 never end."""
        with self._connect() as db:  # the usual case, without the write lock: there is none
            if not any(matches(json.loads(text)) for (text,) in db.execute("select doc from faults where left != 0")):
                return None
        with self.transaction() as docs:
            for i, left, text in docs.db.execute(
                "select id, left, doc from faults where left != 0 order by id"
            ).fetchall():
                fault: Doc = json.loads(text)
                if matches(fault):
                    if left > 0:
                        docs.db.execute("update faults set left = left - 1 where id = ?", (i,))
                    return {**fault, "id": i}
        return None


class Documents:
    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def get(self, kind: str, doc_id: str) -> Doc | None:
        row = self.db.execute("select doc from docs where kind = ? and id = ?", (kind, doc_id)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, kind: str, doc_id: str, doc: Doc) -> None:
        self.db.execute(
            "insert into docs(kind, id, seq, doc) values(?, ?, ?, ?)"
            " on conflict(kind, id) do update set doc = excluded.doc",
            (kind, doc_id, time.time_ns(), json.dumps(doc)),
        )

    def delete(self, kind: str, doc_id: str) -> None:
        self.db.execute("delete from docs where kind = ? and id = ?", (kind, doc_id))

    def all(self, kind: str) -> list[Doc]:
        """Documents of a kind in the order they were first put."""
        rows = self.db.execute("select doc from docs where kind = ? order by seq, rowid", (kind,)).fetchall()
        return [json.loads(row[0]) for row in rows]
