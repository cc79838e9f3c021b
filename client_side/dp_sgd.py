"""DP-SGD over privacy units: the only trainer.

`RowGradients` gives the gradient of every sequence; this file adds them up per unit, clips each
unit once, adds noise and lets `ProxyOptimizer` step. Sampler, clip, noise and ledger event all come
from one frozen `DpSgdPlan`, so that they cannot disagree.

Covers: one unit one clip, however many sequences a unit has; Poisson sampling with empty batches
as steps of pure noise; a constant normaliser; gradients that are not finite; runs that go on from a
saved state, with as many steps in all and fresh draws and noise.
Does not cover: what is done with the trained weights; side channels of time and memory.

Reference: Abadi et al., "Deep Learning with Differential Privacy" (CCS 2016), Algorithm 1; we
sample units by Poisson sampling and divide by the expected batch size, as its analysis assumes.

Shapes: `U` units and `R` sequences in a physical batch, `D` trainable weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client_side.config import DpTrainingConfig
from client_side.proxy_optimizer import ProxyOptimizer, relative_step_size
from client_side.randomness import Purpose, Randomness
from client_side.row_gradients import RowGradients, clear
from client_side.training_state import TrainingState
from protocol.errors import ConfigurationError
from protocol.ledger import DpSgdEvent, ProxyKind

UnitT = TypeVar("UnitT")
UnitT_contra = TypeVar("UnitT_contra", contravariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class DpSgdPlan:
    """One DP-SGD run, fixed before any record is read; every field is public."""

    noise_multiplier: float
    """Standard deviation of the noise ÷ `max_grad_norm`."""
    sample_rate: float
    """Probability with which each unit enters a step, in (0, 1]."""
    expected_batch_size: float
    """Mean number of units drawn for a step; what the noisy sum is divided by."""
    steps: int
    """Number of steps, empty ones included."""
    max_grad_norm: float
    """L2 bound on what one unit adds to a step."""

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate <= 1:
            raise ConfigurationError(
                f"Expected 0 < sample_rate <= 1, got sample_rate={self.sample_rate:g}. Lower "
                "expected_batch_size or supply more records."
            )
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ConfigurationError(
                f"Expected a finite noise_multiplier >= 0, got {self.noise_multiplier}. Calibrate "
                "it with protocol.accounting.calibrate."
            )

    def event(self, proxy: ProxyKind) -> DpSgdEvent:
        """Return what the ledger must hold for this run."""
        return DpSgdEvent(
            proxy=proxy,
            noise_multiplier=self.noise_multiplier,
            sample_rate=self.sample_rate,
            steps=self.steps,
        )

    def draw_batches(
        self, num_units: int, *, randomness: Randomness, first_step: int = 0
    ) -> tuple[npt.NDArray[np.int64], ...]:
        """Draw the units of every step that is still to be done.

        Args:
            num_units: Number of units at hand; private.
            randomness: Source of the draws.
            first_step: Steps that were done before this training was cut off.

        Returns:
            For each step the positions of its units. Private; must not leave the client.

        Privacy:
            The draws are what amplification by sampling keeps secret. Each step's are independent
            of all others, so those of a step that was lost with a killed process are drawn anew.
        """
        # Privacy: a coin for each unit in each step, and a stream for each step: the event's
        # amplification by sampling rests on draws that are independent of all others.
        return tuple(
            randomness.child(Purpose.DRAWS, step).draw_units(
                num_units, sample_rate=self.sample_rate
            )
            for step in range(first_step, self.steps)
        )


class UnitLoss(Protocol[UnitT_contra]):
    """The loss of some units, and which rows of the model's batch belong to which of them."""

    def __call__(
        self, model: nn.Module, units: Sequence[UnitT_contra]
    ) -> tuple[torch.Tensor, Sequence[int]]:
        """Return the loss of each unit, (U,), and the unit of each of the R sequences."""


class UnitSize(Protocol[UnitT_contra]):
    """How much memory a unit needs."""

    def __call__(self, unit: UnitT_contra) -> tuple[int, int]:
        """Return its number of sequences and the length of the longest."""


@dataclass(frozen=True, kw_only=True)
class DpSgdTask(Generic[UnitT]):
    """What is trained on what; `units` is private."""

    model: nn.Module
    """Model with its trainable weights in float32; changed in place."""
    units: Sequence[UnitT]
    """All privacy units, by number. Where they are prepared only when drawn, an empty one stands
    for each that nobody drew."""
    unit_loss: UnitLoss[UnitT]
    """Loss of a few units at once; no unit's loss may depend on another unit."""
    unit_size: UnitSize[UnitT]
    """Size of one unit."""
    probe: Sequence[UnitT]
    """Two made-up units of unlike lengths, of public text: what the kernel is checked on."""


