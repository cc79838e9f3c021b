from __future__ import annotations

from protocol.prompts import feedback_chat, few_shot_instruction, rewrite_chat


def roles(chat: list[dict[str, str]]) -> list[str]:
    return [message["role"] for message in chat]


def test_empty_instruction_gives_no_system_turn() -> None:
    assert roles(
        feedback_chat(instruction="", prompt="PROMPT", chosen="CHOSEN", rejected="REJECTED")
    ) == ["user"]


def test_feedback_chat_shows_both_responses_with_the_better_first() -> None:
    content = feedback_chat(instruction="", prompt="PROMPT", chosen="CHOSEN", rejected="REJECTED")[
        -1
    ]["content"]

    assert content.index("PROMPT") < content.index("CHOSEN") < content.index("REJECTED")


def test_rewrite_chat_shows_response_and_feedback() -> None:
    chat = rewrite_chat(
        instruction="Be brief.", prompt="PROMPT", response="RESPONSE", feedback="FEEDBACK"
    )

    content = chat[-1]["content"]
    assert roles(chat) == ["system", "user"]
    assert content.index("PROMPT") < content.index("RESPONSE") < content.index("FEEDBACK")


def test_without_examples_the_generator_reads_the_turn_that_it_learnt() -> None:
    assert few_shot_instruction("Be brief.", []) == "Be brief."


def test_examples_stand_after_the_instruction_and_before_the_prompt() -> None:
    text = few_shot_instruction("Be brief.", ["FIRST", "SECOND"])

    assert text.index("Be brief.") < text.index("FIRST") < text.index("SECOND")
