"""Answers that are done, kept in a SQLite file beside the output until all of them are.

A unit of work is one transaction, so a kill at any moment loses at most the units under way. The output is then written
in the order of the prompts and renamed in one step.
"""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError

SUFFIX = ".partial"


def journal_path(out: Path) -> Path:
    return out.with_name(out.name + SUFFIX)


def remove_journal(out: Path) -> None:
    """Delete the journal of a finished output, and the file that SQLite leaves beside it when it is killed."""
    path = journal_path(out)
    for left in (path, path.with_name(path.name + "-journal")):
        left.unlink(missing_ok=True)


class Journal:
    """Answers by number (the prompt's place, 0-based) for one output file and one set of settings.

    A number whose record is None was asked but is left out of the output. Raises UserError for a journal that was begun
    with other settings, or that another process is writing.
    """

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.out = out
        self.path = journal_path(out)
        self.opened = False
        try:
            self.database = sqlite3.connect(self.path, isolation_level=None, timeout=0.2, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise UserError(f"{self.path} cannot be written ({error}); choose another --out") from None
        try:
            self._open(settings)
        except sqlite3.OperationalError as error:
            raise UserError(f"{self.path} cannot be written ({error}); does another process answer into it?") from None
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path} is damaged ({error}); remove it to start over") from None
        finally:
            if not self.opened:
                self.database.close()

    def _open(self, settings: dict[str, Any]) -> None:
        self.database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.database.execute("BEGIN EXCLUSIVE")
        self.database.execute("CREATE TABLE IF NOT EXISTS settings (value TEXT)")
        columns = "number INTEGER PRIMARY KEY, record TEXT, figures TEXT"
        self.database.execute(f"CREATE TABLE IF NOT EXISTS answers ({columns})")
        self._check_settings(settings)
        self.database.execute("COMMIT")
        self.opened = True

    def _check_settings(self, settings: dict[str, Any]) -> None:
        kept = self.database.execute("SELECT value FROM settings").fetchone()
        if kept is None or self.database.execute("SELECT 1 FROM answers LIMIT 1").fetchone() is None:
            self.database.execute("DELETE FROM settings")
            self.database.execute("INSERT INTO settings VALUES (?)", (json.dumps(settings),))
            return
        check_same_settings(json.loads(kept[0]), settings, self.path)

    def done(self) -> set[int]:
        return {number for (number,) in self.database.execute("SELECT number FROM answers")}

    def add(self, answers: Iterable[tuple[int, dict[str, Any] | None, dict[str, int]]]) -> None:
        """Keep a unit of (number, record, figures), all of it or, when killed, none."""
        encoded = [
            (number, None if record is None else json.dumps(record, ensure_ascii=False), json.dumps(figures))
            for number, record, figures in answers
        ]
        try:
            self.database.execute("BEGIN")
            self.database.executemany("INSERT INTO answers VALUES (?, ?, ?)", encoded)
            self.database.execute("COMMIT")
        except sqlite3.DatabaseError as error:  # a full disk, most often
            raise UserError(
                f"{self.path} cannot be written ({error}); make room and run the same command again"
            ) from None

    def totals(self) -> dict[str, int]:
        """Sums of the figures over all answers."""
        sums: dict[str, int] = {}
        for (figures,) in self.database.execute("SELECT figures FROM answers"):
            for name, value in json.loads(figures).items():
                sums[name] = sums.get(name, 0) + value
        return sums

    def records(self) -> Iterator[str]:
        """JSON of the records in the order of their prompts."""
        query = "SELECT record FROM answers WHERE record IS NOT NULL ORDER BY number"
        for (record,) in self.database.execute(query):
            yield record

    def write_output(self, path: Path) -> None:
        """All records into `path`, brought to the disk; gzipped without a date where the output's name ends in .gz."""
        with path.open("wb") as file:
            packed = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if self.out.suffix == ".gz" else file
            for record in self.records():
                packed.write(record.encode("utf-8") + b"\n")
            if packed is not file:
                packed.close()
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        self.database.close()

    def remove(self) -> None:
        self.close()
        remove_journal(self.out)


def check_same_settings(kept: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raise UserError that names the first setting in which `now` differs from what the work was begun with."""
    now = json.loads(json.dumps(now))
    for name in {**kept, **now}:
        if kept.get(name) != now.get(name):
            raise UserError(
                f"{path} holds answers made with another {name.replace('_', ' ')} ({kept.get(name)}, now "
                f"{now.get(name)}); give the same settings, choose another --out, or remove the file to start over"
            )
