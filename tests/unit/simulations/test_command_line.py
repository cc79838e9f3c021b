"""The commands that Hydra composes: their help, and what they say of words they cannot take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from simulations import command_line, run
from simulations.audit import run as audit_run
from simulations.run import sweep_resumed
from simulations.sweeps.points import begin_sweep

# The groups of each command that leave a choice.
SIMULATE = {"arm", "client_side/budget", "client_side/records", "experiment", "runtime", "sweep"}
AUDIT = {"audit", "client_side/budget", "client_side/records"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REWARDDS_TRACEBACK", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(command_line, "_failures", [])
    monkeypatch.setattr("server_side.children.raise_on_signals", lambda: None)
    return tmp_path


def call(main: Callable[[], None], *words: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("sys.argv", ["command", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


@pytest.mark.parametrize(
    ("main", "groups"), [(run.main, SIMULATE), (audit_run.main, AUDIT)], ids=["simulate", "audit"]
)
def test_help_lists_the_own_groups_alone_within_80_columns(
    main: Callable[[], None],
    groups: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(main, "--help", monkeypatch=monkeypatch) == 0

    text = capsys.readouterr().out
    listing = text.partition("(GROUP=OPTION)\n")[2].partition("\n\n")[0]
    assert {line.split(":")[0].strip() for line in listing.splitlines() if ":" in line} == groups
    assert [line for line in text.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("main", [run.main, audit_run.main])
@pytest.mark.parametrize("value", ["Zürich", "it's", "a=b", '"a', "[a"])
def test_a_value_that_cannot_be_read_is_named_with_how_to_quote_it(
    main: Callable[[], None],
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(main, f"run_folder={value}", monkeypatch=monkeypatch) == 1

    error = capsys.readouterr().err
    assert error.startswith(f"Error: Expected NAME=VALUE, got {f'run_folder={value}'!r},")
    assert error.endswith("""'run_folder="a value"'.\n""")
    assert len(error.splitlines()) == 1


def test_a_value_in_quotes_is_read_as_it_stands() -> None:
    with initialize_config_dir(str(command_line.CONF), version_base=None):
        composed = compose("simulate", overrides=["""run_folder="it's Zürich=1\""""])

    assert composed.run_folder == "it's Zürich=1"


@pytest.mark.parametrize("main", [run.main, audit_run.main])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=abc"], "got seed: Value 'abc' of type 'str' could not be converted to Integer."),
        (["seed="], "got seed: Value ''"),
        (["num_records=null"], "got num_records: field 'num_records' is not Optional."),
        (["seed=${nope}"], "got seed: Interpolation key 'nope' not found."),
        (["nokey=1"], "Expected a known setting, got nokey. See all settings with `--cfg job`."),
        (["client_side=1"], "Config group override must be a string"),
        (["seed=1,2"], "Ambiguous value for argument 'seed=1,2'."),
        (["+seed=1"], "An item is already at 'seed'."),
        (["~foo"], "'foo' does not exist."),
        (["--run", "--multirun"], "Only one of --run, --multirun"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_setting_that_does_not_fit_is_said_as_expected_and_got(
    main: Callable[[], None],
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(main, *words, monkeypatch=monkeypatch) == 1

    error = capsys.readouterr().err
    assert error.startswith("Error: Expected ")
    assert "got" in error
    assert error.count(said) == 1
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["plain", "jörg's runs", "x (1), y=2", "#1 & {a} [b] ~c", "a\\b\\", "\\'"]
)
def test_a_sweep_in_a_folder_of_any_name_can_be_gone_on_with(tmp_path: Path, name: str) -> None:
    begin_sweep(tmp_path / name, overrides=["seed=1,2"], num_points=2, command=["x"])

    *_, last = sweep_resumed([f"resume={tmp_path / name}"])

    (parsed,) = OverridesParser.create().parse_overrides([last])
    assert parsed.value() == str(tmp_path / name)