def train_dp_sgd(
    task: DpSgdTask[UnitT],
    *,
    plan: DpSgdPlan,
    batches: Sequence[npt.NDArray[np.int64]],
    config: DpTrainingConfig,
    randomness: Randomness,
    state: TrainingState | None = None,
    save: Callable[[TrainingState], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Train a model's trainable weights under DP.

    Args:
        task: Model, units and loss.
        plan: The run as the ledger knows it.
        batches: Units of each step that is still to be done, from `plan.draw_batches`.
        config: Step size, its schedule, and the size of physical batches.
        randomness: Source of the noise.
        state: Where an earlier process left this very run; None begins it.
        save: Keeps the state after each step; the next step begins when it returns.
        on_progress: Told after each step how many are done, of how many.

    Returns:
        Mean loss of each step's units, nan for an empty one. Private; must not leave the client.

    Raises:
        ConfigurationError: A physical batch does not fit into the accelerator's memory.
        RuntimeError: The per-sequence gradients do not add up to the gradient, nothing moved, or
            there would be more or fewer steps than planned.

    Privacy:
        The trained weights satisfy the guarantee of `plan.event(...)` towards add-or-remove-one
        unit. The returned losses do not: they are for the operator's eyes alone.
    """
    state = TrainingState() if state is None else state
    # Privacy: as many noisy steps stand behind the weights as the ledger's event says.
    if not state.num_steps + len(batches) == plan.steps == config.steps:
        raise RuntimeError(
            f"Expected {plan.steps} steps in all, found {state.num_steps} done, {len(batches)} to "
            f"do and steps={config.steps}. Draw batches from the step at which the state stands."
        )
    optimizer = ProxyOptimizer(task.model, config)
    if state.num_steps:
        optimizer.restore(state.arrays, num_steps=state.num_steps)
    losses = list(state.losses)
    parameters = optimizer.parameters
    before = _digest(parameters)
    task.model.train()
    try:
        for step, drawn in enumerate(batches, start=state.num_steps):
            _check_kernel(task, parameters)
            gradient, loss_sum = _clipped_sum(
                task, drawn, parameters, plan=plan, max_batch_tokens=config.max_batch_tokens
            )
            # Privacy: noise on the whole sum, once a step, also where nobody was drawn. A stream of
            # its own: whatever was drawn for a step that a killed process lost does not come back.
            noise = randomness.child(Purpose.NOISE, step).gaussian(
                gradient.numel(), standard_deviation=plan.noise_multiplier * plan.max_grad_norm
            )
            gradient += torch.from_numpy(noise).to(gradient.device)
            # Privacy: a constant; the number that was drawn is private.
            optimizer.step(gradient / plan.expected_batch_size, number=step)
            losses.append(loss_sum / len(drawn) if len(drawn) else math.nan)
            if save:
                save(TrainingState(losses=tuple(losses), arrays=optimizer.snapshot()))
            if on_progress:
                on_progress(step + 1, plan.steps)
    except torch.OutOfMemoryError:
        raise ConfigurationError(
            f"Expected physical batches of {config.max_batch_tokens} tokens to fit into the "
            "accelerator's memory, which is full. Lower this proxy's max_batch_tokens, or end what "
            "else computes there."
        ) from None
    finally:
        task.model.zero_grad(set_to_none=True)
    # The last step's size is 0 where the schedule decays to 0, and it may be the only one left.
    can_move = any(relative_step_size(s, config) > 0 for s in range(state.num_steps, plan.steps))
    if can_move and _digest(parameters) == before:
        raise RuntimeError("Expected training to move the adapter, but no weight changed.")
    optimizer.finish()
    task.model.eval()
    return losses


def _clipped_sum(
    task: DpSgdTask[UnitT],
    drawn: npt.NDArray[np.int64],
    parameters: Sequence[nn.Parameter],
    *,
    plan: DpSgdPlan,
    max_batch_tokens: int,
) -> tuple[torch.Tensor, float]:
    total = torch.zeros(
        sum(p.numel() for p in parameters), dtype=torch.float64, device=parameters[0].device
    )  # (D,)
    loss_sum = 0.0
    for batch in _physical_batches(task, drawn, max_batch_tokens):
        units = [task.units[i] for i in batch]
        with RowGradients(task.model, also_whole=False):
            losses, unit_of_row = task.unit_loss(task.model, units)
            losses.sum().backward()
            loss_sum += float(losses.detach().sum())
            _add_clipped(
                total,
                parameters,
                unit_of_row,
                num_units=len(units),
                max_grad_norm=plan.max_grad_norm,
            )
            for parameter in parameters:
                clear(parameter)
    return total, loss_sum


def _add_clipped(
    total: torch.Tensor,
    parameters: Sequence[nn.Parameter],
    unit_of_row: Sequence[int],
    *,
    num_units: int,
    max_grad_norm: float,
) -> None:
    """Add up each unit's rows, clip each unit, and add the units to `total`, (D,) float64.

    The gradients of all units are the largest tensors of a step, so they are read where they are,
    one parameter at a time, and never copied as a whole.
    """
    rows = torch.tensor(unit_of_row, device=parameters[0].device)
    squares = torch.zeros(num_units, dtype=torch.float64, device=rows.device)
    per_unit = []
    for parameter in parameters:
        samples = parameter.grad_sample.detach().flatten(1)  # type: ignore[attr-defined]  # (R, d)
        if len(samples) != len(rows):
            raise RuntimeError(f"Expected {len(rows)} per-sequence gradients, got {len(samples)}.")
        # Privacy: a unit's sequences are one contribution; they are added before clipping.
        unit_sums = samples
        if list(unit_of_row) != list(range(num_units)):
            unit_sums = samples.new_zeros(num_units, samples.shape[1]).index_add_(0, rows, samples)
        squares += torch.linalg.vector_norm(unit_sums, dim=1, dtype=torch.float64).square()
        per_unit.append(unit_sums)
    norms = squares.sqrt()  # (U,)
    # Privacy: no unit adds more than max_grad_norm; one without a finite norm adds nothing.
    is_finite = norms.isfinite()
    factors = (max_grad_norm / norms.clamp(min=max_grad_norm)).where(is_finite, 0.0)
    if not bool(is_finite.all()):
        per_unit = [unit_sums.where(is_finite[:, None], 0.0) for unit_sums in per_unit]
    places = total.split([unit_sums.shape[1] for unit_sums in per_unit])
    for place, unit_sums in zip(places, per_unit, strict=True):
        place.addmv_(unit_sums.double().t(), factors)


def _digest(parameters: Sequence[nn.Parameter]) -> bytes:
    """Return what tells whether weights moved, without a second copy of them through all steps."""
    total = hashlib.sha256()
    for parameter in parameters:
        total.update(parameter.detach().cpu().contiguous().numpy().data)
    return total.digest()


def _check_kernel(task: DpSgdTask[UnitT], parameters: Sequence[nn.Parameter]) -> None:
    """Hold gradients by row against autograd's own, at the weights of this step.

    Hooks that return wrong gradients without a word have been seen (Opacus issue 820).
    """
    # Privacy: on public text at weights that are noisy already, so that a failure tells nothing of
    # the records. On drawn units it could, at starting weights that a server chose.
    with RowGradients(task.model, also_whole=True):
        losses, _ = task.unit_loss(task.model, task.probe)
        losses.sum().backward()
        _check_rows(parameters)
        for parameter in parameters:
            clear(parameter)


def _check_rows(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        samples = parameter.grad_sample  # type: ignore[attr-defined]
        assert parameter.grad is not None
        # Weights that have run away give no numbers on either side, and nothing to compare.
        difference = (samples.sum(dim=0) - parameter.grad).norm()
        scale = samples.norm() + parameter.grad.norm()
        if bool(difference > 1e-2 * scale):
            raise RuntimeError("Per-sequence gradients do not add up to the gradient of the batch.")


def _physical_batches(
    task: DpSgdTask[UnitT], drawn: npt.NDArray[np.int64], max_batch_tokens: int
) -> Iterator[list[int]]:
    """Cut a logical batch into pieces of similar length that keep to the token budget.

    A unit is never divided, and the order of units does not touch the sum that is released. The
    longest come first: what they need of memory, all later pieces find free.
    """
    sizes = {int(i): task.unit_size(task.units[int(i)]) for i in drawn}
    batch: list[int] = []
    num_rows = width = 0
    for index in sorted(sizes, key=lambda i: -sizes[i][1]):
        rows, length = sizes[index]
        if batch and (num_rows + rows) * width > max_batch_tokens:
            yield batch
            batch, num_rows = [], 0
        if not batch:
            width = length
        batch.append(index)
        num_rows += rows
    if batch:
        yield batch
