"""Recalibrated statistics against numpy on the pooled inputs, for every way to cut data into batches."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import batchnorm as bn
from batchnorm.errors import RecalibrationWarning

SPLITS = {"ones": [1] * 60, "ragged": [1, 17, 2, 30, 10], "whole": [60], "halves": [30, 30]}


def data(*shape, shift=5.0, scale=3.0, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale + shift


def pooled(x, dim=1):
    """Mean and unbiased variance of each channel, by numpy in float64."""
    values = np.moveaxis(np.asarray(x, dtype=np.float64), dim, -1).reshape(-1, x.shape[dim])
    return values.mean(0), values.var(0, ddof=1)


def assert_stats(layer, x, dim=1, rtol=1e-6):
    mean, var = pooled(x.detach(), dim)
    np.testing.assert_allclose(layer.running_mean.double().numpy(), mean, rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(layer.running_var.double().numpy(), var, rtol=rtol, atol=1e-6)


def network(layers=bn):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        layers.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(6, 5, 3),
        layers.BatchNorm2d(5),
        nn.Flatten(),
        nn.Linear(5 * 16, 7),
        layers.BatchNorm1d(7),
    )


def assert_consistent(net, x):
    """Every layer's statistics are those of its inputs when the network runs in evaluation, all data at once."""
    net = copy.deepcopy(net).eval()
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.modules.batchnorm._NormBase):
                assert_stats(layer, x)
            x = layer(x)


@pytest.mark.parametrize("layers", [bn, nn])
@pytest.mark.parametrize("split", SPLITS)
def test_equals_numpy_on_the_pooled_inputs_whatever_the_split(split, layers):
    x = data(60, 3, 8, 8)
    net = network(layers)
    new = bn.recalibrate(net, x.split(SPLITS[split]))
    assert_consistent(new, x)
    assert [int(new[n].num_batches_tracked) for n in (1, 5, 8)] == [len(SPLITS[split])] * 3
    assert net[1].num_batches_tracked == 0
    assert torch.equal(net[1].running_mean, torch.zeros(6))


def test_batches_whose_means_differ_enter_the_variance():
    # Source: FACTS of Wu & Johnson: the mean of the batches' variances would be .97, that of the population 11.6.
    parts = [torch.randn(100, 2, generator=torch.Generator().manual_seed(n)) + 3 * n for n in range(4)]
    layer = bn.recalibrate(nn.Sequential(nn.BatchNorm1d(2)), parts)[0]
    assert_stats(layer, torch.cat(parts))
    assert layer.running_var.min() > 11
    unequal = [torch.zeros(100, 1), torch.full((2, 1), 10.0)]
    layer = bn.recalibrate(nn.Sequential(nn.BatchNorm1d(1)), unequal)[0]
    assert layer.running_mean.item() == pytest.approx(20 / 102)


def test_upstream_batch_is_what_training_shows_in_one_pass():
    x = data(60, 3, 8, 8)
    net, passes = network(), []

    class Counted(list):
        def __iter__(self):
            passes.append(1)
            return super().__iter__()

    parts = Counted(x.split([20, 33, 7]))
    new = bn.recalibrate(net, parts, upstream="batch")
    assert len(passes) == 1
    assert_stats(new[1], x.new_tensor(new[0](x).detach().numpy()))
    seen = []
    with torch.no_grad():
        for part in parts:
            h = nn.functional.batch_norm(net[0](part), None, None, training=True)
            seen.append(net[4](torch.relu(h)))
    assert_stats(new[5], torch.cat(seen), rtol=1e-5)
    passes.clear()
    bn.recalibrate(net, parts)
    assert len(passes) == 3
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        bn.recalibrate(nn.Sequential(nn.BatchNorm1d(2)), torch.randn(3, 2).split(1), upstream="batch")


def test_large_means_keep_their_variance():
    x = data(500, 4, shift=1e6, scale=1.0)
    layer = bn.recalibrate(nn.Sequential(bn.BatchNorm1d(4)), x.split(7))[0]
    np.testing.assert_allclose(layer.running_var.numpy(), pooled(x)[1], rtol=1e-6)


