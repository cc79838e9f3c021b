"""What becomes of honest, wrong, broken and cheating candidates; all of them are really run."""

import json
import os
import subprocess
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.errors import TableError
from lm.tables import TextRow
from server_side.config import EvaluationConfig
from server_side.measuring.pass_rates import PassCount
from server_side.sandbox import code_tests
from server_side.sandbox.code_answers import encode
from server_side.sandbox.code_tests import (
    Verdict,
    check_tests,
    count_passing,
    extract_code,
    judge_candidate,
    parse_checks,
)
from server_side.sandbox.running import SandboxLimits

LIMITS = SandboxLimits(cpu_seconds=3, wall_seconds=30.0)
TESTS = ("assert double(2) == 4", "assert double('a') == 'aa'", "assert double([1]) == [1, 1]")
REAL = Path(os.environ.get("REWARDDS_DATA", "../shared/data")) / "code" / "test.jsonl"


def _judge(code: str, tests: Sequence[str] = TESTS) -> Verdict:
    return judge_candidate(code, tests, limits=LIMITS)


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("def double(x): return x * 2", Verdict.PASSED),
        ("print('[4, true]')\ndef double(x):\n    print(x)\n    return x * 2", Verdict.PASSED),
        ("def double(x): return 4", Verdict.WRONG),
        ("def double(x): pass", Verdict.WRONG),
        ("", Verdict.FAILED),
        ("def double(x): return x *", Verdict.FAILED),
        ("def double(x): raise AssertionError", Verdict.FAILED),
        ("def double(x): return double(x)", Verdict.FAILED),
        ("import numpy\ndef double(x): return x * 2", Verdict.FAILED),  # standard library only
        ("def double(x):\n    while True: pass", Verdict.TIMED_OUT),
        ("def double(x): return 'a' * 10**6", Verdict.TALKED_TOO_MUCH),
    ],
)
def test_candidate_gets_the_verdict_it_earns(code: str, verdict: Verdict) -> None:
    assert _judge(code) is verdict


@pytest.mark.parametrize(
    "code",
    [
        # The exit status says nothing.
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "import os\ndef double(x): os._exit(0)",
        # Nothing that equals everything leaves the process.
        "class Same:\n    def __eq__(self, other): return True\ndef double(x): return Same()",
        "class Same(list):\n    def __eq__(self, other): return True\ndef double(x): return Same()",
        # A print is lost.
        'print(\'[{"int": "4"}, "aa", [{"int": "1"}, {"int": "1"}]]\')',
        # Errors that are swallowed, and builtins that lie, change no comparison.
        "import builtins\nbuiltins.AssertionError = type('Never', (Exception,), {})\n"
        "def double(x): return None",
        "import builtins\nbuiltins.eval = lambda *a: True\ndef double(x): return None",
        "import sys\nsys.settrace(lambda *a: None)\ndef double(x): return None",
        "import json\njson.dumps = lambda values: '[true, true, true]'\ndef double(x): return None",
        # What the process that asks is made of can be reached, but does not hold the answers.
        "import sys\ndef double(x):\n    frame = sys._getframe(1)\n"
        "    frame.f_back.f_locals['values'].extend([True] * 9)\n    return True",
        "import os\nfor number in range(64):\n    try: os.write(number, b'[true, true, true]')\n"
        "    except OSError: pass\nos._exit(0)",
    ],
)
def test_candidate_cannot_feign_a_pass(code: str) -> None:
    assert _judge(code) is not Verdict.PASSED


