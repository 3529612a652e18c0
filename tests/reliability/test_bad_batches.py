"""Bad batches, whatever the layer: what is not finite stays out of the buffers, and one sample has ways out."""

import copy

import pytest
import torch

import batchnorm as bn
from batchnorm.errors import BatchTooSmallError

X = torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(0)) + 2
LAYERS = {
    "BatchNorm1d": lambda **how: bn.BatchNorm1d(3, **how),
    "ChannelsLast": lambda **how: bn.ChannelsLastBatchNorm(3, **how),
    "Sync": lambda **how: bn.SyncBatchNorm(3, **how),
    "Ghost": lambda **how: bn.GhostBatchNorm1d(3, virtual_batch_size=4, **how),
    "Renorm": lambda **how: bn.BatchRenorm1d(3, warmup=1, **how),
    "Domain": lambda **how: bn.DomainBatchNorm1d(3, num_domains=2, **how),
    "Frozen": lambda **how: bn.FrozenBatchNorm1d(3, **how),
    "Recurrent": lambda **how: bn.RecurrentBatchNorm1d(3, max_steps=2, **how),
}


def call(name, layer, x, **given):
    if name == "Recurrent":
        return layer(x[..., 0], step=1)
    given |= {"domain": 1} if name == "Domain" else {}
    return layer(x.mT if name == "ChannelsLast" else x, **given)


def statistics(layer):
    return {name: value.clone() for name, value in layer.named_buffers() if value.is_floating_point()}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e21], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_not_finite_stays_out_of_the_buffers(name, bad, momentum, backend) -> None:
    layer = LAYERS[name](momentum=momentum)
    spoiled = X.clone()
    spoiled[2, 1, 0] = bad
    with bn.backend(backend):
        for step in range(3):
            call(name, layer, X + step)
        before = statistics(layer)
        call(name, layer, spoiled)
        after = statistics(layer)
        for key, value in after.items():
            assert torch.isfinite(value).all(), key
            # A standard deviation of 1e20 is finite in float32, which its square is not.
            if key.startswith("running") and not (name == "Renorm" and bad == 1e21):
                assert torch.equal(value[..., 1], before[key][..., 1]), key
        if name != "Frozen":
            assert not torch.equal(after["running_mean"][..., 0], before["running_mean"][..., 0])
        layer.eval()
        assert torch.isfinite(call(name, layer, X)).all()


def test_a_lstm_survives_a_bad_batch() -> None:
    torch.manual_seed(0)
    lstm = bn.BatchNormLSTM(3, 4, max_steps=5)
    lstm(X.permute(2, 0, 1))
    spoiled = X.permute(2, 0, 1).clone()
    spoiled[1, 2, 0] = torch.nan
    lstm(spoiled)
    assert all(torch.isfinite(buffer).all() for buffer in lstm.buffers())
    assert torch.isfinite(lstm.eval()(X.permute(2, 0, 1))[0]).all()


ONE = X[:1, :, :1]


@pytest.mark.parametrize("name", ["BatchNorm1d", "ChannelsLast", "Sync", "Ghost", "Renorm", "Domain"])
def test_one_value_a_channel_is_refused_with_ways_out(name) -> None:
    layer = LAYERS[name]()
    call(name, layer, X)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(
        BatchTooSmallError, match="Expected more than 1 value per channel when training"
    ) as said:
        call(name, layer, ONE)
    for way in ("eval()", "larger batch", "drop_last=True", "FrozenBatchNorm"):
        assert way in str(said.value)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key
    layer.eval()
    assert torch.isfinite(call(name, layer, ONE)).all()


def test_the_ways_out() -> None:
    trained = bn.BatchNorm1d(3)
    trained(X)
    # Frozen: the running statistics, in training too.
    frozen = bn.FrozenBatchNorm1d(3)
    frozen.load_state_dict(trained.state_dict())
    assert torch.equal(frozen.train()(ONE), copy.deepcopy(trained).eval()(ONE))
    # A mask: one valid sample raises nothing, gives the bias, and moves nothing.
    before = copy.deepcopy(trained.state_dict())
    mask = torch.zeros(2, 1, dtype=torch.bool)
    mask[0] = True
    output = trained(torch.cat([ONE, ONE]), mask=mask)
    assert torch.equal(output, torch.zeros(2, 3, 1))
    assert torch.equal(trained.running_mean, before["running_mean"])
    # Ghost: a last group of one value joins the group before.
    ghost = bn.GhostBatchNorm1d(3, virtual_batch_size=4)
    assert torch.isfinite(ghost(torch.randn(9, 3))).all()
    # A loader that drops it.
    data = torch.utils.data.TensorDataset(torch.randn(9, 3))
    for (batch,) in torch.utils.data.DataLoader(data, batch_size=4, drop_last=True):
        trained(batch)
