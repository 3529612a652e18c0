"""torch.jit.trace of a model in evaluation, and what torch.jit cannot do said in words."""

import copy

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import TransformError

# torch.jit itself is deprecated; that it warns of nothing in this package is an error by pyproject.toml.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), bn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), bn.BatchNorm2d(2))
    model(X)
    return model.eval()


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(9))


def test_a_traced_model_takes_other_sizes() -> None:
    model = net()
    traced = torch.jit.trace(model, X)
    other = torch.randn(7, 3, 12, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(traced(other), model(other))


def test_a_traced_sequence_with_channels_last() -> None:
    layer = bn.ChannelsLastBatchNorm(3).eval()
    traced = torch.jit.trace(layer, torch.randn(2, 5, 3))
    other = torch.randn(4, 7, 3)
    torch.testing.assert_close(traced(other), layer(other))


def test_freezing_a_traced_model_folds_the_norm_into_the_convolution() -> None:
    model = net()
    frozen = torch.jit.freeze(torch.jit.trace(model, X))
    kinds = [node.kind() for node in frozen.graph.nodes()]
    assert [kind for kind in kinds if kind != "prim::Constant"] == ["aten::_convolution"] * 2
    torch.testing.assert_close(frozen(X), model(X), rtol=1e-4, atol=1e-5)


def test_a_model_in_training_is_not_traced() -> None:
    model = net().train()
    before = model[1].num_batches_tracked.clone()
    with pytest.raises(TransformError, match=r"trace the model in eval\(\)"):
        torch.jit.trace(model, X)
    assert model[1].num_batches_tracked == before


@pytest.mark.parametrize(
    "layer",
    [bn.BatchRenorm2d(3), bn.DomainBatchNorm2d(3, 1), bn.SyncBatchNorm(3)],
    ids=lambda layer: type(layer).__name__,
)
def test_other_kinds_in_training_are_not_traced_and_do_not_move(layer) -> None:
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(TransformError, match=r"trace the model in eval\(\)"):
        torch.jit.trace(layer, X)
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("layer", [bn.BatchNorm2d(4), bn.LazyBatchNorm2d(), bn.ChannelsLastBatchNorm(4)])
def test_scripting_says_what_to_do_instead(layer) -> None:
    with pytest.raises(
        TransformError, match=r"torch.jit.script cannot compile .*convert\(model, to='torch'\)"
    ):
        torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), layer))


def test_what_the_error_names_works() -> None:
    model = net()
    scripted = torch.jit.script(bn.convert(model, to="torch"))
    torch.testing.assert_close(scripted(X), model(X))
