"""Turn chats into token ids, with the borders between prompt and response kept.

A chat is encoded segment by segment, never as one string, so that the ids which training sees are
the very ids that sampling continues. A model that was trained on `EncodedChat.input_ids` can be
asked for a *prompt* by continuing `prompt_prefix`, and for a *response* by continuing
`EncodedChat.response_prefix`.

Shapes: `B` sequences in a batch, `T` tokens of the longest of them.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lm.errors import ModelFolderError
from lm.sentences import whole_sentences

# Stands for a turn's content while the template around it is taken apart.
_SENTINELS = ("\u241eINSTRUCTION\u241e", "\u241ePROMPT\u241e", "\u241eRESPONSE\u241e")

# For templates that tell the model the day: a macro in the place of the function that looks at the
# clock. With that, a generator would be asked otherwise tomorrow than its client trained it.
# It ends with its line, so that a template begins on one of its own, as without it.
_FIXED_DAY = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(
        f" | replace('{directive}', '{datetime.date(2025, 1, 1).strftime(directive)}')"
        for directive in re.findall(r"%-?\w", "%-d%d%e%j%a%A%-m%m%b%B%y%Y%-H%H%-I%I%p%M%S")
    )
    + " }}{%- endmacro %}\n"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedChat:
    """One system, user and assistant turn as token ids, in the order in which they stand."""

    prefix_ids: tuple[int, ...]
    """System turn and opening of the user turn."""
    prompt_ids: tuple[int, ...]
    """What the user says."""
    prompt_end_ids: tuple[int, ...]
    """The token that ends the prompt, and white space that the template has before it."""
    middle_ids: tuple[int, ...]
    """What else the template has up to the response: the opening of the assistant turn."""
    response_ids: tuple[int, ...]
    """What the assistant says; may be empty."""
    end_ids: tuple[int, ...]
    """The token that ends the response; empty where the response was cut or is empty."""

    @property
    def response_prefix(self) -> tuple[int, ...]:
        """Everything before the response."""
        return self.prefix_ids + self.prompt_ids + self.prompt_end_ids + self.middle_ids

    @property
    def input_ids(self) -> tuple[int, ...]:
        """The whole chat."""
        return self.response_prefix + self.response_ids + self.end_ids

    @property
    def prompt_span(self) -> tuple[int, int]:
        """First and last-plus-one position of the prompt's tokens and what ends it."""
        start = len(self.prefix_ids)
        return start, start + len(self.prompt_ids) + len(self.prompt_end_ids)

    @property
    def response_span(self) -> tuple[int, int]:
        """First and last-plus-one position of the response's tokens and the one that ends it."""
        start = len(self.response_prefix)
        return start, start + len(self.response_ids) + len(self.end_ids)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    *,
    instruction: str,
    prompt: str,
    response: str = "",
    max_prompt_tokens: int | None = None,
    max_response_tokens: int | None = None,
) -> EncodedChat:
    """Encode one prompt and response under a system instruction.

    Args:
        tokenizer: Tokenizer with a chat template that knows a system turn.
        instruction: Text of the system turn.
        prompt: Text of the user turn.
        response: Text of the assistant turn; empty where it is to be sampled.
        max_prompt_tokens: A longer prompt is cut.
        max_response_tokens: A longer response is cut, and then nothing ends it: a model is not
            to learn that a response may stop in mid-sentence.

    Returns:
        The chat's segments.

    Raises:
        ModelFolderError: The chat template rewrites or drops a turn, or no control token ends the
            response.
    """
    before, opening, between, after = _template_parts(tokenizer)
    prompt_ids = _plain_ids(tokenizer, prompt)[:max_prompt_tokens]
    response_ids = _plain_ids(tokenizer, response)
    is_cut = max_response_tokens is not None and len(response_ids) > max_response_tokens
    end_ids = () if is_cut or not response_ids else (_end_id(tokenizer, after),)
    between_ids = _ids(tokenizer, between)
    control_id = _first_control_id(tokenizer, between)
    num_ending = 1 if control_id is None else between_ids.index(control_id) + 1
    return EncodedChat(
        prefix_ids=_prefix_ids(tokenizer, before, instruction, opening),
        prompt_ids=prompt_ids,
        prompt_end_ids=between_ids[:num_ending],
        middle_ids=between_ids[num_ending:],
        response_ids=response_ids[:max_response_tokens],
        end_ids=end_ids,
    )


def prompt_prefix(tokenizer: PreTrainedTokenizerBase, instruction: str) -> tuple[int, ...]:
    """Return the ids whose continuation is a prompt: system turn, opening of the user turn.

    Args:
        tokenizer: Tokenizer with a chat template that knows a system turn.
        instruction: Text of the system turn; it is never cut.

    Raises:
        ModelFolderError: The chat template rewrites or drops a turn.
    """
    before, opening, _, _ = _template_parts(tokenizer)
    return _prefix_ids(tokenizer, before, instruction, opening)


def whole_sentence_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[int, ...]:
    """Return the token ids of a text up to the end of its last whole sentence.

    Args:
        tokenizer: Tokenizer of the ids.
        ids: Ids of a text that may break off anywhere.

    Returns:
        Ids of its beginning; the same ids where no sentence ends.
    """
    decoded = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text = whole_sentences(str(decoded))
    return _plain_ids(tokenizer, text) if text else tuple(ids)


