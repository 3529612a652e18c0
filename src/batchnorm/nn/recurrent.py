"""Batch norm inside a recurrent network: statistics of each time step."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from batchnorm.activations import ActivationLike, resolve
from batchnorm.arguments import validate
from batchnorm.functional import normalize_and_track
from batchnorm.moments import UNTRACKED, RunningStats
from batchnorm.nn.bank import StatisticsBank, whole_number
from batchnorm.ops import Affine
from batchnorm.running import is_recomputed, track_values

__all__ = ["RecurrentBatchNorm1d"]

# Cooijmans 2017, section 4: with 1 the tanh saturates and gradients vanish over time.
_INITIAL_WEIGHT = 0.1


class RecurrentBatchNorm1d(StatisticsBank):
    """Batch normalization of (N, C), one time step, with running statistics of each step; weight and bias are shared.

    y = act((x - mean) / sqrt(var + eps) * weight + bias + residual), a channel each; in training mean and biased
    variance are those of the batch at this step and move this step's running statistics; in evaluation they are these.

    Steps from max_steps on use the statistics of the last step that has its own, max_steps - 1. In training they use
    their batch's and move nothing: those statistics stay one step's, with one update a pass as all others. The paper
    has this for sequences longer than any in training, so let max_steps be the longest training sequence.

    Args:
        num_features: channels C.
        max_steps: T, steps with statistics of their own, at least 1. running_mean and running_var are (T, C),
            num_batches_tracked is (T,).
        eps: added to the variance. Default 1e-5.
        momentum: weight of the new batch; None for the cumulative average. Default 0.1.
        affine: learn weight (C,), which starts at 0.1, and bias (C,). Default True.
        device: of parameters and buffers.
        dtype: of weight and bias; running statistics are float32 or wider whatever it is.
        bias: keyword; False leaves the bias out. Default True.

    Call:
        layer(input, residual=None, *, step, act=None, mask=None); see `forward`.

    Raises:
        ArgumentError: (ValueError) max_steps is not positive, or step is negative.
        ArgumentTypeError: (TypeError) one of them is no int.
        DimensionError: (ValueError) the input is not 2-D or 3-D.
        BatchTooSmallError: (ValueError) training with one sample and without a mask.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer = bn.RecurrentBatchNorm1d(4, max_steps=3)
        >>> for step in range(2):
        ...     h = layer(torch.randn(8, 4), step=step, act=None)
        >>> layer.num_batches_tracked
        tensor([1, 1, 0])

    Source: Cooijmans et al. 2017, "Recurrent Batch Normalization", arXiv:1603.09025, section 3.
    """

    _ranks: ClassVar[tuple[int, ...]] = (2, 3)

    def __init__(
        self,
        num_features: int,
        max_steps: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        whole_number("max_steps", max_steps, least=1)
        super().__init__(max_steps, num_features, eps, momentum, affine, device, dtype, bias)
        self.max_steps = max_steps

    def reset_parameters(self) -> None:
        """Set the weight to 0.1, the bias to 0, and the statistics as `reset_running_stats` does."""
        super().reset_parameters()
        if self.weight is not None:
            torch.nn.init.constant_(self.weight, _INITIAL_WEIGHT)

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        step: int,
        act: ActivationLike = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return act(BN(input) + residual) with the statistics of a time step.

        Args:
            input: (N, C), the values at one step; or (N, L, C), those of L steps, each normalized by itself.
            residual: like input; added before the activation.
            step: from 0; where the input has L steps, that of the first.
            act: name or torch module of an activation.
            mask: bool, True = valid, (N,) or (N, L): the sequences that have not ended.

        Returns:
            The same shape and dtype as input.
        """
        whole_number("step", step)
        self._check_input_dim(input)
        if input.dim() == 2:
            return self._normalize_step(step, input, residual, act, mask)
        # Of all steps together: cut into steps, tensors of more steps than the input's would fit too.
        _, affine = validate(
            input,
            self._row(0),
            Affine(self.weight, self.bias, residual, None, mask),
            self.training,
            self.momentum,
            self.eps,
            channel_dim=2,
            joined=True,
        )
        mask = None if affine.mask is None else affine.mask.squeeze(2)
        if mask is None and not (self.training and self.momentum is None):
            return self._normalize_steps(step, input, residual, act)
        # A mask leaves each step another count, and in a cumulative average each step has another weight.
        parts = [
            self._normalize_step(step + n, part, _step_of(residual, n), act, _step_of(mask, n))
            for n, part in enumerate(input.unbind(1))
        ]
        return torch.stack(parts, 1)

    def _normalize_step(
        self, step: int, input: Tensor, residual: Tensor | None, act: ActivationLike, mask: Tensor | None
    ) -> Tensor:
        beyond = self.training and step >= self.max_steps
        stats = UNTRACKED if beyond else self._row(min(step, self.max_steps - 1))
        return self._normalize_with(stats, self.training, input, residual, act, mask)

    def _normalize_steps(
        self, first: int, input: Tensor, residual: Tensor | None, act: ActivationLike
    ) -> Tensor:
        """Normalize (N, L, C) in one call, as L * C channels."""
        own = min(max(self.max_steps - first, 0), input.size(1))  # steps with statistics of their own
        if not self.training or own in (0, input.size(1)):
            return self._normalize_flat(first, input, residual, act)
        parts = [
            self._normalize_flat(first + start, input[:, start:stop], _steps_of(residual, start, stop), act)
            for start, stop in ((0, own), (own, input.size(1)))
        ]
        return torch.cat(parts, 1)

    def _normalize_flat(
        self, first: int, input: Tensor, residual: Tensor | None, act: ActivationLike
    ) -> Tensor:
        steps = input.size(1)
        tracked = self.training and self.track_running_stats and first < self.max_steps
        assert self.running_mean is not None
        assert self.running_var is not None
        if tracked:
            mean, var = (
                rows[first : first + steps].view(-1) for rows in (self.running_mean, self.running_var)
            )
            stats = RunningStats(mean, var)
        elif self.training:
            stats = UNTRACKED
        else:
            rows = torch.arange(first, first + steps, device=input.device).clamp(max=self.max_steps - 1)
            stats = RunningStats(self.running_mean[rows].view(-1), self.running_var[rows].view(-1))
        weight, bias = (None if one is None else one.repeat(steps) for one in (self.weight, self.bias))
        flat = None if residual is None else residual.flatten(1)
        affine = Affine(weight, bias, flat, resolve(act))
        output = normalize_and_track(
            input.flatten(1), stats, affine, self.training, self.momentum, self.eps, 1
        )
        if tracked and not is_recomputed():
            counter = self.num_batches_tracked[first : first + steps]  # type: ignore[index]
            track_values(RunningStats(None, None, counter), (), input.size(0), self.momentum)
        return output.reshape(input.shape)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, max_steps={self.max_steps}"


def _step_of(tensor: Tensor | None, n: int) -> Tensor | None:
    return None if tensor is None else tensor[:, n]


def _steps_of(tensor: Tensor | None, start: int, stop: int) -> Tensor | None:
    return None if tensor is None else tensor[:, start:stop]
