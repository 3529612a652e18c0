"""Ghost batch norm: statistics of small virtual batches inside a large one."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from batchnorm.activations import ActivationLike, resolve
from batchnorm.arguments import mask_of_lengths, validate
from batchnorm.autograd import Call, normalize_with_batch, run
from batchnorm.errors import ArgumentError, BatchTooSmallError
from batchnorm.moments import UNTRACKED, Moments, RunningStats
from batchnorm.nn.tracked import TrackedNorm, packed_alike, packed_as
from batchnorm.ops import Affine, invstd_of, is_plain, reference
from batchnorm.ops.layout import form_of, like_input
from batchnorm.running import is_recomputed, track_values

__all__ = ["GhostBatchNorm1d", "GhostBatchNorm2d", "GhostBatchNorm3d"]


class _GhostBatchNorm(TrackedNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        virtual_batch_size: int = 32,
    ) -> None:
        if (
            not isinstance(virtual_batch_size, int)
            or isinstance(virtual_batch_size, bool)
            or virtual_batch_size < 1
        ):
            raise ArgumentError(
                f"virtual_batch_size must be a positive number of samples, got {virtual_batch_size!r}"
            )
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype, bias=bias
        )
        self.virtual_batch_size = virtual_batch_size

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, virtual_batch_size={self.virtual_batch_size}"

    def _forward_packed(
        self,
        input: PackedSequence,
        residual: Tensor | PackedSequence | None,
        act: ActivationLike,
        mask: Tensor | None,
        lengths: Tensor | Sequence[int] | None,
    ) -> PackedSequence:
        valid = self._takes_rows and mask is None and lengths is None
        if not valid or not self._uses_groups(input.batch_sizes[0]):
            return super()._forward_packed(input, residual, act, mask, lengths)
        padded, steps = pad_packed_sequence(input, batch_first=True)
        kept = None
        if residual is not None:
            kept, _ = pad_packed_sequence(packed_as(input, packed_alike(input, residual)), batch_first=True)
            kept = kept.mT
        output = self._normalize(padded.mT, kept, act, mask_of_lengths(padded, steps, -1)).mT
        if input.sorted_indices is not None:
            output = output.index_select(0, input.sorted_indices)
            steps = steps.index_select(0, input.sorted_indices.cpu())
        return packed_as(input, pack_padded_sequence(output, steps, batch_first=True).data)

    def _uses_groups(self, samples: Any) -> bool:
        if not self.training and not (self.running_mean is None and self.running_var is None):
            return False
        return bool(samples > self.virtual_batch_size)

    def _normalize(
        self, input: Tensor, residual: Tensor | None, act: ActivationLike, mask: Tensor | None
    ) -> Tensor:
        if not self._uses_groups(input.size(0)) or input.numel() == 0:
            return super()._normalize(input, residual, act, mask)
        stats = UNTRACKED
        if self.training and self.track_running_stats:
            stats = RunningStats(self.running_mean, self.running_var, self.num_batches_tracked)
        affine = Affine(self.weight, self.bias, residual, resolve(act), mask)
        _, affine = validate(input, stats, affine, True, self.momentum, self.eps, 1)
        output, groups = _normalize_groups(input, affine, self.eps, self.virtual_batch_size)
        # Outside the condition, since selective checkpointing pairs the operators of both passes one by one.
        count, mean, var = _typical(groups, input.size(1))
        if stats is not UNTRACKED and not is_recomputed():
            track_values(stats, (mean, var), count, self.momentum)
        return output


def _normalize_groups(x: Tensor, affine: Affine, eps: float, size: int) -> tuple[Tensor, Sequence[Moments]]:
    """Normalize groups of `size` samples, each by itself.

    Of the G * size first samples, number n is in group n mod G, so that (G * size, C, *) needs no copy to be seen as
    (size, G * C, *): each group's channels are channels of their own. The samples that remain are one group more.

    Returns:
        The output in x's memory format; and moments, the first (G * C,), the second (C,) where samples remained.
    """
    samples, channels = x.size(0), x.size(1)
    positions = x.numel() // (samples * channels)
    groups = samples // size
    full = groups * size
    if (samples - full) * positions == 1:  # a value alone has no variance: its sample joins the group before
        groups, full = groups - 1, full - size
    if size * positions == 1 and affine.mask is None:
        raise BatchTooSmallError(
            f"Expected more than 1 value per channel when training, got input size {x.size()} in virtual batches of "
            "1 sample. Use eval(), or a larger virtual_batch_size."
        )
    if full == samples:
        output, batch = _normalize_full(x, affine, eps, groups)
        return like_input(x, output), [batch]
    if not full:
        output, batch = normalize_with_batch(x, affine, eps, 1)
        return output, [batch]
    (head, head_affine), (tail, tail_affine) = _split(x, affine, full)
    output, batch = _normalize_full(head, head_affine, eps, groups)
    rest, rest_batch = normalize_with_batch(tail, tail_affine, eps, 1)
    return like_input(x, torch.cat([output, rest])), [batch, rest_batch]


def _split(x: Tensor, affine: Affine, full: int) -> list[tuple[Tensor, Affine]]:
    # By split, whose backward is one concatenation; that of two slices is two tensors of x's size and their sum.
    sizes = [full, x.size(0) - full]
    residual, mask = affine.residual, affine.mask
    residuals = [None, None] if residual is None else residual.split(sizes)
    masks = [None, None] if mask is None else mask.split(sizes)
    return [
        (part, affine._replace(residual=r, mask=m))
        for part, r, m in zip(x.split(sizes), residuals, masks, strict=True)
    ]


def _normalize_full(x: Tensor, affine: Affine, eps: float, groups: int) -> tuple[Tensor, Moments]:
    if groups == 1:
        return normalize_with_batch(x, affine, eps, 1)
    weight, bias, residual, act, mask = affine
    tiled = Affine(
        _tile(weight, groups),
        _tile(bias, groups),
        None if residual is None else _to_channels(residual, groups),
        act,
        None if mask is None else _to_channels(mask.expand_as(x), groups),
    )
    grouped = _to_channels(x, groups)
    if mask is None:
        output, batch = normalize_with_batch(grouped, tiled, eps, 1)
    else:
        output, batch = _normalize_masked(grouped, tiled, eps)
    return _to_samples(output, groups), batch


def _tile(parameter: Tensor | None, groups: int) -> Tensor | None:
    if parameter is None:
        return None
    # Its gradient is a sum over groups, too long for half precision.
    wide = parameter.float() if parameter.dtype.itemsize < 4 else parameter
    return wide.repeat(groups)


def _to_channels(x: Tensor, groups: int) -> Tensor:
    """(G * size, C, *) as (size, G * C, *), in the memory format of x."""
    if form_of(x) is torch.contiguous_format:
        return x.unflatten(0, (-1, groups)).flatten(1, 2)
    # Channels last, where that is a copy: in an order that keeps each position's channels together.
    return x.movedim(1, -1).unflatten(0, (-1, groups)).movedim(1, -2).flatten(-2).movedim(-1, 1)


def _to_samples(x: Tensor, groups: int) -> Tensor:
    """What `_to_channels` was given."""
    if form_of(x) is torch.contiguous_format:
        return x.unflatten(1, (groups, -1)).flatten(0, 1)
    return x.movedim(1, -1).unflatten(-1, (groups, -1)).movedim(-2, 1).flatten(0, 1).movedim(-1, 1)


def _normalize_masked(x: Tensor, affine: Affine, eps: float) -> tuple[Tensor, Moments]:
    # Each group has valid positions of its own, and a kernel knows one mask for all channels.
    if is_plain(x, affine.weight, affine.bias, affine.residual):
        call = Call(reference, affine.act, affine.mask, eps, 1)
        output = run(x, affine, call)
        mean, _, var, count = call.rows_of(x).unbind()
        return output, Moments(count, mean, var)
    batch = reference.moments(x, affine.mask, 1)
    return reference.normalize(x, batch.mean, invstd_of(batch.var, x, eps), affine, 1), batch


def _typical(parts: Sequence[Moments], channels: int) -> tuple[int | Tensor, Tensor, Tensor]:
    """Count, mean and variance of a typical group: those of one value of the batch within its group.

    mean = sum_g count_g mean_g / count;  var = sum_g count_g var_g / sum_g (count_g - 1)

    The variance is the pooled one of analysis of variance: unbiased, and the mean of the groups' unbiased variances
    where all groups have one size. How far the groups' means lie apart is not in it, since training did not see that
    either. A group with fewer than two valid values adds nothing.
    """
    first = parts[0]
    if len(parts) == 1 and not isinstance(first.count, Tensor):  # groups of one size, without a mask
        mean, var = (values.view(-1, channels) for values in (first.mean, first.unbiased_var()))
        return first.count * mean.size(0), mean.mean(0), var.mean(0)
    by_group = [_by_group(part, channels) for part in parts]
    count, mean, var = (torch.cat(numbers) for numbers in zip(*by_group, strict=True))
    usable = count > 1
    count = torch.where(usable, count, 0)
    total = count.sum()
    mean_sum = (torch.where(usable, mean, 0) * count).sum(0)
    square_sum = (torch.where(usable, var, 0) * count).sum(0)
    free = (count - 1).clamp(min=0).sum()
    return total, mean_sum / total.clamp(min=1), square_sum / free.clamp(min=1)


def _by_group(batch: Moments, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    mean, var = batch.mean.detach().view(-1, channels), batch.var.detach().view(-1, channels)
    count = batch.count if isinstance(batch.count, Tensor) else mean.new_full((), batch.count)
    if count.dim() == 1:
        count = count.view(-1, channels)[:, 0]
    return count.detach().expand(mean.size(0)).unsqueeze(1), mean, var


class GhostBatchNorm1d(_GhostBatchNorm):
    """Batch normalization of (N, C) or (N, C, L) in which small groups of samples have statistics of their own.

    y = act((x - mean_g) / sqrt(var_g + eps) * weight + bias + residual), g the virtual batch of the sample.

    Training cuts the batch into G = N // virtual_batch_size groups: sample n is in group n mod G. What remains is one
    group more; were that a single value a channel, it would be one group of virtual_batch_size + 1 samples, and G one
    less. A batch of no more than virtual_batch_size samples, and evaluation, are plain batch norm. The running
    statistics become those of a typical group: the mean of the groups' means and their pooled variance, weighted by
    count; a batch ticks the counter once. It is no `_BatchNorm`, since in training it is none.

    Args:
        num_features: channels C. The other positional arguments, and bias, are those of `BatchNorm1d`.
        virtual_batch_size: keyword; samples of a group, all positions of a sample being in one. Default 32.

    Call:
        layer(input, residual=None, *, act=None, mask=None, lengths=None); see `BatchNorm1d`. A group counts its own
        valid positions; one with fewer than two has variance 0 and moves nothing. `input` may be a PackedSequence,
        whose samples are its sequences in the order before packing.

    Raises:
        ArgumentError: (ValueError) virtual_batch_size is not a positive int.
        DimensionError: (ValueError) the input is not 2-D or 3-D.
        BatchTooSmallError: (ValueError) training with one value a channel in each group.

    Example:
        >>> import torch, batchnorm as bn
        >>> layer, x = bn.GhostBatchNorm1d(4, virtual_batch_size=8), torch.randn(16, 4)
        >>> torch.allclose(layer(x)[::2], bn.BatchNorm1d(4)(x[::2]), atol=1e-6)
        True

    Source: Hoffer, Hubara and Soudry 2017, arXiv:1705.08741, algorithm 1.
    """

    _ranks: ClassVar[tuple[int, ...]] = (2, 3)
    _takes_rows: ClassVar[bool] = True


class GhostBatchNorm2d(_GhostBatchNorm):
    """Batch normalization of images (N, C, H, W) in which small groups of images have statistics of their own.

    y = act((x - mean_g) / sqrt(var_g + eps) * weight + bias + residual), g the virtual batch of the image.

    Args:
        num_features: channels C. The other arguments are those of `GhostBatchNorm1d`.

    Call:
        layer(input, residual=None, *, act=None, mask=None); mask is (N, H, W).

    Raises:
        ArgumentError: (ValueError) virtual_batch_size is not a positive int.
        DimensionError: (ValueError) the input is not 4-D.
        BatchTooSmallError: (ValueError) training with one value a channel in each group.

    Example:
        >>> import torch, batchnorm as bn
        >>> bn.GhostBatchNorm2d(16, virtual_batch_size=8)(torch.randn(20, 16, 7, 7), act="relu").shape
        torch.Size([20, 16, 7, 7])

    Source: Hoffer, Hubara and Soudry 2017, arXiv:1705.08741, algorithm 1.
    """

    _ranks: ClassVar[tuple[int, ...]] = (4,)


class GhostBatchNorm3d(_GhostBatchNorm):
    """Batch normalization of volumes (N, C, D, H, W) in which small groups of volumes have statistics of their own.

    y = act((x - mean_g) / sqrt(var_g + eps) * weight + bias + residual), g the virtual batch of the volume.

    Args:
        num_features: channels C. The other arguments are those of `GhostBatchNorm1d`.

    Call:
        layer(input, residual=None, *, act=None, mask=None); mask is (N, D, H, W).

    Raises:
        ArgumentError: (ValueError) virtual_batch_size is not a positive int.
        DimensionError: (ValueError) the input is not 5-D.
        BatchTooSmallError: (ValueError) training with one value a channel in each group.

    Example:
        >>> import torch, batchnorm as bn
        >>> bn.GhostBatchNorm3d(4, virtual_batch_size=2)(torch.randn(5, 4, 2, 3, 3)).shape
        torch.Size([5, 4, 2, 3, 3])

    Source: Hoffer, Hubara and Soudry 2017, arXiv:1705.08741, algorithm 1.
    """

    _ranks: ClassVar[tuple[int, ...]] = (5,)
