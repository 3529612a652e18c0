"""Bytes that autograd keeps between forward and backward, for BN with what follows it: torch's layers and ours.

The input is counted: the convolution in front keeps none of its output itself. An output is counted where the
activation saves it, although the convolution behind it keeps the same tensor.

Run: python benchmarks/saved_bytes.py
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import batchnorm as bn

SHAPE = (16, 96, 56, 56)
CASES = {
    "BN": (None, False),
    "BN+ReLU": ("relu", False),
    "BN+ReLU6": ("relu6", False),
    "BN+SiLU": ("silu", False),
    "BN+add+ReLU": ("relu", True),
    "BN+add+SiLU": ("silu", True),
}
ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "silu": F.silu}


def saved_bytes(run: Callable[[], Tensor], layer: nn.Module) -> int:
    """Bytes of the distinct storages that are saved for backward while `run` runs, without the layer's own tensors."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), *layer.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        # Holding the tensor keeps its address from being given to another.
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    assert output.requires_grad
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


def measure(act: str | None, adds: bool, shape: tuple[int, ...] = SHAPE) -> dict[str, int]:
    """Bytes for torch out of place and in place, and for ours."""
    x, residual = (torch.randn(shape, requires_grad=True) for _ in range(2))
    theirs, ours = nn.BatchNorm2d(shape[1]), bn.BatchNorm2d(shape[1])

    def with_torch(inplace: bool) -> Tensor:
        y = theirs(x)
        if adds:
            y = y.add_(residual) if inplace else y + residual
        return y if act is None else ACTIVATIONS[act](y, inplace=inplace)

    return {
        "torch": saved_bytes(lambda: with_torch(False), theirs),
        "torch in place": saved_bytes(lambda: with_torch(True), theirs),
        "batchnorm": saved_bytes(lambda: ours(x, residual if adds else None, act=act), ours),
    }


def main() -> None:
    """Print one Markdown row a case."""
    size = torch.Size(SHAPE).numel() * 4
    print(
        f"torch {torch.__version__}, training, float32, input {SHAPE} of {size / 1e6:.1f} MB; in MB, and in inputs\n"
    )
    print("| | torch | torch, in place | batchnorm |\n|---|---|---|---|")
    for name, (act, adds) in CASES.items():
        cells = [f"{count / 1e6:.1f} ({count / size:.2f})" for count in measure(act, adds).values()]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
