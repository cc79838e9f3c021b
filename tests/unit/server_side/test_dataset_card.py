"""What the data card says of how its rows were made and what they cost, and what it leaves open."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.ledger import ProxyKind
from server_side.config import FilteringConfig, RefinementConfig
from server_side.dataset_card import describe_dataset
from server_side.notes import RunNotes, SelectionPrice
from server_side.samples import CandidateOrigin, PromptOrigin
from tests.support.synthetic_rows import export_rows, make_certificate, make_sample, row_settings

SETTINGS = row_settings()


def _card(folder: Path, **changes: Any) -> str:
    return (export_rows(folder, **changes) / "README.md").read_text()


def _making(folder: Path, **changes: Any) -> str:
    """Return what the card says of how the rows were made."""
    return _card(folder, **changes).split("## How it was made\n")[1].split("## Use\n")[0]


def test_card_states_the_composed_guarantee_of_each_client(tmp_path: Path) -> None:
    certificates = [
        make_certificate(proxy=ProxyKind.GENERATOR, ledger={"epsilon": 5.0}),
        make_certificate(ledger={"epsilon": 7.96}),
        make_certificate(client_name="south", ledger={"epsilon": 3.5}),
    ]

    card = _card(tmp_path, certificates=certificates)

    assert "| north | 7.96 | 1e-05 | one record |" in card
    assert "| south | 3.5 | 1e-05 | one record |" in card
    assert "| north | 5 |" not in card


def test_card_says_when_noise_was_reproducible_or_missing(tmp_path: Path) -> None:
    certificates = [
        make_certificate(ledger={"reproducible_noise": True}),
        make_certificate(client_name="south", ledger={"epsilon": math.inf}),
    ]

    card = _card(tmp_path, certificates=certificates)

    assert "**Simulation only** for north" in card
    assert "**No guarantee** for south" in card


def test_an_honest_run_carries_no_warning(tmp_path: Path) -> None:
    card = _card(tmp_path)

    assert "**Simulation only**" not in card
    assert "**No guarantee**" not in card
    assert "## Known limits" in card


def test_card_of_the_published_method_credits_reward_and_likelihood(tmp_path: Path) -> None:
    published = FilteringConfig(consensus_weight=0.0)

    making = _making(tmp_path, settings=row_settings(filtering=published))

    assert "by the weighted ranks of reward and likelihood under the client's generator" in making
    assert "competed for a place by their `chosen` response's reward" in making
    assert "The rewards come from models that were tuned on the clients' records" in making


@pytest.mark.parametrize("select_by", ["reward", "consensus", "all"])
@pytest.mark.parametrize(
    "order",
    [
        {"alpha": 0.5},
        {"alpha": 1.0},
        {"alpha": 0.0},
        {"alpha": 0.0, "consensus_weight": 1.0},
        {"choose_by": "consensus"},
        {"choose_by": "first"},
    ],
    ids=str,
)
def test_card_credits_the_reward_exactly_where_a_choice_looks_at_it(
    tmp_path: Path, order: dict[str, Any], select_by: str
) -> None:
    filtering = FilteringConfig(select_by=select_by, **order)

    card = _card(tmp_path, settings=row_settings(filtering=filtering))

    assert ("The rewards come from models" in card) is filtering.needs_reward
    assert ("A reward model judges style" in card) is filtering.needs_reward
    assert ("No reward had a say" in card) is not filtering.needs_reward
    ordered = "ranks of reward" in card or "came first by reward" in card
    assert ordered is filtering.chooses_by_reward


def test_card_of_raw_data_says_that_nothing_was_judged(tmp_path: Path) -> None:
    filtering = FilteringConfig(choose_by="first", select_by="all", max_similarity=1.0)

    card = _card(tmp_path, settings=row_settings(filtering=filtering))

    assert "No score ordered the responses to a prompt" in card
    assert "Every prompt with two usable responses was kept.\n" in card
    assert "`chosen` was not chosen for being better than `rejected`" in card
    assert "came first" not in card


def test_card_says_that_agreement_alone_decides(tmp_path: Path) -> None:
    filtering = FilteringConfig(choose_by="consensus", select_by="consensus")

    making = _making(tmp_path, settings=row_settings(filtering=filtering))

    assert "`chosen` came first by agreement with the generator's other responses" in making
    assert "`chosen` response's agreement with the generator's other responses" in making
    assert "likelihood" not in making


def test_card_counts_agreement_among_the_ranks_by_default(tmp_path: Path) -> None:
    making = _making(tmp_path)

    assert (
        "the weighted ranks of reward, likelihood under the client's generator and agreement "
        "with the generator's other responses" in making
    )


def test_card_names_the_client_whose_rows_no_reward_model_could_judge(tmp_path: Path) -> None:
    """With `scoring.ensemble=own`, one client's useless proxy leaves its rows without a reward."""
    unjudged = {"client_name": "south", "chosen_reward": 0.0, "rejected_reward": 0.0}

    making = _making(tmp_path, pool=[make_sample(0), make_sample(1, **unjudged)])

    assert "could judge the rows of south: their rewards are 0" in making
    assert "weighted ranks of reward" in making


