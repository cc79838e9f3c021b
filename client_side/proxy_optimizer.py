"""Adam with its step sizes and the mean of the last iterates, for the trainer in `dp_sgd.py`.

Everything here sees noisy gradients and settings only, so it is post-processing: it costs no
privacy, whatever it does. It never sees a record, a unit or a gradient before the noise.

Reference: Kingma and Ba, "Adam" (ICLR 2015); iterate averaging after Polyak and Juditsky (1992).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client_side.config import DpTrainingConfig, RewardProxyConfig

Arrays = Mapping[str, npt.NDArray[np.generic]]


class ProxyOptimizer:
    """Turns noisy gradients into new weights; can be taken up again where it stood.

    Attributes:
        parameters: The trainable weights, in the order in which a gradient lists them.
    """

    def __init__(self, model: nn.Module, config: DpTrainingConfig) -> None:
        """Begin with the weights that the model has.

        Args:
            model: Model with its trainable weights in float32; changed in place.
            config: Step size, its schedule, and how many iterates are averaged.
        """
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(named.values())
        self._named = named
        self._config = config
        self._adam = torch.optim.Adam(
            _parameter_groups(named, config), betas=(config.adam_beta1, config.adam_beta2)
        )
        self._peaks = [float(group["lr"]) for group in self._adam.param_groups]
        self._num_averaged = math.ceil(config.average_last_fraction * config.steps)
        self._sums = {
            name: torch.zeros_like(p, dtype=torch.float64)
            for name, p in named.items()
            if self._num_averaged
        }

    def step(self, gradient: torch.Tensor, *, number: int) -> None:
        """Move the weights.

        Args:
            gradient: Noisy mean gradient of all trainable weights, (D,) float64.
            number: Which step of the run this is, from 0.
        """
        self._assign(gradient)
        for group, peak in zip(self._adam.param_groups, self._peaks, strict=True):
            group["lr"] = peak * relative_step_size(number, self._config)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        if number >= self._config.steps - self._num_averaged:
            for name, total in self._sums.items():
                total += self._named[name].detach()

    def finish(self) -> None:
        """Put the mean of the last iterates in the place of the weights, where that is asked."""
        with torch.no_grad():
            for name, total in self._sums.items():
                self._named[name].copy_(total / self._num_averaged)

    def snapshot(self) -> dict[str, npt.NDArray[np.generic]]:
        """Copy all that the next step depends on, its number excepted, which the caller knows.

        Adam's own count of steps and the number of summed iterates follow from that number, so
        they are not kept a second time.
        """
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for name, parameter in self._named.items():
            state = self._adam.state[parameter]
            arrays[f"weights/{name}"] = _to_array(parameter)
            arrays[f"moment_1/{name}"] = _to_array(state["exp_avg"])
            arrays[f"moment_2/{name}"] = _to_array(state["exp_avg_sq"])
        return arrays | {f"sum/{name}": _to_array(total) for name, total in self._sums.items()}

    def restore(self, arrays: Arrays, *, num_steps: int) -> None:
        """Take up what `snapshot` gave.

        Args:
            arrays: Its arrays.
            num_steps: Steps that were done by then; 1 or more.
        """
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(_from_array(arrays[f"weights/{name}"]))
                self._adam.state[parameter] = {
                    "step": torch.tensor(float(num_steps)),
                    "exp_avg": _from_array(arrays[f"moment_1/{name}"]).to(parameter.device),
                    "exp_avg_sq": _from_array(arrays[f"moment_2/{name}"]).to(parameter.device),
                }
            for name, total in self._sums.items():
                total.copy_(_from_array(arrays[f"sum/{name}"]))

    def _assign(self, gradient: torch.Tensor) -> None:
        start = 0
        for parameter in self.parameters:
            stop = start + parameter.numel()
            piece = gradient[start:stop].view(parameter.shape)
            parameter.grad = piece.to(device=parameter.device, dtype=parameter.dtype)
            start = stop


def relative_step_size(step: int, config: DpTrainingConfig) -> float:
    """Return the step size of a step ÷ the peak.

    Args:
        step: Which step of the run, from 0.
        config: Steps and schedule.
    """
    warmup = round(config.warmup_fraction * config.steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, config.steps - 1 - warmup)
    return 1 - (1 - config.decay_to_fraction) * min(1.0, progress)


def _parameter_groups(
    named: Mapping[str, nn.Parameter], config: DpTrainingConfig
) -> list[dict[str, object]]:
    ratio = config.head_learning_rate_ratio if isinstance(config, RewardProxyConfig) else 1.0
    head = [p for name, p in named.items() if "reward_head" in name]
    adapter = [p for name, p in named.items() if "reward_head" not in name]
    groups: list[dict[str, object]] = [{"params": adapter, "lr": config.learning_rate}]
    if head:
        groups.append({"params": head, "lr": config.learning_rate * ratio})
    return groups


def _to_array(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    array: npt.NDArray[np.generic] = tensor.detach().cpu().numpy().copy()
    return array


def _from_array(array: npt.NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
