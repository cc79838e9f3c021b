"""How much went into each stage, and where the rest of it went."""

from __future__ import annotations

import dataclasses

from server_side.report.journey import funnel
from server_side.report.rendering import render_report
from tests.unit.server_side.report.report_samples import make_report_inputs


def test_funnel_tells_each_reason_for_which_things_fell_most_first() -> None:
    steps = {step.title: step for step in funnel(make_report_inputs().counts)}

    assert {title: (step.num_entered, step.num_kept) for title, step in steps.items()} == {
        "Synthetic prompts": (94, 60),
        "Candidate responses, round 1": (384, 360),
        "Pool, round 1": (60, 8),
        "Candidate responses, round 2": (180, 155),
        "Pool, round 2": (60, 16),
    }
    assert {title: step.losses for title, step in steps.items()} == {
        "Synthetic prompts": (
            ("repeated an earlier one", 17),
            ("never ended", 9),
            ("too short", 6),
            ("more than were asked for", 2),
        ),
        "Candidate responses, round 1": (
            ("never ended", 14),
            ("repeated an earlier one", 5),
            ("fell with their prompt", 5),
        ),
        "Pool, round 1": (("below the threshold", 52),),
        "Candidate responses, round 2": (("never ended", 22), ("repeated an earlier one", 3)),
        "Pool, round 2": (("below the threshold", 44),),
    }


def test_unknown_losses_are_named_as_such() -> None:
    (step,) = funnel({"08_candidates_r1": {"num_sampled": 10, "num_kept": 6}})

    assert step.losses == (("fell with their prompt", 4),)


def test_public_text_that_fell_stands_in_the_funnel() -> None:
    counts = {"num_rows": 9, "num_in_test_set": 2, "num_surplus": 0, "num_kept": 7}
    inputs = make_report_inputs()
    page = render_report(
        dataclasses.replace(inputs, counts={"00_warm_start": counts, **inputs.counts})
    )

    (step,) = funnel({"00_warm_start": counts})

    assert step.losses == (("stand in the test set", 2),)
    assert "Public text for the proxies" in page