def test_card_credits_no_reward_where_every_proxy_was_left_out(tmp_path: Path) -> None:
    pool = [make_sample(i, chosen_reward=0.0, rejected_reward=0.0) for i in range(2)]

    making = _making(tmp_path, pool=pool)

    assert "No reward model could judge these rows, so that their rewards are 0" in making
    assert "ranks of likelihood under the client's generator and agreement" in making
    assert "The rewards come from models" not in making


@pytest.mark.parametrize(
    ("origin", "sentence"),
    [
        ("generator", "The prompts were written by the clients' generators."),
        ("few_shot", "by the clients' generators, which were shown public prompts first."),
        ("public", "The prompts were taken from a public file."),
    ],
)
def test_card_says_where_the_prompts_come_from(tmp_path: Path, origin: str, sentence: str) -> None:
    assert sentence in _making(tmp_path, pool=[make_sample(prompt_origin=PromptOrigin(origin))])


def test_card_counts_public_prompts_among_sampled_ones(tmp_path: Path) -> None:
    pool = [make_sample(0, prompt_origin=PromptOrigin.PUBLIC), make_sample(1)]

    making = _making(tmp_path, pool=pool)

    assert "1 of the 2 prompts were taken from a public file, the rest written by" in making


def test_card_counts_rewrites_where_responses_were_refined(tmp_path: Path) -> None:
    pool = [make_sample(0), make_sample(1, chosen_origin=CandidateOrigin.REWRITE)]

    making = _making(tmp_path, pool=pool)

    assert "was asked for rewrites; 1 of the 2 `chosen` responses are such" in making


def test_card_without_refinement_says_that_nothing_was_rewritten(tmp_path: Path) -> None:
    making = _making(tmp_path, settings=row_settings(refinement=RefinementConfig(num_rounds=1)))

    assert "nothing was rewritten" in making
    assert "target model" not in making