def render_prefix(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]
) -> tuple[int, ...]:
    """Return the ids whose continuation is the assistant's next turn of any chat.

    The text between the tags is encoded as plain text, so that a message cannot forge a turn.

    Args:
        tokenizer: Tokenizer with a chat template.
        messages: The turns so far, oldest first, each with `role`, of those that the template
            knows, and `content`.

    Raises:
        ModelFolderError: The chat template drops a turn, or puts turns into another order.
    """
    sentinels = [f"\u241e{index}\u241e" for index in range(len(messages))]
    marked = [
        {"role": message["role"], "content": sentinel}
        for message, sentinel in zip(messages, sentinels, strict=True)
    ]
    template = _rendered(tokenizer, marked, add_generation_prompt=True)
    ids: tuple[int, ...] = ()
    for message, sentinel in zip(messages, sentinels, strict=True):
        before, found, template = template.partition(sentinel)
        if not found:
            raise _unusable_template(tokenizer)
        ids += _ids(tokenizer, before) + _plain_ids(tokenizer, message["content"])
    return ids + _ids(tokenizer, template)


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids at which sampling stops: ends of turns, and end of text where it differs.

    Args:
        tokenizer: Tokenizer with a chat template.

    Raises:
        ModelFolderError: The chat template rewrites or drops a turn, or no control token ends the
            assistant's.
    """
    _, _, between, after = _template_parts(tokenizer)
    # A template may end the user's turn otherwise, and a generator writes that turn too.
    found = {
        _end_id(tokenizer, after),
        _first_control_id(tokenizer, between),
        tokenizer.eos_token_id,
    }
    return tuple(sorted(int(token) for token in found if token is not None))


def response_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that ends a response, as it does in `EncodedChat.end_ids`.

    Args:
        tokenizer: Tokenizer with a chat template.

    Raises:
        ModelFolderError: The chat template rewrites or drops a turn, or no control token ends the
            assistant's.
    """
    return _end_id(tokenizer, _template_parts(tokenizer)[3])


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int) -> torch.Tensor:
    """Stack sequences of ids into one tensor, padded on the right.

    Under causal attention the padding comes after every real token, so that no mask is needed.

    Args:
        sequences: Sequences of ids, B of them, at least one.
        pad_id: What fills up the shorter ones; to a model any id of its vocabulary will do.

    Returns:
        Ids, (B, T), int64.
    """
    width = max(map(len, sequences))
    rows = [list(ids) + [pad_id] * (width - len(ids)) for ids in sequences]
    return torch.tensor(rows, dtype=torch.int64)  # (B, T)


def batches_by_length(lengths: Sequence[int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Cut items into batches of similar length whose padded size keeps to a token budget.

    Args:
        lengths: Tokens of each item.
        max_batch_tokens: Bound on rows × longest row; one longer item still makes a batch.

    Yields:
        Positions of the items of one batch. The longest come first: what they need, all later
        batches find free, so that memory does not creep up, and lack of it is seen at once.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > max_batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _template_parts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, str, str]:
    """Return what stands before, between and after the contents of the three turns."""
    roles = ("system", "user", "assistant")
    marked = [{"role": r, "content": s} for r, s in zip(roles, _SENTINELS, strict=True)]
    whole = _rendered(tokenizer, marked)
    head, system_found, rest = whole.partition(_SENTINELS[0])
    opening, user_found, rest = rest.partition(_SENTINELS[1])
    between, assistant_found, after = rest.partition(_SENTINELS[2])
    if not (system_found and user_found and assistant_found and after):
        raise _unusable_template(tokenizer)
    return head, opening, between, after


def _prefix_ids(
    tokenizer: PreTrainedTokenizerBase, before: str, instruction: str, opening: str
) -> tuple[int, ...]:
    # In segments as `render_prefix` has them: some tokenizers begin each segment with a space.
    return _ids(tokenizer, before) + _plain_ids(tokenizer, instruction) + _ids(tokenizer, opening)


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    *,
    add_generation_prompt: bool = False,
) -> str:
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            chat_template=_FIXED_DAY + tokenizer.get_chat_template(),
        )
    except TemplateError as error:  # so templates say that they know no such turn
        raise _unusable_template(tokenizer) from error
    return str(text)


def _end_id(tokenizer: PreTrainedTokenizerBase, after: str) -> int:
    # White space may come first; a model that ended its turn with that could say nothing else.
    found = _first_control_id(tokenizer, after)
    if found is None:
        raise _unusable_template(tokenizer)
    return found


def _first_control_id(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    for token in _ids(tokenizer, text):
        shown = tokenizer.decode([token])
        is_special = shown != tokenizer.decode([token], skip_special_tokens=True)
        # Some models add their control tokens as ordinary ones; some add white space, too.
        if shown.strip() and (is_special or token in tokenizer.get_added_vocab().values()):
            return token
    return None


def _unusable_template(tokenizer: PreTrainedTokenizerBase) -> ModelFolderError:
    return ModelFolderError(
        f"Expected the chat template of {tokenizer.name_or_path} to keep a system, a user and an "
        "assistant turn as they are and to end each, the last with a control token, found that it "
        "does not. Use an instruct model with such a template."
    )


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    # A message that spells out a control token must not become one.
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return tuple(ids)
