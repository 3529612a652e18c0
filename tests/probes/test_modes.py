import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import probes
from batchnorm.errors import ArgumentTypeError
from tests.probes.nets import Kept, batch, everything


def test_norms_see_the_batch_and_dropout_rests():
    model, (x, _) = everything().eval(), batch()
    kept = Kept(model)
    with probes.batch_statistics(model):
        seen = {s.path: s for s in probes.activations(model, x, ["ours", "drop"])}
    kept.check()
    assert seen["ours"].output.mean(0).abs().max() < 1e-12
    assert torch.equal(seen["drop"].input, seen["drop"].output)


@pytest.mark.parametrize(
    "layer", [bn.GhostBatchNorm1d(2), bn.BatchRenorm1d(2), bn.SyncBatchNorm(2), nn.BatchNorm1d(2)]
)
def test_every_kind_of_batch_norm_trains_inside(layer):
    model = nn.Sequential(layer, nn.Sequential(nn.Dropout())).eval()
    with probes.batch_statistics(model):
        assert [module.training for module in model.modules()] == [False, True, False, False]
    assert not any(module.training for module in model.modules())


def test_flags_come_back_after_an_error_each_as_it_was():
    model = everything()
    model.drop.eval()
    kept = Kept(model)
    with pytest.raises(LookupError), probes.batch_statistics(model):
        raise LookupError
    kept.check()
    with (
        pytest.raises(ArgumentTypeError, match=r"model: expected an nn\.Module, got int"),
        probes.batch_statistics(3),
    ):
        pass
