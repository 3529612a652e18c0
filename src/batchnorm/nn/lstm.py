"""The LSTM with batch norm in its recurrence."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.functional import linear
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from batchnorm.arguments import mask_of_lengths
from batchnorm.errors import ArgumentError, DimensionError, ShapeError
from batchnorm.nn.bank import whole_number
from batchnorm.nn.recurrent import RecurrentBatchNorm1d
from batchnorm.ops.reference import compute_dtype

__all__ = ["BatchNormLSTM"]

State = tuple[Tensor, Tensor]


class BatchNormLSTM(nn.Module):
    """One layer of LSTM with batch norm on both products and on the way from the cell to the output.

    i, f, g, o = BN(W_hh h) + BN(W_ih x) + b
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(BN(c))

    The cell itself is not normalized, so that gradients pass through it as in an LSTM. Each time step has its own
    statistics, of the sequences that have not ended; see `RecurrentBatchNorm1d`. b is `norm_ih.bias`. A step that one
    sequence alone reaches has variance 0 in training and moves no statistics.

    Args:
        input_size: features of the input at a step, I.
        hidden_size: features of h and c, H.
        max_steps: time steps with statistics of their own: the length of the longest training sequence.
        batch_first: input and output are (N, L, *) instead of (L, N, *). Default False.
        eps: added to the variances. Default 1e-5.
        momentum: of the running statistics. Default 0.1.
        device: of parameters and buffers.
        dtype: of the parameters.

    Call:
        layer(input, hx=None, *, lengths=None) -> (output, (h, c)); see `forward`.

    Raises:
        ArgumentError: (ValueError) a size is not positive, lengths do not fit, or the dtype is not that of the weights.
        DimensionError: (ValueError) the input is not 3-D.
        ShapeError: (RuntimeError) the input's features or the initial state have another size, or there is no step.
        BatchTooSmallError: (ValueError) training with one sequence.

    Example:
        >>> import torch, batchnorm as bn
        >>> lstm = bn.BatchNormLSTM(8, 16, max_steps=20, batch_first=True)
        >>> output, (h, c) = lstm(torch.randn(4, 20, 8), lengths=torch.tensor([20, 11, 5, 20]))
        >>> output.shape, h.shape
        (torch.Size([4, 20, 16]), torch.Size([1, 4, 16]))

    Source: Cooijmans et al. 2017, arXiv:1603.09025, equations 6 to 8. The start is that of the authors' code for
    sequential MNIST: W_ih orthogonal; of W_hh the identity for g and an orthogonal matrix for the gates; norm weights
    0.1; the forget gate's bias 1, the others 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        max_steps: int,
        batch_first: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size = whole_number("input_size", input_size, least=1)
        self.hidden_size = whole_number("hidden_size", hidden_size, least=1)
        self.max_steps, self.batch_first = max_steps, batch_first
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size, **made))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size, **made))
        settings = {"max_steps": max_steps, "eps": eps, "momentum": momentum, **made}
        self.norm_ih = RecurrentBatchNorm1d(4 * hidden_size, **settings)
        self.norm_hh = RecurrentBatchNorm1d(4 * hidden_size, bias=False, **settings)
        self.norm_c = RecurrentBatchNorm1d(hidden_size, **settings)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew and set the norms back to their start."""
        size, device = self.hidden_size, self.weight_hh.device
        for norm in (self.norm_ih, self.norm_hh, self.norm_c):
            norm.reset_parameters()
        with torch.no_grad():
            # The decomposition knows no type narrower than float32.
            made: dict[str, Any] = {"device": device, "dtype": compute_dtype(self.weight_hh)}
            self.weight_ih.copy_(nn.init.orthogonal_(torch.empty(4 * size, self.input_size, **made)))
            i, f, o = nn.init.orthogonal_(torch.empty(3 * size, size, **made)).split(size)
            self.weight_hh.copy_(torch.cat([i, f, torch.eye(size, **made), o]))
            self.norm_ih.bias[size : 2 * size] = 1

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, State]:
        """Run over sequences.

        Args:
            input: (L, N, I), (N, L, I) with batch_first, or a PackedSequence.
            hx: initial h and c, (1, N, H) each; default zeros.
            lengths: N integers from 1 to L, the valid steps of each sequence; default all. Their values are read on
                the CPU.

        Returns:
            output: h of every step, as the input is laid out, (L, N, H), (N, L, H) or packed; 0 behind a
                sequence's end.
            (h, c): (1, N, H) each, after the last valid step of each sequence.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ArgumentError("a PackedSequence has its lengths; lengths must be None")
            return self._forward_packed(input, hx)
        if input.dim() != 3:
            raise DimensionError(
                f"LSTM: Expected input to be 3D, got {input.dim()}D instead; a sequence alone has no batch statistics"
            )
        batch_first = input if self.batch_first else input.transpose(0, 1)
        if lengths is None:
            h, c = self._initial(input, hx, batch_first.size(0))
            projected = self.norm_ih(linear(batch_first, self.weight_ih), step=0)
            outputs, state = self._run(projected.unbind(1), h, c)
            return torch.stack(outputs, 1 if self.batch_first else 0), state
        _check_lengths(batch_first, lengths)
        packed = pack_padded_sequence(
            input, torch.as_tensor(lengths).cpu(), batch_first=self.batch_first, enforce_sorted=False
        )
        output, state = self._forward_packed(packed, hx)
        padded, _ = pad_packed_sequence(output, self.batch_first, total_length=batch_first.size(1))
        return padded, state

    def _forward_packed(self, input: PackedSequence, hx: State | None) -> tuple[PackedSequence, State]:
        sizes = input.batch_sizes.tolist()
        h, c = self._initial(input.data, hx, sizes[0])
        if input.sorted_indices is not None:
            h, c = h[input.sorted_indices], c[input.sorted_indices]
        projected = linear(input.data, self.weight_ih)
        from_input: list[Tensor] = []
        for size, group in itertools.groupby(
            sizes
        ):  # steps that as many sequences reach are normed in one call
            steps = len(list(group))
            part, projected = projected[: steps * size], projected[steps * size :]
            part = part.unflatten(0, (steps, size)).transpose(0, 1)
            from_input += self.norm_ih(
                part, step=len(from_input), mask=self._alone(part, size < sizes[0])
            ).unbind(1)
        outputs, (h, c) = self._run(from_input, h, c)
        if input.unsorted_indices is not None:
            h, c = h[:, input.unsorted_indices], c[:, input.unsorted_indices]
        output = torch.cat(outputs)
        return PackedSequence(output, input.batch_sizes, input.sorted_indices, input.unsorted_indices), (h, c)

    def _run(self, from_input: Sequence[Tensor], h: Tensor, c: Tensor) -> tuple[list[Tensor], State]:
        """The recurrence over gates (size, 4H), of which later ones may have fewer sequences; these end, last first."""
        outputs: list[Tensor] = []
        ended: list[State] = []
        sequences = h.size(0)
        for step, gates in enumerate(from_input):
            size = gates.size(0)
            if size < h.size(0):
                ended.insert(0, (h[size:], c[size:]))
                h, c = h[:size], c[:size]
            mask = self._alone(c, size < sequences)
            gates = self.norm_hh(linear(h, self.weight_hh), gates, step=step, mask=mask)
            i, f, g, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * self.norm_c(c, step=step, mask=mask).tanh()
            outputs.append(h)
        ended.insert(0, (h, c))
        final_h, final_c = (torch.cat(parts).unsqueeze(0) for parts in zip(*ended, strict=True))
        return outputs, (final_h, final_c)

    def _alone(self, values: Tensor, others_ended: bool) -> Tensor | None:
        """A mask where one sequence goes on when others have ended: with it one value a channel is no error."""
        if not self.training or not others_ended or values.size(0) > 1:
            return None
        return torch.ones(values.shape[:-1], dtype=torch.bool, device=values.device)

    def _initial(self, input: Tensor, hx: State | None, sequences: int) -> State:
        if input.size(-1) != self.input_size:
            raise ShapeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.size(-1)}"
            )
        if input.numel() == 0 and sequences:
            raise ShapeError("Expected sequence length to be larger than 0 in RNN")
        dtype = self.weight_ih.dtype
        if input.dtype != dtype and not torch.is_autocast_enabled(input.device.type):
            raise ArgumentError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}); convert the input or the model"
            )
        if hx is None:
            zeros = input.new_zeros(sequences, self.hidden_size)
            return zeros, zeros
        for number, given in enumerate(hx):
            if given.shape != (1, sequences, self.hidden_size):
                raise ShapeError(
                    f"Expected hidden[{number}] size {(1, sequences, self.hidden_size)}, got {list(given.shape)}"
                )
        return hx[0][0], hx[1][0]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer; to torch.fx it is a leaf, as nn.LSTM is."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, Proxy):
                path = value.tracer.path_of_module(self)  # type: ignore[attr-defined]
                return value.tracer.create_proxy("call_module", path, args, kwargs)
        return super().__call__(*args, **kwargs)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}, max_steps={self.max_steps}"
        return f"{text}, batch_first=True" if self.batch_first else text


def _check_lengths(batch_first: Tensor, lengths: Tensor | Sequence[int]) -> None:
    mask_of_lengths(batch_first, lengths, -1)
    if not torch.as_tensor(lengths).gt(0).all():
        raise ArgumentError("Length of all samples has to be greater than 0; leave empty sequences out")
