"""What all our layers share: the call, buffers that stay wide, and being one node to torch.fx."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn import Module
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.nn.utils.rnn import PackedSequence

from batchnorm.activations import ActivationLike, resolve
from batchnorm.arguments import mask_of_lengths
from batchnorm.autograd import normalize_directly
from batchnorm.errors import ArgumentError, DimensionError, TransformError
from batchnorm.functional import normalize_and_track
from batchnorm.moments import RunningStats
from batchnorm.ops import Affine

__all__ = ["TrackedNorm", "packed_alike", "packed_as"]


class TrackedNorm(_NormBase):
    """Mixed in before a torch norm class: replaces its forward and keeps its running statistics wide."""

    _ranks: ClassVar[tuple[int, ...]] = ()  # empty: any from 2
    _channel_dim: ClassVar[int] = 1
    _wide_buffers: ClassVar[tuple[str, ...]] = ("running_mean", "running_var")
    # (N, C) rows, such as the data of a PackedSequence, are an input; only there do `lengths` have a meaning.
    _takes_rows: ClassVar[bool] = False

    def forward(
        self,
        input: Tensor | PackedSequence,
        residual: Tensor | PackedSequence | None = None,
        *,
        act: ActivationLike = None,
        mask: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Any:
        """Return act(BN(input) + residual).

        Args:
            input: of the layer's rank; a PackedSequence where the layer takes (N, C), normalized over its values.
            residual: like input; added before the activation.
            act: name or torch module of an activation; see `batchnorm.functional.batch_norm`.
            mask: bool, True = valid, input's shape without the channel dimension.
            lengths: N integers, the valid steps of each sequence; for sequences only, in place of mask.

        Returns:
            The same kind, shape and dtype as input.

        Raises:
            DimensionError: (ValueError) the input's rank is not the layer's.
            ArgumentError: (ValueError) mask or lengths do not fit.
            As `batchnorm.functional.batch_norm` otherwise.
        """
        if isinstance(input, Tensor):
            self._check_input_dim(input)
        elif isinstance(input, PackedSequence):
            return self._forward_packed(input, residual, act, mask, lengths)
        elif isinstance(input, Proxy):  # only a root's forward is called with one; see __call__
            raise TransformError(
                f"torch.fx cannot trace a {type(self).__name__} alone; put it into an nn.Sequential"
            )
        if isinstance(residual, PackedSequence):
            raise ArgumentError(
                "residual is a PackedSequence but the input is a Tensor; pack both or neither"
            )
        if lengths is not None:
            mask = self._mask_of(input, mask, lengths)
        return self._normalize(input, residual, act, mask)

    def _normalize(
        self, input: Tensor, residual: Tensor | None, act: ActivationLike, mask: Tensor | None
    ) -> Tensor:
        try:  # attributes of a module take a detour through three dictionaries in Python
            weight, bias = self._parameters["weight"], self._parameters["bias"]
        except KeyError:  # torch.nn.utils.parametrize and the like have put something else there
            weight, bias = self.weight, self.bias
        try:
            running_mean, running_var = self._buffers["running_mean"], self._buffers["running_var"]
            counter = self._buffers["num_batches_tracked"]
        except KeyError:
            running_mean, running_var, counter = self.running_mean, self.running_var, self.num_batches_tracked
        training = self.training
        if not training:
            counter = None
            training = running_mean is None and running_var is None
        elif not self.track_running_stats:
            running_mean = running_var = counter = None
        momentum, eps, channel_dim, act = self.momentum, self.eps, self._channel_dim, resolve(act)
        if mask is None:
            output = normalize_directly(
                input, weight, bias, residual, act, running_mean, running_var, counter, training, momentum, eps,
                channel_dim,
            )  # fmt: skip
            if output is not None:
                return output
        stats = RunningStats(running_mean, running_var, counter)
        affine = Affine(weight, bias, residual, act, mask)
        return normalize_and_track(input, stats, affine, training, momentum, eps, channel_dim)

    def _normalize_with(
        self,
        stats: RunningStats,
        training: bool,
        input: Tensor,
        residual: Tensor | None,
        act: ActivationLike,
        mask: Tensor | None,
    ) -> Tensor:
        """What `_normalize` does, with statistics that a layer chooses: moved in training, used otherwise."""
        # `_normalize` does not end in a call of this: on small tensors a call more is some per cent of its time.
        weight, bias, act = self.weight, self.bias, resolve(act)
        if mask is None:
            output = normalize_directly(
                input,
                weight,
                bias,
                residual,
                act,
                *stats,
                training,
                self.momentum,
                self.eps,
                self._channel_dim,
            )
            if output is not None:
                return output
        affine = Affine(weight, bias, residual, act, mask)
        return normalize_and_track(input, stats, affine, training, self.momentum, self.eps, self._channel_dim)

    def _forward_packed(
        self,
        input: PackedSequence,
        residual: Tensor | PackedSequence | None,
        act: ActivationLike,
        mask: Tensor | None,
        lengths: Tensor | Sequence[int] | None,
    ) -> PackedSequence:
        if not self._takes_rows:
            raise DimensionError(f"{type(self).__name__} takes no PackedSequence; use BatchNorm1d")
        if mask is not None or lengths is not None:
            raise ArgumentError("a PackedSequence holds valid values only; mask and lengths must be None")
        kept = None if residual is None else packed_alike(input, residual)
        data = self._normalize(input.data, kept, act, None)
        return packed_as(input, data)

    def _mask_of(self, input: Tensor, mask: Tensor | None, lengths: Tensor | Sequence[int]) -> Tensor:
        if mask is not None:
            raise ArgumentError("give mask or lengths, not both")
        if not self._takes_rows:
            raise ArgumentError(
                f"lengths belong to a batch of sequences, which {type(self).__name__} does not take; give a mask"
            )
        return mask_of_lengths(input, lengths, self._channel_dim)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() in self._ranks or (not self._ranks and input.dim() >= 2):
            return
        expected = " or ".join(f"{rank}D" for rank in self._ranks) or "at least 2D"
        raise DimensionError(f"expected {expected} input (got {input.dim()}D input)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer; to torch.fx it is a leaf, as torch's own layers are: one node, hooks, state and mode kept."""
        if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
            return super().__call__(args[0])
        proxy = None
        for value in (*args, *kwargs.values()):
            if isinstance(value, Proxy):
                proxy = value
        if proxy is None:
            return super().__call__(*args, **kwargs)
        if isinstance(kwargs.get("act"), Module):
            kwargs["act"] = resolve(kwargs["act"])  # a graph holds values, and modules of the model, only
        path = proxy.tracer.path_of_module(self)  # type: ignore[attr-defined]
        return proxy.tracer.create_proxy("call_module", path, args, kwargs)

    def __prepare_scriptable__(self) -> Any:
        """Refuse torch.jit.script, which asks this of every module that it finds."""
        name = type(self).__name__
        raise TransformError(
            f"torch.jit.script cannot compile {name}; use torch.export.export or torch.jit.trace of the model in "
            "eval(), or batchnorm.convert(model, to='torch') before scripting"
        )

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1 and the counter to 0; keeps both float32 or wider."""
        self._widen_buffers()
        super().reset_running_stats()

    def _widen_buffers(self) -> None:
        for name in self._wide_buffers:
            buffer = self._buffers.get(name)
            if buffer is not None and _is_narrow(buffer):
                self._buffers[name] = _widened(buffer)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # half(), bfloat16() and the like would round the statistics: take the device, not the dtype.
        before = {name: self._buffers.get(name) for name in self._wide_buffers}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers.get(name)
            if old is not None and new is not None and _is_narrow(new) and not _is_narrow(old):
                source = new if old.is_meta else old
                self._buffers[name] = source.to(device=new.device, dtype=old.dtype)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._widen_buffers()  # assign=True takes the checkpoint's tensors as they are


def _is_narrow(buffer: Tensor) -> bool:
    return buffer.is_floating_point() and buffer.dtype.itemsize < 4


def _widened(buffer: Tensor) -> Tensor:
    if is_lazy(buffer):
        return UninitializedBuffer(device=buffer.device, dtype=torch.float32)  # type: ignore[call-arg]
    return buffer.to(torch.float32)


def packed_alike(input: PackedSequence, residual: Tensor | PackedSequence) -> Tensor:
    """The residual's values, after a look that they are packed as the input's are."""
    if not isinstance(residual, PackedSequence):
        raise ArgumentError("residual is a Tensor but the input is a PackedSequence; pack both or neither")
    first, second = input.sorted_indices, residual.sorted_indices
    same_order = first is second or (first is not None and second is not None and torch.equal(first, second))
    if not same_order or not torch.equal(input.batch_sizes, residual.batch_sizes):
        raise ArgumentError("residual must be packed as the input is: the same lengths in the same order")
    return residual.data


def packed_as(input: PackedSequence, data: Tensor) -> PackedSequence:
    """Other values in the order of the input's."""
    return PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
