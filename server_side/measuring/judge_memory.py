"""What a judge has said, kept in a file, so that nobody is asked, or paid, for the same twice.

Answers are filed under the judge's identity and the whole question, both answers in their order, as
a digest; no text is kept. They are on the disk before the next questions are asked, so that a judge
that fails halfway, or a process that is killed, costs what was under way and no more.

Does not cover: a question that got no usable answer, which is asked again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path

from protocol.errors import StageError
from server_side.measuring.win_rate import Choice, Judge, Question


class RememberingJudge:
    """A judge that is asked only what it was not asked before.

    Args:
        judge: Whom to ask.
        path: The file, an SQLite database; created with the first answer.
    """

    def __init__(self, judge: Judge, *, path: Path) -> None:
        """Keep both; nothing is opened before the first question."""
        self._judge = judge
        self._path = path

    @property
    def name(self) -> str:
        """How the judge is called in metrics and report."""
        return self._judge.name

    @property
    def identity(self) -> str:
        """All that decides what it says."""
        return self._judge.identity

    def choose(self, questions: Sequence[Question]) -> list[Choice | None]:
        """Say for each question which answer is better; None where no usable answer came.

        Args:
            questions: What to ask.

        Returns:
            What the judge says now or said before, in the same order.

        Raises:
            StageError: The file is none that this class writes, or the disk refuses.
        """
        keyed = {self._key(question): question for question in questions}
        with self._open() as said:
            found = {key: choice for key in keyed if (choice := _find(said, key))}
        new = {key: question for key, question in keyed.items() if key not in found}
        if new:
            answers = self._judge.choose(list(new.values()))
            fresh = {key: said for key, said in zip(new, answers, strict=True) if said}
            with self._open() as said:
                said.executemany("INSERT OR REPLACE INTO said VALUES (?, ?)", fresh.items())
                said.commit()
            found |= fresh
        return [found.get(self._key(question)) for question in questions]

    def _key(self, question: Question) -> str:
        stated = json.dumps([self._judge.identity, *astuple(question)])
        return hashlib.sha256(stated.encode()).hexdigest()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path)) as connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS said (question TEXT PRIMARY KEY, choice TEXT)"
                )
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise StageError(
                f"Expected {self._path} to be a file in which a judge's answers can be kept, found "
                f"that it is not: {error}. Name another, or make room on the disk."
            ) from error


def _find(said: sqlite3.Connection, key: str) -> Choice | None:
    row = said.execute("SELECT choice FROM said WHERE question = ?", (key,)).fetchone()
    return Choice(row[0]) if row else None
