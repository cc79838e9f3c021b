"""Chats that both parties must render alike: what a proxy or the target is asked beyond a record.

A record itself, as proxies learn it and as candidates are sampled, is `lm/encoding.py`'s.

Written for instruct models as small as 135 million parameters: short sentences, one task, the text
to work on before the task. A chat is a list of messages with the keys `role` and `content`, as
chat templates expect them. Changing a word here changes what a released model was trained for, so
it raises `PROTOCOL_VERSION`.
"""

from __future__ import annotations

from collections.abc import Sequence

Chat = list[dict[str, str]]
"""Messages in order, each with `role` (system, user or assistant) and `content`."""


def few_shot_instruction(instruction: str, examples: Sequence[str]) -> str:
    """Extend the system turn by public prompts, of whose kind a model is to write another.

    Args:
        instruction: Public description of the domain.
        examples: Prompts to show; without any, the instruction stays as it is.

    Returns:
        Text of the system turn.

    Example:
        >>> print(few_shot_instruction("Be kind.", ["Hello?", "Is it safe?"]))
        Be kind.
        <BLANKLINE>
        Users write messages like these:
        <BLANKLINE>
        Hello?
        <BLANKLINE>
        Is it safe?
        <BLANKLINE>
        The next message is another one of this kind.
    """
    if not examples:
        return instruction
    parts = [
        instruction,
        "Users write messages like these:",
        *examples,
        "The next message is another one of this kind.",
    ]
    return "\n\n".join(part for part in parts if part)


def feedback_chat(*, instruction: str, prompt: str, chosen: str, rejected: str) -> Chat:
    """Build the chat that asks why one response is better than another.

    Args:
        instruction: Public description of the domain; the system turn, left out where empty.
        prompt: What both responses answer.
        chosen: The response that the reward prefers.
        rejected: The response that it does not.

    Returns:
        The chat; the model's answer is the feedback.
    """
    content = (
        f"Question:\n{prompt}\n\n"
        f"Good answer:\n{chosen}\n\n"
        f"Bad answer:\n{rejected}\n\n"
        "In two or three short sentences, say what the good answer does better than the bad "
        "answer and how the good answer could still be improved."
    )
    return [*_opening(instruction), {"role": "user", "content": content}]


def rewrite_chat(*, instruction: str, prompt: str, response: str, feedback: str) -> Chat:
    """Build the chat that asks for a better response in the light of feedback.

    Args:
        instruction: Public description of the domain; the system turn, left out where empty.
        prompt: What the response answers.
        response: The response to improve.
        feedback: What to improve.

    Returns:
        The chat; the model's answer is the rewritten response.
    """
    content = (
        f"Question:\n{prompt}\n\n"
        f"Answer:\n{response}\n\n"
        f"Advice:\n{feedback}\n\n"
        "Follow the advice and write a better answer to the question. Write only the answer."
    )
    return [*_opening(instruction), {"role": "user", "content": content}]


def _opening(instruction: str) -> Chat:
    return [{"role": "system", "content": instruction}] if instruction else []