def test_masks_lengths_and_packed_sequences_count_valid_positions_only():
    x, lengths = data(6, 4, 9), torch.tensor([9, 1, 4, 6, 2, 9])
    valid = torch.arange(9) < lengths[:, None]
    values = x.movedim(1, -1)[valid]
    spoiled = x.masked_fill(~valid[:, None], float("nan"))
    for call in (
        lambda m, b: m(spoiled[b], lengths=lengths[b]),
        lambda m, b: m(spoiled[b], mask=valid[b]),
        lambda m, b: m(pack_padded_sequence(x[b].mT, lengths[b], batch_first=True, enforce_sorted=False)),
    ):
        layer = bn.recalibrate(bn.BatchNorm1d(4), torch.arange(6).split([1, 3, 2]), forward=call)
        assert_stats(layer, values)
    ghost = bn.GhostBatchNorm1d(4, virtual_batch_size=2)
    bn.recalibrate_(ghost, torch.arange(6).split([1, 5]), forward=lambda m, b: m(x[b], mask=valid[b]))
    assert_stats(ghost, values)
    broadcast = bn.recalibrate(
        bn.BatchNorm2d(4), data(6, 4, 9, 3).split(2), forward=lambda m, b: m(b, mask=valid[0, :, None])
    )
    assert_stats(broadcast, data(6, 4, 9, 3))
    last = bn.recalibrate(
        bn.ChannelsLastBatchNorm(4), x.mT.split(2), forward=lambda m, b: m(b, lengths=[9, 9])
    )
    assert_stats(last, x)


def test_ghost_gets_the_statistics_of_all_samples():
    x = data(60, 3, 4, 4)
    layer = bn.recalibrate(bn.GhostBatchNorm2d(3, virtual_batch_size=8), x.split(20))
    assert_stats(layer, x)


