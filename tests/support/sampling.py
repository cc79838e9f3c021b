"""What the sampling engines' tests share: a model with opinions, and a statistical test."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from scipy import stats
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lm.loading import load_tokenizer
from lm.sampling import SamplingParams
from simulations.tiny_models import build_tiny_model

_BRACKETS = (
    "{% for m in messages %}{% if m['role'] == 'system' %}<s>[SYS]{{ m['content'] }}[/SYS]"
    "{% elif m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
    "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)

PREFIXES: tuple[tuple[int, ...], ...] = (
    (1, 40, 41, 42),
    (1, 50, 51),
    (1, 60, 61, 62, 63, 64, 65, 66),
    (70,),
    (1, 80, 81, 80, 81, 80),
)


def build_opinionated_model(folder: Path, *, architecture: str, seed: int = 3) -> Path:
    """Write a tiny model whose logits are far apart and whose biases are not zero.

    A freshly initialised model is close to indifferent and has no biases, so that an engine that
    read half of its weights would hardly show.
    """
    build_tiny_model(folder, architecture="qwen2" if architecture == "qwen2" else "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            scale = 0.2 if parameter.ndim == 2 else 0.3
            parameter.copy_(scale * noise + (1.0 if "norm" in name else 0.0))
            # What the file format holds exactly is what both engines then compute with.
            parameter.copy_(parameter.half().float())
    model.save_pretrained(folder)
    return folder


def build_foreign_model(folder: Path, *, seed: int = 3) -> Path:
    """Write an opinionated model whose tokenizer and template are of another family.

    Pieces of words with marked spaces in place of bytes, other names for the control tokens, and a
    template that is not ChatML: what sentencepiece models have.
    """
    build_opinionated_model(folder, architecture="llama", seed=seed)
    controls = ["<unk>", "<s>", "</s>", "<pad>", "[SYS]", "[/SYS]", "[INST]", "[/INST]"]
    words = ["▁the", "▁is", "▁a", "ing", "er", "▁", *map(chr, range(33, 127))]
    # Plain text never falls into pieces as unlikely as the control tokens.
    pieces = [(name, -1e4) for name in controls] + [(w, -1.0 - n) for n, w in enumerate(words)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in controls])
    # The model knows more ids than the tokenizer, as padded vocabularies do.
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        chat_template=_BRACKETS,
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    fast.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        file = folder / name
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
        file.write_text(json.dumps(settings), encoding="utf-8")
    return folder


def set_stop_ids(folder: Path, stop_ids: list[int]) -> None:
    """Write further end tokens into a model's generation settings."""
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["eos_token_id"] = stop_ids
    file.write_text(json.dumps(settings), encoding="utf-8")


@functools.cache  # every engine is held against the same
def generate_greedily(
    folder: Path, prefix: tuple[int, ...], params: SamplingParams, stop_ids: frozenset[int]
) -> tuple[int, ...]:
    """Continue one prefix by transformers' own `generate`, the oracle of the engines."""
    model = _oracle(folder)
    ids = model.generate(
        torch.tensor([prefix]),
        attention_mask=torch.ones(1, len(prefix), dtype=torch.int64),
        max_new_tokens=params.max_new_tokens,
        do_sample=False,
        repetition_penalty=params.repetition_penalty,
        eos_token_id=sorted(stop_ids),
        pad_token_id=load_tokenizer(folder).pad_token_id,
    )[0, len(prefix) :].tolist()
    return tuple(ids[:-1] if ids[-1] in stop_ids else ids)


@functools.lru_cache(maxsize=1)
def _oracle(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.update(bos_token_id=None)
    return model


def nucleus(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Return the distribution that a row of logits must be drawn from, by a full sort.

    Args:
        logits: (V,), already penalised.
        params: Temperature and top_p.

    Returns:
        (V,), float64.
    """
    probabilities = torch.softmax(logits.double() / params.temperature, dim=-1)
    ordered, ids = probabilities.sort(descending=True)
    is_inside = ordered.cumsum(0) - ordered < params.top_p
    kept = torch.zeros_like(probabilities)
    kept[ids[is_inside]] = ordered[is_inside]
    return kept / kept.sum()


def two_token_distribution(
    folder: Path, prefix: tuple[int, ...], params: SamplingParams, stop_ids: frozenset[int]
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the exact distributions of the first and of the second token after a prefix.

    The second is over completions that have one; both leave end tokens out of their keys except
    as -1.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def next_token(rows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = model(rows).logits[:, -1]
        for row, ids in zip(logits, rows, strict=True):
            seen = ids.unique()
            penalty = params.repetition_penalty
            row[seen] = torch.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
        return torch.stack([nucleus(row, params) for row in logits])

    first = next_token(torch.tensor([prefix]))[0]
    others = [t for t in first.nonzero().squeeze(1).tolist() if t not in stop_ids]
    second = next_token(torch.tensor([(*prefix, t) for t in others]))
    joint = (first[others, None] * second).sum(0)
    return _with_end(first, stop_ids), _with_end(joint, stop_ids)


def goodness_of_fit(observed: Iterable[int], expected: Mapping[int, float]) -> float:
    """Return the chi-square p-value of draws; bins with few expected draws are joined.

    A draw of something that has no probability at all gives 0.
    """
    counts = Counter(observed)
    total = counts.total()
    if set(counts) - {token for token, p in expected.items() if p > 0}:
        return 0.0
    mass = sum(expected.values())
    small = [t for t, p in expected.items() if p / mass * total < 10]
    large = [t for t in expected if t not in small]
    seen = [counts[t] for t in large] + [sum(counts[t] for t in small)]
    due = [expected[t] / mass * total for t in large]
    due.append(sum(expected[t] for t in small) / mass * total)
    if len(due) > 1 and due[-1] < 5:
        due[-2:] = [due[-2] + due[-1]]
        seen[-2:] = [seen[-2] + seen[-1]]
    if len(due) == 1:
        return 1.0  # a single outcome was due, and nothing else was drawn
    return float(stats.chisquare(seen, due).pvalue)


def _with_end(probabilities: torch.Tensor, stop_ids: frozenset[int]) -> dict[int, float]:
    found: dict[int, float] = {}
    for token in probabilities.nonzero().squeeze(1).tolist():
        key = -1 if token in stop_ids else token
        found[key] = found.get(key, 0.0) + float(probabilities[token])
    return found
