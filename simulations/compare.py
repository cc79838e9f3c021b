"""`rewardds-compare`: which arm did better, by how much, and could that be chance?

Reads finished runs of `rewardds-simulate`, or the folder of a sweep with all its runs
(`simulations/compare_runs.py`), and compares them by the scores of single test rows
(`server_side/measuring/comparing.py` says how). Changes nothing but the files that it is asked to
write.

Exit status: 0; 1 for an error, said in one line; 2 for words that are not understood.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from lm.disk import in_words
from lm.errors import LmError
from protocol.errors import RewardDSError, StageError
from server_side.config import JudgeConfig
from server_side.evaluation import Metric
from server_side.measuring.comparing import ArmRun, ComparingConfig, Comparison, compare_runs
from server_side.measuring.judge_memory import RememberingJudge
from server_side.measuring.judges import VERDICTS_STAGE, open_judge
from server_side.measuring.measures import is_measure
from server_side.whole_files import write_atomically
from simulations.compare_checks import (
    origin_notes,
    read_origin,
    require_one_test,
    untuned_notes,
)
from simulations.compare_judging import ArmVerdict, judge_arms, read_asked
from simulations.compare_runs import find_runs, named_folder, read_run, require_one_each
from simulations.compare_views import (
    as_csv,
    as_markdown,
    show_comparison,
    show_lines,
    show_verdicts,
    verdicts_as_markdown,
)
from simulations.console import SimulationConsole

_MAX_DRAWS: Final = 10**6
_SHOWN: Final = ("pass@1", Metric.ROUGEL, Metric.PERPLEXITY)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None takes those of this process.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    for option, value in (("--judge-url", options.judge_url), ("--judged", options.judged)):
        if value is not None and not options.judge_model:
            parser.error(f"expected --judge-model NAME, because {option} is given, got nothing")
    try:
        _compare(options)
    except (RewardDSError, LmError, OSError) as error:
        if os.environ.get("REWARDDS_TRACEBACK") == "1":
            raise
        sys.exit(f"Error: {in_words(error)}")


def _compare(options: argparse.Namespace) -> None:
    folders, num_unfinished = find_runs(options.folders)
    config = ComparingConfig(
        reference=options.reference,
        ceiling=options.ceiling or ComparingConfig().ceiling,
        num_resamples=options.resamples,
        num_permutations=options.permutations,
    )
    origins = [read_origin(folder, label=label) for folder, label in folders.items()]
    require_one_each(origins)
    require_one_test(origins)
    runs = [read_run(folder, label=label) for folder, label in folders.items()]
    arms = {run.arm for run in runs}
    if options.ceiling is not None and options.ceiling not in arms:
        raise StageError(
            f"Expected a run of the ceiling arm {options.ceiling}, found "
            f"{', '.join(sorted(arms))}. Run it, or name another --ceiling."
        )
    comparison = compare_runs(runs, config=config)
    measures = _chosen(options.metric, comparison)
    for measure in measures:
        show_comparison(comparison, measure)
    remarks = [*origin_notes(origins, comparison), *untuned_notes(runs)]
    show_lines(remarks)
    if num_unfinished:
        print(f"Runs left out because they are not finished: {num_unfinished}.")

    def write(verdicts: Mapping[str, ArmVerdict] | None = None) -> None:
        if options.csv is not None:
            write_atomically(options.csv, as_csv(comparison, verdicts))
        if options.markdown is not None:
            tables = [as_markdown(comparison, measure) for measure in measures]
            tables += [verdicts_as_markdown(verdicts, comparison)] if verdicts else []
            lines = [*tables, *(f"{line}  " for line in remarks)]
            write_atomically(options.markdown, "\n".join(lines))

    write()
    if options.judge_model is not None:
        # After all else: what has been computed waits for no judge.
        verdicts = _ask(options, runs, comparison, folders=list(folders))
        show_verdicts(verdicts, comparison)
        write(verdicts)


def _ask(
    options: argparse.Namespace,
    runs: Sequence[ArmRun],
    comparison: Comparison,
    *,
    folders: Sequence[Path],
) -> dict[str, ArmVerdict]:
    """Ask the judge that the command names, and show how far it is on standard error."""
    try:
        judge = open_judge(
            JudgeConfig(
                kind="local" if options.judge_url is None else "endpoint",
                model=options.judge_model,
                url=options.judge_url,
            )
        )
        assert judge is not None, "a kind is named"
        if options.judged is not None:
            judge = RememberingJudge(judge, path=options.judged)
        by_seed = {run.seed: folder for folder, run in zip(folders, runs, strict=True)}
        asked = read_asked(by_seed[seed] for seed in comparison.seeds)
        with SimulationConsole(console=Console(stderr=True)) as console:
            console.start(VERDICTS_STAGE)
            started = time.monotonic()
            verdicts = judge_arms(
                runs, comparison, asked=asked, judge=judge, on_progress=console.advance
            )
            seconds = time.monotonic() - started
            console.end(VERDICTS_STAGE, seconds=seconds, was_whole=False)
    except (RewardDSError, LmError) as error:
        raise StageError(
            f"{in_words(error)} All but the win rate is shown above, and written where that was "
            "asked for."
        ) from error
    return verdicts


def _chosen(asked: Sequence[str] | None, comparison: Comparison) -> list[str]:
    """Return what to show: what was asked for, or what says most."""
    there = list(comparison.arms[0].figures)
    if asked is None:
        return [name for name in there if name in _SHOWN]
    if missing := [name for name in asked if name not in there]:
        raise StageError(
            f"Expected all runs to have {', '.join(missing)}, found {', '.join(there)} in all of "
            "them. Name another --metric; pass@k is there where evaluation.tests_column and "
            "evaluation.pass_k ask for it in every run."
        )
    return list(asked)


def _parser() -> argparse.ArgumentParser:
    defaults = ComparingConfig()
    parser = argparse.ArgumentParser(
        prog="rewardds-compare",
        description="Compare arms of a simulation on the test rows and seeds that all have.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=named_folder,
        metavar="[LABEL=]FOLDER",
        help="finished run, or sweep; LABEL is then the arm of all its runs",
    )
    parser.add_argument(
        "--reference",
        default=defaults.reference,
        help="arm from which differences are taken (default: %(default)s)",
    )
    parser.add_argument(
        "--ceiling",
        help="arm that closes the whole gap to the untuned target (default: "
        f"{defaults.ceiling}, where it is among the runs)",
    )
    parser.add_argument(
        "--metric",
        action="append",
        type=_measure,
        help="what to show, such as bleu or pass@5; give it several times for more (default: "
        "rougeL and perplexity, and pass@1 where tests were run)",
    )
    parser.add_argument(
        "--judge-model",
        metavar="MODEL",
        help="also ask a judge which answers are better, each arm's or the reference's: the folder "
        "of a model of this machine, or with --judge-url the name of one that is served there. A "
        "judge sees public test prompts and sampled answers only",
    )
    parser.add_argument(
        "--judge-url",
        type=_address,
        metavar="URL",
        help="OpenAI-style endpoint of the judge, such as http://127.0.0.1:8000/v1; "
        f"{JudgeConfig().api_key_variable} in the environment holds its key, if it wants one",
    )
    parser.add_argument(
        "--judged",
        type=Path,
        metavar="FILE",
        help="keep what the judge says in this file, and ask it nothing that stands there; no text "
        "is kept",
    )
    parser.add_argument("--csv", type=Path, help="write every arm and metric to this file")
    parser.add_argument("--markdown", type=Path, help="write the shown tables to this file")
    for name, default in (
        ("resamples", defaults.num_resamples),
        ("permutations", defaults.num_permutations),
    ):
        parser.add_argument(
            f"--{name}", type=_count, default=default, help="how many (default: %(default)s)"
        )
    return parser


def _measure(text: str) -> str:
    if not is_measure(text):
        names = ", ".join(metric.value for metric in Metric)
        raise argparse.ArgumentTypeError(f"expected one of {names} or pass@K, got {text}")
    return text


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"expected an http:// or https:// address, got {text}")
    return text


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= _MAX_DRAWS:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 10^6, got {text}")
    return number


if __name__ == "__main__":
    main()
