"""What torch.export writes: one batch-norm node in evaluation, and the reference where there is no such node."""

import pytest
import torch
from torch import nn
from torch.export import Dim, export

import batchnorm as bn

A = torch.ops.aten
NODES = {
    "relu": A.relu.default,
    "relu6": A.relu6.default,
    "leaky_relu": A.leaky_relu.default,
    "silu": A.silu.default,
    "gelu": A.gelu.default,
    "gelu_tanh": A.gelu.default,
    "hardswish": A.hardswish.default,
    "elu": A.elu.default,
}
KINDS = {  # layer, shape of an input
    "1d rows": (bn.BatchNorm1d(3), (4, 3)),
    "1d": (bn.BatchNorm1d(3), (4, 3, 5)),
    "2d": (bn.BatchNorm2d(3), (4, 3, 5, 6)),
    "3d": (bn.BatchNorm3d(3), (4, 3, 2, 3, 2)),
    "no affine": (bn.BatchNorm2d(3, affine=False), (4, 3, 5, 6)),
    "no bias": (bn.BatchNorm2d(3, bias=False), (4, 3, 5, 6)),
}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Call(nn.Module):
    """A layer whose call has all that a call can have."""

    def __init__(self, layer, act=None, residual=False, masked=False) -> None:
        super().__init__()
        self.bn, self.act, self.residual, self.masked = layer, act, residual, masked

    def forward(self, x):
        mask = x.select(1, 0) > -0.5 if self.masked else None
        return self.bn(x, x * 2 if self.residual else None, act=self.act, mask=mask)


def settled(layer, x):
    """In evaluation, with statistics that are not those it was made with."""
    layer.train()(x * 2 + 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(randn(3).to(parameter.dtype) / 4)
    return layer.eval()


def exported(model, x, strict):
    return export(model, (x,), strict=strict, dynamic_shapes=({0: Dim.DYNAMIC},))


def calls(program):
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_in_evaluation_is_one_batch_norm(kind, strict) -> None:
    layer, shape = KINDS[kind]
    x = randn(*shape)
    model = Call(settled(layer, x))
    program = exported(model, x, strict)
    assert calls(program) == [A.batch_norm.default]
    assert calls(program.run_decompositions())[0] is A._native_batch_norm_legit_no_training.default
    other = randn(7, *shape[1:], seed=1)
    torch.testing.assert_close(program.module()(other), model(other))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("act", NODES)
def test_what_follows_the_norm_is_a_node_each(act, strict) -> None:
    x = randn(4, 3, 5, 6)
    model = Call(settled(bn.BatchNorm2d(3), x), act, residual=True)
    program = exported(model, x, strict)
    assert calls(program)[1:] == [A.batch_norm.default, A.add.Tensor, NODES[act]]
    other = randn(7, 3, 5, 6, seed=1)
    torch.testing.assert_close(program.module()(other), model(other))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("channel_dim", [0, 2, -1])
def test_channels_in_another_dimension(channel_dim, strict) -> None:
    class Model(nn.Module):
        def forward(self, x):
            stats = torch.tensor([0.5, 1.0, -2.0]), torch.tensor([1.0, 4.0, 0.25])
            y = bn.functional.batch_norm(x, *stats, channel_dim=channel_dim, act="relu")
            return y.view(-1)  # as the eager output, this one lies dense

    shape = [4, 5, 6, 2]
    shape[channel_dim] = 3
    x = randn(*shape)
    program = export(Model(), (x,), strict=strict)
    assert calls(program).count(A.batch_norm.default) == 1
    torch.testing.assert_close(program.module()(x), Model()(x))


def test_rows_are_not_transposed_for_channels_last() -> None:
    x = randn(4, 5, 6, 3)
    model = Call(settled(bn.ChannelsLastBatchNorm(3), x))
    program = exported(model, x, strict=False)
    assert [target for target in calls(program) if isinstance(target, torch._ops.OpOverload)] == [
        A.sym_size.int,
        A.reshape.default,
        A.batch_norm.default,
        A.reshape.default,
    ]


@pytest.mark.parametrize("input", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("module", ["of the input's type", "of float32 and wider"])
def test_parameters_come_in_the_type_that_the_node_takes(module, input) -> None:
    # torch refuses parameters of bfloat16 beside statistics of float32, and those of float32 beside a float64 input.
    wide = input is torch.float64
    layer = bn.BatchNorm2d(3, dtype=input if module == "of the input's type" or wide else None)
    x = randn(4, 3, 5, 6).to(input)
    model = Call(settled(layer, x), residual=True, act="relu")
    program = exported(model, x, strict=False)
    assert calls(program).count(A.batch_norm.default) == 1
    found = program.module()(x)
    assert found.dtype is input
    tolerance = {} if wide else {"rtol": 2**-7, "atol": 2**-7}
    torch.testing.assert_close(found, model(x), **tolerance)


def test_a_wider_residual_leaves_the_type_of_the_input() -> None:
    class Model(nn.Module):
        def forward(self, x):
            return bn.functional.batch_norm(x, torch.zeros(3), torch.ones(3), residual=x.double())

    x = randn(4, 3, 5)
    program = export(Model(), (x,))
    assert program.module()(x).dtype is torch.float32


@pytest.mark.parametrize("strict", [False, True])
def test_with_a_mask_the_reference_is_written(strict) -> None:
    x = randn(4, 3, 5, 6)
    model = Call(settled(bn.BatchNorm2d(3), x), "relu", masked=True)
    program = exported(model, x, strict)
    assert A.batch_norm.default not in calls(program)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("strict", [False, True])
def test_without_running_statistics_the_batchs_are_used_as_in_eager_mode(strict) -> None:
    model = Call(bn.BatchNorm2d(3, track_running_stats=False)).eval()
    far = randn(7, 3, 5, 6, seed=1) + 1e5  # where torch's own node loses its digits
    program = exported(model, randn(4, 3, 5, 6), strict)
    torch.testing.assert_close(program.module()(far), model(far), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("strict", [False, True])
def test_a_program_exported_in_training_goes_on_training(strict) -> None:
    eager, layer = bn.BatchNorm2d(3, momentum=None), bn.BatchNorm2d(3, momentum=None)
    module = exported(nn.Sequential(layer), randn(4, 3, 5, 6), strict).module()
    for seed in (1, 2):
        x = randn(6, 3, 5, 6, seed=seed) * seed
        torch.testing.assert_close(module(x), eager(x))
    for name, buffer in eager.named_buffers():
        torch.testing.assert_close(module.get_buffer(f"0.{name}"), buffer)


def test_what_is_not_export_keeps_its_path() -> None:
    graph = torch.fx.experimental.proxy_tensor.make_fx(bn.BatchNorm2d(3).eval())(randn(4, 3, 5, 6))
    assert not any("batch_norm" in str(node.target) for node in graph.graph.nodes)
