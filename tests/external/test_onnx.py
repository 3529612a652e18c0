"""ONNX files of models with our layers, run by onnxruntime."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import batchnorm as bn


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    def __init__(self, layer, act="relu", masked=False) -> None:
        super().__init__()
        self.bn, self.act, self.masked = layer, act, masked

    def forward(self, x):
        mask = x.select(1, 0) > -0.5 if self.masked else None
        return self.bn(x, x * 2, act=self.act, mask=mask)


def written(model: nn.Module, x: torch.Tensor):
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    return torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=dynamic, verbose=False).model_proto


def run(file, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(np.asarray(output))


def nodes(file) -> list[str]:
    return [node.op_type for node in file.graph.node]


@pytest.mark.parametrize(
    ("act", "node"),
    [("relu", "Relu"), ("gelu", "Gelu"), ("gelu_tanh", "Gelu"), ("hardswish", "HardSwish"), ("elu", "Elu")],
)
@pytest.mark.parametrize("affine", [True, False])
def test_a_call_is_batch_normalization_and_what_follows_it(act, node, affine) -> None:
    model = Block(bn.BatchNorm2d(3, affine=affine), act)
    model(randn(6, 3, 5, 5) * 3 + 1)
    file = written(model.eval(), randn(4, 3, 5, 5))
    assert nodes(file) == ["Mul", "BatchNormalization", "Add", node]
    x = randn(7, 3, 5, 5, seed=1)
    torch.testing.assert_close(run(file, x), model(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(3, 3), bn.BatchNorm1d(3, bias=False)), (4, 3)),
        (nn.Sequential(bn.ChannelsLastBatchNorm(3)), (4, 5, 3)),
        (Block(bn.BatchNorm2d(3), masked=True), (4, 3, 5, 5)),
        (Block(bn.BatchNorm2d(3, track_running_stats=False)), (4, 3, 5, 5)),
    ],
    ids=["rows", "channels last", "mask", "batch statistics"],
)
def test_the_file_computes_what_the_model_does(model, shape) -> None:
    model(randn(*shape) * 3 + 1)
    file = written(model.eval(), randn(*shape))
    x = randn(7, *shape[1:], seed=1)
    torch.testing.assert_close(run(file, x), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_a_convolution_takes_up_the_norm_behind_it() -> None:
    # What tools do with that one node, torch's exporter among them, and cannot do with the arithmetic it stands for.
    model = nn.Sequential(nn.Conv2d(3, 4, 3), bn.BatchNorm2d(4))
    model(randn(6, 3, 8, 8) * 3 + 1)
    file = written(model.eval(), randn(4, 3, 8, 8))
    assert nodes(file) == ["Conv"]
    x = randn(7, 3, 8, 8, seed=1)
    torch.testing.assert_close(run(file, x), model(x).detach(), rtol=1e-5, atol=1e-5)
