"""An LSTM that reads an image step by step."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from batchnorm.lab.models import options
from batchnorm.lab.models.network import Plan, Recipe
from batchnorm.nn import RecurrentBatchNorm1d
from batchnorm.nn.tracked import TrackedNorm

__all__ = ["LSTM", "Reader"]

_READS = ("rows", "pixels")


class Reader(nn.Module):
    """One layer of LSTM with norms where `batchnorm.BatchNormLSTM` has them, and a linear output from its last state.

    The image is averaged to `rows` by `rows` and read row by row, or pixel by pixel. A norm that does not tell steps
    apart is the same at all of them.

    Args:
        plan: what to build; options `hidden` (width of the state), `rows`, `read` ("rows" or "pixels"), `gamma` (where
            the weights of norms by batch statistics start) and `noise` (standard deviation of h and c at the start, in
            training; 0 otherwise).

    Returns:
        From (N, C, H, W): logits (N, num_classes).

    Example:
        >>> import torch
        >>> from batchnorm.lab.arms import norm_layer
        >>> settings = {"hidden": 16, "rows": 8, "read": "rows", "gamma": 0.1, "noise": 0.0}
        >>> plan = Plan(
        ...     (1, 32, 32), 10, "own", 0.0, lambda c, d, t: norm_layer("recurrent", c, d, t), settings
        ... )
        >>> Reader(plan)(torch.randn(4, 1, 32, 32)).shape
        torch.Size([4, 10])

    Source:
        Cooijmans et al. 2017, arXiv:1603.09025, section 5.1: sequential MNIST.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        hidden, self.rows, self.noise = (plan.options[name] for name in ("hidden", "rows", "noise"))
        by_rows = plan.options["read"] == "rows"
        self.steps = self.rows if by_rows else self.rows**2
        features = plan.input_shape[0] * (self.rows if by_rows else 1)
        self.from_input = nn.Linear(features, 4 * hidden, bias=False)
        self.from_hidden = nn.Linear(hidden, 4 * hidden, bias=False)
        self.norm_ih = plan.norm(4 * hidden, 2, self.steps)
        self.norm_hh = plan.norm(4 * hidden, 2, self.steps)
        self.norm_c = plan.norm(hidden, 2, self.steps)
        self.dropout = nn.Dropout(plan.dropout)
        self.output = nn.Linear(hidden, plan.num_classes)
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        self._start(hidden, plan.options["gamma"])

    def _start(self, hidden: int, gamma: float) -> None:
        """As `batchnorm.BatchNormLSTM` starts, where gamma is 0.1."""
        nn.init.orthogonal_(self.from_input.weight)
        nn.init.orthogonal_(self.from_hidden.weight)
        with torch.no_grad():
            self.from_hidden.weight[2 * hidden : 3 * hidden] = torch.eye(hidden)
            self.bias[hidden : 2 * hidden] = 1
        for norm in (self.norm_ih, self.norm_hh, self.norm_c):
            # Of all norms by batch statistics, so that these arms differ in the statistics alone.
            if isinstance(norm, TrackedNorm):
                nn.init.constant_(norm.weight, gamma)

    def forward(self, x: Tensor) -> Tensor:
        x = adaptive_avg_pool2d(x, (self.rows, self.rows)).movedim(1, -1)  # (N, rows, rows, C)
        inputs = self.from_input(x.reshape(len(x), self.steps, -1))
        h = c = inputs.new_zeros(len(x), self.from_hidden.in_features)
        if self.training and self.noise:
            h, c = (state + self.noise * torch.randn_like(state) for state in (h, c))
        for step in range(self.steps):
            gates = _at_step(self.norm_ih, inputs[:, step], step)
            gates = gates + _at_step(self.norm_hh, self.from_hidden(h), step) + self.bias
            i, f, g, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * _at_step(self.norm_c, c, step).tanh()
        return self.output(self.dropout(h))


def _at_step(norm: Any, values: Tensor, step: int) -> Tensor:
    result: Tensor = norm(values, step=step) if isinstance(norm, RecurrentBatchNorm1d) else norm(values)
    return result


def _read(value: Any) -> str:
    if value not in _READS:
        raise ValueError(f"one of {', '.join(_READS)}")
    return str(value)


LSTM = Recipe(
    Reader,
    least=lambda settings: int(settings["rows"]),
    options={
        "hidden": (64, options.whole),
        "rows": (8, options.whole),
        "read": ("rows", _read),
        "gamma": (0.1, options.number),  # Cooijmans 2017, section 4
        "noise": (0.0, options.number),
    },
    recurrent=True,
)
