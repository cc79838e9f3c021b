"""Judge code that a model wrote by running the tests of a row on it.

A candidate runs in the sandbox (`server_side/sandbox/running.py`), one process for each. A test is
an `assert`. Where it compares with a literal, as in `assert add(1, 2) == 3`, only `add(1, 2)` goes
into the candidate's process, plain data comes out, and the comparison is made here. So an exit
status, a print, an object that equals everything, and tampering with `assert`, builtins or this
project's own lines there give no pass: a candidate would have to say the very values, and those are
never told to it.

Does not cover: a test of any other form (several statements; a call without comparison; a literal
on neither side) is decided within the candidate's process, as is usual, and a candidate that aims
at it can feign a pass. So it is with all of a set in the manner of HumanEval, whose tests are one
`check(candidate)`. Values that are no plain data equal no literal. Under 2 in 100 tests of the
published code records are of another form.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from lm.errors import TableError
from lm.tables import TextRow
from server_side.config import EvaluationConfig
from server_side.measuring.pass_rates import PassCount
from server_side.samples import OnProgress
from server_side.sandbox import code_answers
from server_side.sandbox.running import Ending, SandboxLimits, run_confined

_LOGGER = logging.getLogger(__name__)

_FENCE: Final = re.compile(
    r"^([ \t]*)```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE
)
_PYTHON: Final = ("", "python", "python3", "py")
_WALL_SECONDS_PER_CPU_SECOND: Final = 4.0
_UNREADABLE = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)


class Verdict(StrEnum):
    """What became of a candidate."""

    PASSED = "passed"
    """Every test held."""
    WRONG = "wrong"
    """It answered each test, and one answer at least is not the expected one."""
    FAILED = "failed"
    """It is no Python, or a test raised, or the process ended before all were answered."""
    TIMED_OUT = "timed_out"
    """Killed for its time."""
    TALKED_TOO_MUCH = "talked_too_much"
    """Killed for the size of its answers."""
    WROTE_TOO_MUCH = "wrote_too_much"
    """Killed for the size of its files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One question to a candidate, and the answer that is expected."""

    question: str
    """What the candidate's process evaluates, or runs."""
    expected: object
    """Plain data; never told to that process."""
    is_statement: bool = False
    """Whether the question is to be run; True is the answer then, where it ends without error."""
    is_identity: bool = False
    """Whether the answer must be of the same type as well: `is None`, `is True`."""

    def holds_for(self, value: object) -> bool:
        """Return whether the answer is the expected one."""
        if self.is_identity and type(value) is not type(self.expected):
            return False
        try:
            return bool(value == self.expected)
        except RecursionError:
            return False