def test_renorm_gets_its_standard_deviation_and_keeps_its_schedule():
    x = data(60, 3)
    layer = bn.BatchRenorm1d(3, eps=0.5)
    layer.num_batches_tracked.fill_(123)
    bn.recalibrate_(layer, x.split(7))
    values = x.double().numpy()
    np.testing.assert_allclose(layer.running_mean.numpy(), values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(layer.running_std.numpy(), np.sqrt(values.var(0) + 0.5), rtol=1e-6)
    assert layer.num_batches_tracked == 123


def test_a_domain_that_is_named_changes_and_no_other():
    layer = bn.DomainBatchNorm1d(3, num_domains=3)
    x = data(30, 3)
    with bn.domain(1):
        bn.recalibrate_(layer, x.split(4))
    bn.recalibrate_(layer, (2 * x).split(4), forward=lambda m, b: m(b, domain=2))
    for row, seen in ((1, x), (2, 2 * x)):
        np.testing.assert_allclose(layer.running_mean[row].numpy(), pooled(seen)[0], rtol=1e-6)
        np.testing.assert_allclose(layer.running_var[row].numpy(), pooled(seen)[1], rtol=1e-6)
    assert torch.equal(layer.running_mean[0], torch.zeros(3))
    assert layer.num_batches_tracked.tolist() == [0, 8, 8]


@pytest.mark.parametrize("split", [[12], [1] * 12, [5, 7]])
def test_each_step_of_a_recurrent_network_sees_calibrated_steps_before_it(split):
    torch.manual_seed(0)
    lstm = bn.BatchNormLSTM(3, 5, max_steps=4, batch_first=True)
    for norm in (lstm.norm_ih, lstm.norm_hh, lstm.norm_c):
        nn.init.ones_(norm.weight)
    x = data(12, 6, 3, shift=1.0, scale=1.0)
    bn.recalibrate_(lstm, x.split(split))
    seen = {}
    for name in ("norm_ih", "norm_hh", "norm_c"):
        getattr(lstm, name).register_forward_hook(
            lambda m, args, kwargs, _, name=name: seen.setdefault(name, {}).__setitem__(
                kwargs["step"], args[0]
            ),
            with_kwargs=True,
        )
    lstm.eval()(x)
    for step in range(4):
        for name, values in (
            ("norm_ih", seen["norm_ih"][0][:, step]),
            ("norm_hh", seen["norm_hh"][step]),
            ("norm_c", seen["norm_c"][step]),
        ):
            layer = getattr(lstm, name)
            mean, var = pooled(values.detach())
            np.testing.assert_allclose(layer.running_mean[step].numpy(), mean, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(layer.running_var[step].numpy(), var, rtol=1e-5, atol=1e-6)
    assert lstm.norm_c.num_batches_tracked.tolist() == [len(split)] * 4


def test_frozen_layers_and_layers_without_statistics_stay():
    net = nn.Sequential(
        bn.FrozenBatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False), bn.BatchNorm1d(3)
    )
    before = copy.deepcopy(net[0].state_dict())
    x = data(40, 3)
    bn.recalibrate_(net, [x])
    assert all(torch.equal(before[key], value) for key, value in net[0].state_dict().items())
    assert net[1].running_mean is None
    assert_stats(net[2], nn.functional.batch_norm(net[0](x), None, None, training=True))
    with pytest.warns(RecalibrationWarning, match="no batch norm with running statistics"):
        bn.recalibrate_(net[0], [x])


def test_a_layer_called_twice_pools_both_calls_and_counts_them():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = bn.BatchNorm1d(3), bn.BatchNorm1d(3)

        def forward(self, x):
            return self.second(self.first(x)) + self.second(self.first(2 * x))

    x = data(40, 3)
    net = bn.recalibrate(Twice(), x.split(8))
    assert_stats(net.first, torch.cat([x, 2 * x]))
    net.eval()
    assert_stats(net.second, torch.cat([net.first(x), net.first(2 * x)]))
    assert net.first.num_batches_tracked == 10


def test_branches_are_measured_in_an_order_in_which_each_follows_what_it_depends_on():
    class Routed(nn.Module):
        """Small batches go through the third layer first; the second comes after the first in others."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (bn.BatchNorm1d(2) for _ in range(3))

        def forward(self, x):
            return self.a(self.c(x) * 3) if len(x) < 5 else self.b(torch.relu(self.a(x)))

    x = data(20, 2)
    net = bn.recalibrate(Routed(), [x[4:], x[:4], x[:3]]).eval()
    small = torch.cat([x[:4], x[:3]])
    assert_stats(net.c, small)
    assert_stats(net.a, torch.cat([x[4:], net.c(small) * 3]))
    assert_stats(net.b, torch.relu(net.a(x[4:])))


def test_a_layer_called_again_in_between_does_not_hide_what_stands_before():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (bn.BatchNorm1d(2) for _ in range(3))

        def forward(self, x):
            y = self.b(torch.relu(self.a(x)))
            return self.c(torch.relu(y) + self.a(x))

    x = data(20, 2)
    net = bn.recalibrate(Again(), x.split(7)).eval()
    assert_stats(net.b, torch.relu(net.a(x)))
    assert_stats(net.c, torch.relu(net.b(torch.relu(net.a(x)))) + net.a(x))


def test_layers_that_take_turns_are_each_measured():
    class Either(nn.Module):
        """No order of the two is right for all batches."""

        def __init__(self):
            super().__init__()
            self.a, self.b = bn.BatchNorm1d(2), bn.BatchNorm1d(2)

        def forward(self, x):
            return [layer(x) for layer in ((self.a, self.b) if len(x) < 5 else (self.b, self.a))]

    x = data(20, 2)
    net = bn.recalibrate(Either(), [x[:4], x[4:]])
    assert_stats(net.a, x)
    assert_stats(net.b, x)


def test_upstream_batch_keeps_renorm_where_it_is():
    x = data(30, 3)
    open_ended = bn.BatchRenorm1d(3, momentum=1.0, r_max=1e6, d_max=1e6, warmup=0)
    net = bn.recalibrate(nn.Sequential(open_ended, nn.BatchNorm1d(3)), x.split(10), upstream="batch")
    # Unclipped it gives (x - running_mean) / running_std, of the statistics before the call: x itself.
    assert_stats(net[1], x, rtol=1e-5)


def test_masks_of_steps():
    x, lengths = data(8, 5, 3), torch.tensor([5, 1, 3, 4, 2, 5, 5, 3])
    valid = torch.arange(5) < lengths[:, None]
    together = bn.recalibrate(
        bn.RecurrentBatchNorm1d(3, 4),
        torch.arange(8).split(3),
        forward=lambda m, b: m(x[b], step=0, mask=valid[b]),
    )
    alone = bn.recalibrate(
        bn.RecurrentBatchNorm1d(3, 4),
        torch.arange(8).split(3),
        forward=lambda m, b: [m(x[b, t], step=t, mask=valid[b, t]) for t in range(5)],
    )
    for layer in (together, alone):
        for step in range(4):
            mean, var = pooled(x[:, step][valid[:, step]])
            np.testing.assert_allclose(layer.running_mean[step].numpy(), mean, rtol=1e-6)
            np.testing.assert_allclose(layer.running_var[step].numpy(), var, rtol=1e-6)


def test_half_precision_models_are_measured_in_float64():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), bn.BatchNorm1d(8)).bfloat16()
    x = data(300, 3).bfloat16()
    bn.recalibrate_(net, x.split(1))
    assert net[1].running_var.dtype == torch.float32
    # The linear layer rounds the same sample the same way whatever its batch is; its sums may differ by one ulp.
    seen = torch.cat([net[0](part) for part in x.split(1)]).float()
    assert_stats(net[1], seen)
    theirs = nn.Sequential(nn.BatchNorm1d(3)).half()
    bn.recalibrate_(theirs, x.half().split(50))
    np.testing.assert_allclose(theirs[0].running_var.float().numpy(), pooled(x.float())[1], rtol=2**-10)


def test_running_variance_ruined_before_is_mended():
    net = network()
    net[1].running_mean.fill_(float("nan"))
    net[5].running_var.fill_(float("inf"))
    x = data(60, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_consistent(bn.recalibrate(net, x.split(13)), x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e25])
def test_values_that_are_not_finite_are_left_out_by_channel_and_named(bad):
    x = data(40, 3)
    spoiled = x.clone()
    spoiled[12, 1] = bad
    layer = nn.Sequential(bn.BatchNorm1d(3))
    with pytest.warns(
        RecalibrationWarning, match=r"not finite were left out.*'0' \(1 of 4 calls\)"
    ) as caught:
        layer = bn.recalibrate(layer, spoiled.split(10))[0]
    assert caught[0].filename == __file__
    for channel, values in ((0, x), (1, torch.cat([x[:10], x[20:]])), (2, x)):
        mean, var = pooled(values[:, [channel]])
        np.testing.assert_allclose(layer.running_mean[channel].numpy(), mean[0], rtol=1e-6)
        np.testing.assert_allclose(layer.running_var[channel].numpy(), var[0], rtol=1e-6)


def test_a_channel_of_which_nothing_is_known_keeps_its_statistics():
    x = data(40, 2)
    x[:, 1] = float("nan")
    layer = bn.BatchNorm1d(2)
    layer.running_mean.fill_(0.25)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bn.recalibrate_(layer, x.split(10))
    spoiled, kept = (str(warning.message) for warning in caught)
    assert "not finite were left out" in spoiled
    assert "fewer than two finite values in some channel" in kept
    assert kept.endswith("the model itself")
    assert layer.running_mean[1] == 0.25
    assert layer.running_mean[0] != 0.25
    alone = bn.BatchNorm1d(2)
    with pytest.warns(RecalibrationWarning, match="fewer than two"):
        bn.recalibrate_(alone, torch.ones(1, 2))
    assert torch.equal(alone.running_var, torch.ones(2))


def test_layers_that_are_not_called_are_named_and_keep_their_statistics():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = bn.BatchNorm1d(2)
            self.idle = nn.ModuleList(bn.BatchNorm1d(2) for _ in range(5))

        def forward(self, x):
            return self.used(x)

    net = Idle()
    with pytest.warns(RecalibrationWarning, match="not called.*'idle.0'; 'idle.1'; 'idle.2'; and 2 more"):
        bn.recalibrate_(net, data(20, 2).split(5))
    assert torch.equal(net.idle[0].running_mean, torch.zeros(2))
    assert net.idle[0].num_batches_tracked == 0
    assert_stats(net.used, data(20, 2))
