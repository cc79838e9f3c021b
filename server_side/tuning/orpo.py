"""ORPO under TRL's trainer: likelihood of the chosen response, and odds against the rejected one.

TRL counts the prompt into the likelihood and builds logits for every token. Here both terms look
at responses only, as all that is tuned here does. The likelihood is averaged over each response
first and then over responses, so that the cut of a batch into physical ones changes nothing.

Reference: Hong et al., "ORPO: Monolithic Preference Optimization without Reference Model" (EMNLP
2024), eq. 6 and 7, with `preference_beta` as λ.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import PeftModel
from trl.trainer.utils import add_fused_lm_head

from server_side.tuning.rows import IGNORED_LABEL
from server_side.tuning.trainers import QuietTrainer, response_tokens_only

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it may change; a tested release is pinned
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer


def orpo_arguments(settings: dict[str, Any], *, beta: float) -> ORPOConfig:
    """Return the trainer's arguments; `settings` are those that all objectives share.

    Args:
        settings: By name, as transformers' `TrainingArguments` takes them.
        beta: Weight of the odds ratio beside the likelihood, λ in the paper; above 0.

    Returns:
        TRL's arguments, with which rows keep all that they have.
    """
    return ORPOConfig(**settings, beta=beta, remove_unused_columns=False)


class OrpoTrainer(QuietTrainer, ORPOTrainer):  # type: ignore[misc]  # TRL ships no types
    """TRL's ORPOTrainer over rows of token ids."""

    def __init__(self, **arguments: Any) -> None:  # TRL's
        super().__init__(**arguments)
        is_adapted = isinstance(self.model, PeftModel)
        base = self.model.get_base_model() if is_adapted else self.model
        add_fused_lm_head(base, outputs=("log_probs", "mean_logits"))

    @staticmethod
    def tokenize_row(feature: dict[str, Any], model: object = None) -> dict[str, Any]:
        """Take a row as it is: token ids already."""
        return feature

    def concatenated_forward(
        self, model: Any, batch: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read chosen and rejected responses in one forward pass.

        Args:
            model: A wrapped model of accelerate's.
            batch: Padded chosen and rejected sequences of B pairs.

        Returns:
            Mean log-probability of a token of each chosen and of each rejected response, (B,) each,
            mean logits at their tokens, and the loss of the chosen responses, ().
        """
        inputs = self.concatenated_inputs(
            batch, padding_value=self.padding_value, device=self.accelerator.device
        )
        labels = inputs["concatenated_labels"]  # (2B, T): chosen first
        with response_tokens_only():
            outputs = model(
                input_ids=inputs["concatenated_input_ids"],
                attention_mask=inputs["concatenated_attention_mask"],
                labels=labels,
                fused_lm_head=True,
            )
        is_response = labels[:, 1:] != IGNORED_LABEL  # (2B, T - 1)
        means = outputs.log_probs.sum(dim=1) / is_response.sum(dim=1)  # (2B,)
        half = len(batch["chosen_labels"])
        chosen, rejected = means[:half], means[half:]
        logits = outputs.mean_logits
        return (
            chosen,
            rejected,
            logits[:half][is_response[:half]],
            logits[half:][is_response[half:]],
            -chosen.mean(),
        )
