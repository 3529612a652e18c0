"""What is timed for one case: torch's layers, ours, both compiled, and copies."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.bench.cases import Case
from batchnorm.bench.copying import fresh_copy
from batchnorm.errors import BatchNormError

__all__ = ["Disagreement", "Workbench"]

Call = Callable[[], object]
_ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "silu": F.silu, "hardswish": F.hardswish}
_PLAIN = {
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
}
# Of the norm: rounding puts single values on the other side of an activation's kink, which no largest error forgives.
_TOLERANCE = {"float32": 1e-2, "bfloat16": 0.1}


class Disagreement(BatchNormError, RuntimeError):  # noqa: N818
    """Ours and torch's give different numbers, so that their times cannot be compared."""


class Workbench:
    """The tensors and layers of one case; torch's and ours have the same parameters and inputs.

    Args:
        case: what to prepare.
        compiled: "torch" and "batchnorm" through torch.compile too.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        generator = torch.Generator().manual_seed(0)
        self.x, self.grad = self._tensor(generator), self._tensor(generator)
        self.residual = self._tensor(generator) if case.residual else torch.empty(0)
        features, rank = case.shape[1], len(case.shape)
        one = rank < 4
        self.theirs = (nn.BatchNorm1d if one else nn.BatchNorm2d)(features)
        self.ours = (bn.BatchNorm1d if one else bn.BatchNorm2d)(features)
        with torch.no_grad():
            self.theirs.weight.uniform_(0.5, 1.5, generator=generator)
            self.theirs.bias.uniform_(-0.5, 0.5, generator=generator)
        self.ours.load_state_dict(self.theirs.state_dict())
        self.warm = torch.empty_like(self.x)
        self._compiled: dict[tuple[str, bool], Callable[..., Tensor]] = {}

    def _tensor(self, generator: torch.Generator) -> Tensor:
        values = torch.randn(self.case.shape, generator=generator).to(getattr(torch, self.case.dtype))
        form = torch.channels_last if self.case.layout == "channels_last" else torch.contiguous_format
        return values.contiguous(memory_format=form)

    def calls(self, phase: str) -> dict[str, Call]:
        """The callables of a phase, by name; those of torch.compile only once `compile` has been called for it."""
        training = phase != "evaluation"
        for layer in (self.theirs, self.ours):
            layer.train(training)
        for tensor in (self.x, self.residual):
            tensor.grad = None
            tensor.requires_grad_(training)
        functions = {"torch": self._with_torch(), "batchnorm": self._with_ours()}
        functions |= {name: call for (name, kind), call in self._compiled.items() if kind == training}
        calls = {name: self._call(phase, name, function) for name, function in functions.items()}
        source = self.x.detach()
        return calls | {"copy": fresh_copy(source), "warm_copy": lambda: self.warm.copy_(source)}

    def compile(self, name: str, phase: str) -> None:
        """Prepare "torch" or "batchnorm" through torch.compile; raises whatever compiling raises."""
        training = phase != "evaluation"
        for layer in (self.theirs, self.ours):
            layer.train(training)
        self.x.requires_grad_(training)
        self.residual.requires_grad_(training)
        function = self._with_torch() if name == "torch" else self._with_ours()
        compiled = torch.compile(function, dynamic=False)
        self._call(phase, name, compiled)()
        self._compiled[f"{name}_compiled", training] = compiled

    def forget(self, name: str) -> None:
        """Leave out what `compile` prepared for `name`."""
        for training in (True, False):
            self._compiled.pop((f"{name}_compiled", training), None)

    def check(self) -> None:
        """Compare output and gradients of one training pass.

        Raises:
            Disagreement: they differ by more than the dtype's rounding explains.
        """
        self.calls("forward_backward")
        found = []
        for function, layer in ((self._with_torch(), self.theirs), (self._with_ours(), self.ours)):
            self._clear()
            output = function(self.x, self.residual)
            output.backward(self.grad)
            grads = [self.x.grad, layer.weight.grad, layer.bias.grad]
            found.append([output.detach(), *grads])
        for name, theirs, ours in zip(("output", "x.grad", "weight.grad", "bias.grad"), *found, strict=True):
            error = (theirs.float() - ours.float()).norm().item()
            size = theirs.float().norm().item()
            if not error <= _TOLERANCE[self.case.dtype] * max(size, 1e-3):
                raise Disagreement(f"{self.case.key}: {name} differs by {error:.2g} of {size:.2g}")

    def _with_torch(self) -> Callable[[Tensor, Tensor], Tensor]:
        layer, case = self.theirs, self.case
        act = _activation(case.act, training=layer.training)
        # In place where the networks of torchvision do it so: torch at its best.
        if case.residual:
            return lambda x, residual: act(layer(x).add_(residual))
        return lambda x, _: act(layer(x))

    def _with_ours(self) -> Callable[[Tensor, Tensor], Tensor]:
        layer, act = self.ours, self.case.act
        if self.case.residual:
            return lambda x, residual: layer(x, residual, act=act)
        return lambda x, _: layer(x, act=act)

    def _call(self, phase: str, name: str, function: Callable[..., Tensor]) -> Call:
        x, residual, grad = self.x, self.residual, self.grad
        if phase == "evaluation":

            def evaluate() -> None:
                with torch.no_grad():
                    function(x, residual)

            return evaluate
        if phase == "forward":
            return lambda: function(x, residual)
        parameters = (self.theirs if name.startswith("torch") else self.ours).parameters()
        leaves = [x, residual, *parameters]

        def step() -> None:
            for leaf in leaves:
                leaf.grad = None
            function(x, residual).backward(grad)

        return step

    def _clear(self) -> None:
        for leaf in (self.x, self.residual, *self.theirs.parameters(), *self.ours.parameters()):
            leaf.grad = None


def _activation(act: str | None, *, training: bool) -> Callable[..., Any]:
    if act is None:
        return lambda z: z
    if act in _PLAIN:
        return _PLAIN[act]
    function = _ACTIVATIONS[act]
    # Training keeps SiLU's input for backward: in place, autograd would copy it first.
    inplace = not (training and act == "silu")
    return lambda z: function(z, inplace=inplace)
