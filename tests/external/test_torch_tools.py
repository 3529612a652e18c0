"""Tools of torch's that rebuild or read batch norms: none changes a result without an error."""

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import batchnorm as bn


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), bn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), bn.BatchNorm2d(2)
    )


def trained() -> nn.Sequential:
    model = net()
    for step in range(3):
        model(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step)))
    return model.eval()


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(9))


class WithAct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), bn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.conv(x), act="relu")


def test_fuse_conv_bn_eval() -> None:
    model = trained()
    torch.testing.assert_close(fuse_conv_bn_eval(model[0], model[1])(X), model[1](model[0](X)))


def test_a_folded_layer_whose_call_has_an_activation_fails_loudly() -> None:
    model = WithAct().eval()
    model.conv, model.bn = fuse_conv_bn_eval(model.conv, model.bn), nn.Identity()
    with pytest.raises(TypeError):
        model(X)


def test_convert_sync_batchnorm_keeps_the_result_or_fails() -> None:
    model = trained()
    expected = model(X)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted[1], nn.SyncBatchNorm)
    torch.testing.assert_close(converted(X), expected)
    with pytest.raises(TypeError):
        nn.SyncBatchNorm.convert_sync_batchnorm(WithAct().eval())(X)


def test_update_bn() -> None:
    model = net()
    batches = [torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step)) for step in range(3)]
    torch.optim.swa_utils.update_bn(batches, model)
    pooled = torch.stack([model[0](x).mean((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(model[1].running_mean, pooled)
    assert model[1].num_batches_tracked == 3
    assert model[1].momentum == 0.1


def test_symbolic_trace_keeps_both_modes() -> None:
    model = net()
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(X), net()(X))
    torch.testing.assert_close(traced.eval()(X), model.eval()(X))


def test_averaged_model_and_functional_call() -> None:
    model = trained()
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    averaged.update_parameters(model)
    torch.testing.assert_close(averaged.eval()(X), model(X))
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    torch.testing.assert_close(torch.func.functional_call(model, state, (X,)), model(X))


@pytest.mark.parametrize("training", [True, False])
def test_torch_compile_gives_the_eager_result(training) -> None:
    # aot_eager traces forward and backward without needing a compiler on the machine.
    eager, compiled = net().train(training), net().train(training)
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for step in range(2):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        a, b = eager(x), run(x)
        torch.testing.assert_close(a, b)
        a.sum().backward(), b.sum().backward()
    torch.testing.assert_close(eager[1].running_var, compiled[1].running_var)
    torch.testing.assert_close(eager[0].weight.grad, compiled[0].weight.grad)
    assert compiled[1].num_batches_tracked == (2 if training else 0)


def test_the_cumulative_average_compiles_as_one_graph() -> None:
    eager, compiled = bn.BatchNorm2d(3, momentum=None), bn.BatchNorm2d(3, momentum=None)
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        torch.testing.assert_close(run(X), eager(X))
    assert compiled.num_batches_tracked == 3
    torch.testing.assert_close(compiled.running_var, eager.running_var)