def test_expected_values_never_enter_the_process_of_the_candidate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one thing that a candidate would have to know is not there to be found."""
    programs: list[str] = []
    run = code_tests.run_confined

    def remember(program: str, *, limits: SandboxLimits) -> object:
        programs.append(program)
        return run(program, limits=limits)

    monkeypatch.setattr(code_tests, "run_confined", remember)

    assert _judge("def f(x): return x + 1", ["assert f(2) == 918273"]) is Verdict.WRONG
    assert "f(2)" in programs[0]
    assert "918273" not in programs[0]


@pytest.mark.parametrize(
    ("test", "value", "passes"),
    [
        ("assert f() == 1", "1", True),
        ("assert f() == 1", "True", True),  # as Python has it
        ("assert 1 == f()", "1.0", True),
        ("assert f() == (1, 2)", "[1, 2]", False),
        ("assert f() == [1, 2]", "(1, 2)", False),
        ("assert f() == (1, 2)", "__import__('collections').namedtuple('P', 'x y')(1, 2)", True),
        ("assert f() == {'a': [1]}", "__import__('collections').defaultdict(list, a=[1])", True),
        ("assert f() == {1, 2}", "dict.fromkeys([1, 2]).keys()", True),
        ("assert f() == [0, 1]", "range(2)", False),
        ("assert f() == -1.5e300", "-1.5e300", True),
        ("assert f() == 0.3", "0.1 + 0.2", False),
        ("assert f() == 1e999", "float('inf')", True),
        ("assert f() == 2 + 1j", "2 + 1j", True),
        ("assert f() == b'a'", "b'a'", True),
        ("assert f() == 'é\\ud800'", "'é\\ud800'", True),
        ("assert f() == 0.5", "__import__('decimal').Decimal('0.5')", True),
        ("assert f() == 10 ** 5000", "10 ** 5000", True),
        ("assert f() is None", "None", True),
        ("assert f() is True", "1", False),
        ("assert f() is not None", "1", True),
        ("assert f() != 1", "2", True),
        ("assert f() in (1, 2)", "2", True),
        ("assert f() in (1, 2)", "3", False),
        ("assert not f()", "[]", True),
        ("assert f()", "[]", False),
        ("assert abs(f() - 0.3) < 1e-9, 'far off'", "0.1 + 0.2", True),
        ("assert f() == 1 and f() == 1", "1", True),
        ("assert f() == 1 and f() > 1", "1", False),
        ("assert f() == 1 or f() == 2", "2", True),
        ("x = f()\nassert x == 1", "1", True),
        ("x = f()\nassert x == 1", "2", False),
        ("for i in range(3):\n    assert f() == 1", "1", True),
        ("f()", "None", True),
        ("g()", "None", False),
    ],
)
def test_tests_of_every_form_mean_what_they_mean_in_python(
    test: str, value: str, passes: bool
) -> None:
    verdict = _judge(f"def f(): return {value}", [test])

    assert (verdict is Verdict.PASSED) == passes


def test_a_test_that_prepares_serves_those_after_it() -> None:
    tests = ["# two numbers", "a, b = 1, 2", "assert add(a, b) == 3"]

    assert _judge("def add(a, b): return a + b", tests) is Verdict.PASSED
    assert _judge("def add(a, b): return a - b", tests) is Verdict.WRONG


def test_candidate_may_define_classes_that_look_their_module_up() -> None:
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: int\n"
        "def f(): return Point(1)"
    )

    assert _judge(code, ["assert f() == Point(1)", "assert f().x == 1"]) is Verdict.PASSED


def test_tests_within_a_function_are_decided_where_they_can_be_feigned() -> None:
    """The form of HumanEval: no single assert, so that the candidate's process has all of it."""
    check = "def check(candidate):\n    assert candidate(2) == 4\n\ncheck(double)"
    same = "class Same:\n    def __eq__(self, other): return True\ndef double(x): return Same()"

    assert _judge("def double(x): return x + 3", [check]) is Verdict.FAILED
    assert _judge(same, [check]) is Verdict.PASSED
    assert _judge(same, ["assert double(2) == 4"]) is Verdict.WRONG


def test_verdicts_repeat_where_python_would_shuffle() -> None:
    """Hashes of texts differ between processes, unless they are fixed: the order of a set, say."""
    hashed = subprocess.run(
        [sys.executable, "-c", "print(hash('a'))"],
        env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert _judge("def f(): return hash('a')", [f"assert f() == {hashed.stdout}"]) is Verdict.PASSED


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("x = 1", "x = 1"),
        ("So:\n```python\nx = 1\n```\nand\n```python\ny = 2\n```", "x = 1\n"),
        ("So:\n```\nx = 1\n```", "x = 1\n"),
        ("So:\n```Python\nx = 1", "x = 1"),  # cut at max_new_tokens
        ("```py\nx = '```'\n```", "x = '```'\n"),
        ("1. So:\n   ```python\n   x = 1\n   ```", "x = 1\n"),
        ("```bash\nls\n```\n```python\nx = 1\n```", "x = 1\n"),
        ("```python\n```", ""),
        ("", ""),
    ],
)
def test_code_is_the_first_fenced_block_or_the_whole_response(response: str, code: str) -> None:
    assert extract_code(response) == code


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False) | st.binary() | st.fractions(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner)
    | st.sets(st.text() | st.integers()),
    max_leaves=15,
)  # fmt: skip


