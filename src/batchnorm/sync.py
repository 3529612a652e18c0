"""Batch norm over the batches of several processes: the operators of `ops`, with a reducer between them."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from batchnorm.autograd import Call, run
from batchnorm.errors import BatchTooSmallError, TransformError
from batchnorm.moments import Moments, RunningStats
from batchnorm.ops import (
    Affine,
    Backend,
    in_function_transform,
    invstd_of,
    is_batched,
    is_plain,
    reference,
    saved,
    select,
)
from batchnorm.ops.layout import like_input
from batchnorm.ops.reference import Gradients
from batchnorm.reducers import GroupReducer
from batchnorm.running import track

__all__ = ["normalize_and_track"]


@torch._disable_dynamo  # type: ignore[attr-defined]
def normalize_and_track(
    x: Tensor,
    affine: Affine,
    eps: float,
    channel_dim: int,
    running: RunningStats,
    momentum: float | None,
    reducer: GroupReducer,
) -> Tensor:
    """As `autograd.normalize_and_track`, over the batches that all ranks of the reducer's group pass.

    Args:
        x: this rank's part, maybe empty; affine, eps, channel_dim, running and momentum as there.
        reducer: merges the ranks' numbers.

    Returns:
        The output in x's dtype.

    Raises:
        BatchTooSmallError: (ValueError) all ranks together have one value a channel; not where looking would wait for
            an accelerator, and not with a mask.
        TransformError: (RuntimeError) a torch.func transform, forward AD or a tracer is at work.
    """
    if in_function_transform() or forward_ad._current_level >= 0 or _is_traced():
        raise TransformError(
            "batch norm over several processes cannot pass torch.func transforms, forward-mode AD or tracers in "
            "training, since they cannot see what the other ranks do; call eval(), or "
            'bn.convert(model, to="batchnorm") for statistics of this rank alone'
        )
    plain = is_plain(x, affine.weight, affine.bias, affine.residual)
    call = _Joint(select(x, affine) if plain else reference, affine.act, affine.mask, eps, channel_dim)
    call.running, call.momentum, call.reducer = running, momentum, reducer
    return run(x, affine, call)


def _is_traced() -> bool:
    return (
        torch._C._get_tracing_state() is not None
        or torch.compiler.is_compiling()  # by torch.export: torch.compile does not come here
        or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
    )


class _Joint(Call):
    """A call whose statistics are those of all ranks."""

    __slots__ = ("reducer",)

    reducer: GroupReducer

    def run(self, x: Tensor, affine: Affine) -> Tensor:
        joined = self.reducer.moments(self.backend.moments(x, affine.mask, self.channel_dim))
        if not isinstance(joined.count, Tensor) and joined.count == 1:
            raise BatchTooSmallError(
                "Expected more than 1 value per channel when training, got input size "
                f"{x.size()} on this rank and 1 value on all ranks together. "
                "Use eval(), a larger batch, drop_last=True in the DataLoader, or FrozenBatchNorm."
            )
        invstd = invstd_of(joined.var, x, self.eps)
        self.rows = saved.join(joined, invstd)
        output = like_input(x, self.backend.normalize(x, joined.mean, invstd, affine, self.channel_dim))
        if self.running is not None and any(buffer is not None for buffer in self.running):
            track(self.running, joined, self.momentum)
        return output

    def moments(self, x: Tensor, mask: Tensor | None) -> Moments:
        # Sums about the known mean: exact, and one collective instead of two.
        local = reference.moments(x, mask, self.channel_dim)
        mean, _, _, count = self.rows_of(x)
        distance = local.mean - mean
        sums = torch.stack([distance, local.var + distance.square()]) * local.count
        first, second = (self.reducer.sum(sums) / count.clamp(min=1)).unbind()
        return Moments(count, mean + first, second - first.square())

    def backward(
        self,
        backend: Backend,
        grad_output: Tensor,
        x: Tensor,
        affine: Affine,
        needs: Sequence[bool],
        output: Tensor | None,
    ) -> Gradients:
        """As `reference.backward`, with the sums of all ranks in the gradient of x."""
        if is_batched(grad_output):
            raise TransformError(
                "batch norm over several processes cannot batch its gradients (is_grads_batched)"
            )
        if output is not None:
            grad_output = torch.where(output <= 0, 0.0, grad_output)
            affine = affine._replace(act=None)
        mean, invstd, _, count = self.rows_of(x)
        grad_x = grad_weight = grad_bias = grad_residual = means = None
        if any(needs[:3]):
            sums = backend.grad_moments(grad_output, x, mean, invstd, affine, self.channel_dim)
            grad_weight = (sums[1] * invstd).to(self.parameter_dtype) if needs[1] else None
            grad_bias = sums[0].to(self.parameter_dtype) if needs[2] else None
        if needs[0]:
            mean_dy, mean_dy_xmu = self.reducer.sum(torch.stack(sums)) / count.clamp(min=1)
            means = mean_dy, mean_dy_xmu
        if needs[0] or needs[3]:
            of_x, of_residual = backend.grad_input(
                grad_output, x, mean, invstd, affine, self.channel_dim, means
            )
            grad_x = of_x if needs[0] else None
            grad_residual = of_residual if needs[3] else None
        return grad_x, grad_weight, grad_bias, grad_residual