class _Other:
    """A value that is no plain data: equal to nothing."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return False


def check_tests(rows: Sequence[TextRow]) -> None:
    """Make sure that every row has tests, and that they are Python.

    Raises:
        TableError: A row has none, or a test does not compile; the message names the row's place
            among the usable rows, from 1.
    """
    for number, row in enumerate(rows, start=1):
        try:
            checks = [check for test in row.tests for check in parse_checks(test)]
            found = "" if checks else "no statement"
        except _UNREADABLE:
            found = "a text that is no Python"
        if found:
            raise TableError(
                "Expected Python with at least one statement in evaluation.tests_column of every "
                f"row, found {found} in row {number}. Correct or delete that row."
            )


def parse_checks(test: str) -> tuple[Check, ...]:
    """Take a test apart into questions and expected answers.

    Args:
        test: Python. Statements of any other form, as those that prepare a value, must end
            without an error; what they name is there for the tests after them.

    Returns:
        The checks that must all hold; none for a comment.

    Raises:
        SyntaxError: It is no Python.

    >>> parse_checks("assert add(1, 2) == 3")
    (Check(question='add(1, 2)', expected=3, is_statement=False, is_identity=False),)
    """
    match ast.parse(test).body:
        case []:
            return ()
        case [ast.Assert(test=condition)]:
            conditions = _conjuncts(condition)
            checks = [_compared(part) for part in conditions]
            if any(checks):
                return tuple(
                    check or _statement(f"assert {ast.unparse(part)}")
                    for check, part in zip(checks, conditions, strict=True)
                )
    return (_statement(test),)


def extract_code(response: str) -> str:
    r"""Return the Python in a response: its first block fenced as such, or all where there is none.

    >>> extract_code("Like this:\n```python\nx = 1\n```\nDone.")
    'x = 1\n'
    """
    for margin, language, block in _FENCE.findall(response):
        if language.lower() in _PYTHON:
            return textwrap.dedent(block) if margin else block  # set in as part of a list
    return response


def judge_candidate(code: str, tests: Sequence[str], *, limits: SandboxLimits) -> Verdict:
    """Run a candidate's tests in the sandbox.

    Args:
        code: Python that nobody has read.
        tests: Python with asserts, at least one.
        limits: What the candidate may use for all of them.

    Returns:
        What became of it.

    Raises:
        ConfigurationError: This machine cannot confine a program.
        StageError: It could not do so this time.
    """
    checks = [check for test in tests for check in parse_checks(test)]
    questions = [(check.question, check.is_statement) for check in checks]
    harness = Path(code_answers.__file__).read_text(encoding="utf-8")
    run = run_confined(f"{harness}\nanswer({code!r}, {questions!r})\n", limits=limits)
    match run.ending:
        case Ending.TIMED_OUT:
            return Verdict.TIMED_OUT
        case Ending.TALKED_TOO_MUCH:
            return Verdict.TALKED_TOO_MUCH
        case Ending.WROTE_TOO_MUCH:
            return Verdict.WROTE_TOO_MUCH
        case Ending.FAILED:
            return Verdict.FAILED
    values = _decode_all(run.output)
    if len(values) != len(checks):
        return Verdict.FAILED
    holds = all(check.holds_for(value) for check, value in zip(checks, values, strict=True))
    return Verdict.PASSED if holds else Verdict.WRONG


def count_passing(
    rows: Sequence[TextRow],
    answers: Sequence[Sequence[str]],
    *,
    config: EvaluationConfig,
    on_progress: OnProgress | None = None,
) -> tuple[PassCount, ...]:
    """Run every answer to every row against the row's tests, as many at a time as there are cores.

    Args:
        rows: Test rows with tests.
        answers: What a model answered to each row.
        config: Limits.
        on_progress: Told how many rows are judged, of how many.

    Returns:
        How many of a row's answers pass all of its tests.

    Raises:
        ConfigurationError: This machine cannot confine a program.
        StageError: It could not do so this time.
    """
    limits = SandboxLimits(
        cpu_seconds=config.execution_seconds,
        wall_seconds=_WALL_SECONDS_PER_CPU_SECOND * config.execution_seconds,
        memory_bytes=config.execution_memory_bytes,
    )
    verdicts: list[list[Verdict]] = [[] for _ in rows]

    def judge(index: int) -> int:
        verdicts[index] = [
            judge_candidate(extract_code(text), rows[index].tests, limits=limits)
            for text in answers[index]
        ]
        return index

    pool = ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)))
    try:
        futures = [pool.submit(judge, index) for index in range(len(rows))]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            if on_progress is not None:
                on_progress(done, len(rows))
    finally:
        pool.shutdown(cancel_futures=True)
    counts = Counter(verdict for row in verdicts for verdict in row)
    listing = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    _LOGGER.info("Candidates by verdict: %s.", listing)
    return tuple(
        PassCount(num_samples=len(row), num_passed=row.count(Verdict.PASSED)) for row in verdicts
    )


def _statement(text: str) -> Check:
    return Check(question=text, expected=True, is_statement=True, is_identity=True)


def _conjuncts(condition: ast.expr) -> list[ast.expr]:
    match condition:
        case ast.BoolOp(op=ast.And(), values=parts):
            return [inner for part in parts for inner in _conjuncts(part)]
    return [condition]


def _compared(condition: ast.expr) -> Check | None:
    """Return the check of a comparison with a literal; None for a condition of another form."""
    match condition:
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is() as operator], comparators=[right]):
            for asked, told in ((left, right), (right, left)):
                try:
                    expected = ast.literal_eval(told)
                except _UNREADABLE:
                    continue
                is_identity = isinstance(operator, ast.Is)
                if is_identity and not (expected is None or isinstance(expected, bool)):
                    return None
                return Check(
                    question=ast.unparse(asked), expected=expected, is_identity=is_identity
                )
    return None


def _decode_all(output: bytes) -> list[object]:
    """Return the values that a candidate's process told; none where they are not well-formed."""
    try:
        told = json.loads(output)
        return [_decode(value) for value in told] if isinstance(told, list) else []
    except (*_UNREADABLE, AttributeError, OverflowError, ZeroDivisionError):
        return []


def _decode(value: Any) -> object:  # a JSON value from a process that may lie
    match value:
        case None | bool() | str():
            return value
        case list():
            return [_decode(item) for item in value]
        case {"int": str(text)}:
            return int(text, 16)
        case {"float": text}:
            return float.fromhex(text)
        case {"complex": [real, imaginary]}:
            return complex(float.fromhex(real), float.fromhex(imaginary))
        case {"bytes": text}:
            return bytes.fromhex(text)
        case {"ratio": [above, below]}:
            return Fraction(int(above, 16), int(below, 16))
        case {"tuple": items}:
            return tuple(_decode(item) for item in items)
        case {"set": items}:
            return frozenset(_decode(item) for item in items)
        case {"dict": pairs}:
            return {_decode(key): _decode(item) for key, item in pairs}
        case {"other": _}:
            return _Other()
    raise ValueError("a value of no known kind")