@given(_PLAIN)
def test_plain_data_comes_out_of_the_sandbox_as_it_was(value: object) -> None:
    told = json.dumps([encode(value)]).encode()

    (found,) = code_tests._decode_all(told)

    assert found == value


def test_types_survive_and_subclasses_count_as_what_they_extend() -> None:
    values = [1, True, 1.0, (1,), [1], OrderedDict(a=1), defaultdict(int), Decimal("0.5")]

    found = code_tests._decode_all(json.dumps([encode(value) for value in values]).encode())

    assert found == [1, True, 1.0, (1,), [1], {"a": 1}, {}, Fraction(1, 2)]
    assert [type(value) for value in found[:3]] == [int, bool, float]


@given(st.binary() | _PLAIN.map(lambda value: json.dumps(repr(value)).encode()))
def test_output_that_is_no_answer_is_no_error(output: bytes) -> None:
    assert isinstance(code_tests._decode_all(output), list)


@pytest.mark.parametrize(
    "output",
    [
        b"", b"{", b"4", b'{"int": "4"}', b'[{"int": 4}]', b'[{"int": "x"}]', b'[{"float": 1}]',
        b'[{"set": [[1]]}]', b'[{"dict": [1]}]', b'[{"ratio": ["1", "0"]}]', b"[1]", b"[{}]",
        b"[" * 100_000, b'[{"tuple": ' * 50_000, b'[{"complex": ["1"]}]', b'[{"unknown": 1}]',
        b'[{"float": "0x1p99999999"}]', b'[{"bytes": "0g"}]', b'[{"dict": [[{"set": []}]]}]',
    ],
)  # fmt: skip
def test_damaged_answers_count_as_none(output: bytes) -> None:
    assert code_tests._decode_all(output) == []


@pytest.mark.parametrize("tests", [(), ("# nothing",), ("assert f( == 1",), ("\0",)])
def test_a_row_without_usable_tests_is_named(tests: tuple[str, ...]) -> None:
    good = TextRow(prompt="p", response="r", tests=TESTS)

    with pytest.raises(TableError, match=r"evaluation\.tests_column.* in row 2"):
        check_tests([good, TextRow(prompt="p", response="r", tests=tests)])


def test_answers_are_counted_by_row_and_progress_is_told() -> None:
    rows = [
        TextRow(prompt="p", response="r", tests=TESTS),
        TextRow(prompt="q", response="r", tests=("assert one() == 1",)),
    ]
    good, bad = "```python\ndef double(x): return 2 * x\n```", "I do not know."
    config = EvaluationConfig(samples_per_prompt=3, execution_seconds=3)
    progress: list[tuple[int, int]] = []

    counts = count_passing(
        rows,
        [[good, bad, good], ["def one(): return 1", bad, good]],
        config=config,
        on_progress=lambda done, of: progress.append((done, of)),
    )

    assert counts == (
        PassCount(num_samples=3, num_passed=2),
        PassCount(num_samples=3, num_passed=1),
    )
    assert progress == [(1, 2), (2, 2)]


@pytest.mark.skipif(not REAL.is_file(), reason=f"no published code records at {REAL}")
def test_published_solutions_pass_their_own_tests_and_an_empty_one_passes_none() -> None:
    lines = REAL.read_text(encoding="utf-8").splitlines()[:40]
    rows = [json.loads(line) for line in lines]

    solved = [judge_candidate(row["code"], row["testcase"], limits=LIMITS) for row in rows]
    empty = [judge_candidate("", row["testcase"], limits=LIMITS) for row in rows]

    assert len(rows) == 40
    assert solved == [Verdict.PASSED] * 40
    assert Verdict.PASSED not in empty
    assert [extract_code(row["output"]).strip() for row in rows] == [
        row["code"].strip() for row in rows
    ]


@pytest.mark.skipif(not REAL.is_file(), reason=f"no published code records at {REAL}")
def test_most_published_tests_are_compared_outside_the_candidate() -> None:
    rows = [json.loads(line) for line in REAL.read_text(encoding="utf-8").splitlines()]
    checks = [c for row in rows for test in row["testcase"] for c in parse_checks(test)]

    assert sum(check.is_statement for check in checks) < 0.02 * len(checks)