@pytest.mark.parametrize(
    "changes",
    [
        {"filtering": FilteringConfig(select_by="all")},
        {"filtering": FilteringConfig(k=1.0)},
        {"refinement": RefinementConfig(threshold="none")},
    ],
    ids=["select_by", "k", "threshold"],
)
def test_card_speaks_of_no_competition_where_every_prompt_is_kept(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    making = _making(tmp_path, settings=row_settings(**changes))

    assert "was kept, unless its row was nearly the same as another" in making
    assert "competed" not in making


def test_prompts_compete_where_refinement_only_renews(tmp_path: Path) -> None:
    """A threshold that everybody reaches lets nobody in where nobody may join."""
    refinement = RefinementConfig(threshold="none", pool_growth="renew")

    assert "competed for a place" in _making(tmp_path, settings=row_settings(refinement=refinement))


def test_card_claims_privacy_only_of_clients_whose_noise_protects(tmp_path: Path) -> None:
    certificates = [
        make_certificate(),
        make_certificate(client_name="south", ledger={"epsilon": math.inf}),
        make_certificate(client_name="west", ledger={"reproducible_noise": True}),
    ]

    card = _card(tmp_path, certificates=certificates)

    assert "3 clients under differential privacy, except those of south and west." in card
    assert "- differential-privacy\n" not in card


def test_card_of_protected_clients_claims_privacy_of_all(tmp_path: Path) -> None:
    card = _card(tmp_path)

    assert "private records of 1 client under differential privacy." in card
    assert "- differential-privacy\n" in card


def test_card_without_noise_claims_no_privacy(tmp_path: Path) -> None:
    certificates = [make_certificate(ledger={"epsilon": math.inf})]

    card = _card(tmp_path, certificates=certificates)

    assert "private records of 1 client, without the protection of differential privacy." in card
    assert "| north | ∞ (none) |" in card
    assert "treat all of them as private records" in card
    assert "under differential privacy" not in card


@pytest.mark.parametrize("epsilon", [7.96, math.inf])
def test_card_leaves_open_whether_a_row_repeats_a_record(tmp_path: Path, epsilon: float) -> None:
    certificates = [make_certificate(ledger={"epsilon": epsilon})]

    card = _card(tmp_path, certificates=certificates)

    assert "cannot tell whether a row repeats one" in card
    assert "No line is a record" not in card


def test_a_setting_cannot_break_out_of_the_card(tmp_path: Path) -> None:
    settings = {**row_settings(), "note": "```\n# A heading of mine"}

    card = _card(tmp_path, settings=settings)

    assert card.count("```") == 4


@pytest.mark.parametrize(("epsilon", "told"), [(12.34, "ε = 12.34"), (math.inf, "ε = ∞ (none)")])
def test_rows_of_a_selected_run_state_what_holds_for_the_best_of_several(
    epsilon: float, told: str
) -> None:
    clients = {"north": make_certificate()}
    price = SelectionPrice(epsilon=epsilon, delta=1e-5)
    selected = RunNotes(arm="with_consensus", tuned_on="synthetic", selection=price)

    card, plain = (
        describe_dataset(
            [make_sample()], run_id="run-1", clients=clients, settings=SETTINGS, notes=notes
        )
        for notes in (selected, None)
    )

    assert f"what holds for them is {told} at δ = 1e-05" in card
    assert "Chosen among several runs" not in plain


def test_the_card_names_the_models_and_no_folder_of_this_machine(tmp_path: Path) -> None:
    models = {"base_model": "/srv/secret/Small-0.5B", "target_model": "Org/Large-7B"}

    card = _card(tmp_path, settings=row_settings(**models))

    making = card.split("## How it was made\n")[1].split("## Use\n")[0]
    assert "tuned from Small-0.5B, the target model is Org/Large-7B" in making
    assert "secret" not in card


def test_what_a_simulation_on_own_records_takes_beside_the_releases_is_told() -> None:
    notes = RunNotes(
        arm="with_consensus", tuned_on="synthetic", not_covered=("Sizes were counted.", "And more.")
    )

    card = describe_dataset(
        [make_sample()],
        run_id="run-1",
        clients={"north": make_certificate()},
        settings=SETTINGS,
        notes=notes,
    )

    assert "does not count it: Sizes were counted. And more.\n" in card


def test_a_public_start_is_told_so_that_nobody_takes_its_gain_for_the_methods() -> None:
    plain = make_certificate()
    clients = {"north": plain, "south": replace(plain, start_digest="4" * 64)}

    card, without = (
        describe_dataset([make_sample()], run_id="run-1", clients=who, settings=SETTINGS)
        for who in (clients, {"north": plain})
    )

    assert "The models of south did not start from the base model" in card
    assert "public text, whose merit" not in without


def test_a_clients_words_about_its_accountant_are_shown_and_not_interpreted() -> None:
    certificate = make_certificate()
    ledger = replace(certificate.privacy, accountant="`![seen](https://example.org/p.png)|`")

    card = describe_dataset(
        [make_sample()],
        run_id="run-1",
        clients={"north": replace(certificate, privacy=ledger)},
        settings=SETTINGS,
    )

    assert r"| `![seen](https://example.org/p.png)\| 0.6.0` |" in card
