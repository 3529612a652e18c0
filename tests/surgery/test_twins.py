"""Between this package's batch norms, torch's, and those over several processes."""

import copy
import inspect
import warnings

import pytest
import torch
from torch import nn

import batchnorm.nn as ours
from batchnorm.errors import ConversionError, ConversionWarning
from batchnorm.nn.domain import domain
from batchnorm.surgery import convert, convert_
from batchnorm.surgery.twins import DONE, LAZY, PLAIN, SYNCED, twin

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
PLAINLY = [kind for kind in PLAIN if kind not in (*LAZY, *SYNCED, ours.ChannelsLastBatchNorm)]


def trained(kind):
    options = {"num_domains": 1} if kind in DONE["domain"] else {}
    layer = kind(3, eps=0.01, momentum=0.2, **options)
    shape = {"1": (4, 3), "2": (4, 3, 5, 5), "3": (4, 3, 5, 5, 5)}.get(kind.__name__[-2], (4, 3, 5, 5))
    if kind is not nn.SyncBatchNorm:
        layer(torch.randn(shape))
    return layer


@pytest.mark.parametrize("kind", [*PLAINLY, nn.SyncBatchNorm])
def test_to_sync_keeps_state_and_function(kind) -> None:
    source = trained(kind)
    layer = convert(nn.Sequential(source), "sync")[0]
    assert type(layer) is ours.SyncBatchNorm
    assert (layer.eps, layer.momentum, layer.training) == (0.01, 0.2, True)
    for name in set(source.state_dict()) - {"running_std"}:
        expected = source.state_dict()[name]
        assert torch.equal(layer.state_dict()[name].reshape(expected.shape), expected)


def test_the_group_is_the_option_or_the_one_it_had() -> None:
    assert convert(nn.BatchNorm2d(3), "sync").process_group is None
    assert convert(nn.BatchNorm2d(3), "sync", process_group="mine").process_group == "mine"
    assert convert(nn.SyncBatchNorm(3, process_group="its"), "sync").process_group == "its"
    assert convert(nn.SyncBatchNorm(3, process_group="its"), "sync", process_group=None).process_group is None
    layer = ours.SyncBatchNorm(3, process_group="its")
    assert convert(layer, "sync").process_group == "its"
    assert convert(layer, "sync", process_group="mine").process_group == "mine"
    assert convert(layer, "torch").process_group == "its"
    with pytest.raises(ConversionError, match="has no option 'process_group'"):
        convert(layer, "batchnorm", process_group=None)


def test_torch_has_a_twin_of_sync() -> None:
    model = nn.Sequential(ours.SyncBatchNorm(3), ours.BatchNorm2d(3))
    theirs = convert(model, "torch")
    assert [type(layer) for layer in theirs] == [nn.SyncBatchNorm, nn.BatchNorm2d]
    assert type(convert(theirs, "torch")[0]) is nn.SyncBatchNorm


class Shapes(nn.Module):
    """Sees (N, C), (N, C, L), images and volumes."""

    def __init__(self, kind):
        super().__init__()
        self.norms = nn.ModuleList(kind(3) for _ in range(4))

    def forward(self, x):
        shapes = (4, 3), (4, 3, 36), (4, 3, 6, 6), (4, 3, 6, 6, 1)
        return [
            norm(x.flatten(2)[..., 0] if len(s) == 2 else x.reshape(s))
            for norm, s in zip(self.norms, shapes, strict=True)
        ]


@pytest.mark.parametrize("kind", SYNCED)
def test_the_way_back_reads_the_rank_off_an_example(kind) -> None:
    model = Shapes(kind)
    back = convert(model, example=X)
    assert [type(layer) for layer in back.norms] == [ours.BatchNorm1d] * 2 + [
        ours.BatchNorm2d,
        ours.BatchNorm3d,
    ]
    assert not any("process_group" in vars(layer) for layer in back.norms)
    for mine, theirs in zip(back(X), model(X), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kind", SYNCED)
def test_without_an_example_there_is_no_way_back(kind) -> None:
    model = nn.Sequential(kind(3), nn.BatchNorm2d(3))
    with pytest.warns(
        ConversionWarning, match=r"'0' \(whether its input is 1d, 2d or 3d is not known"
    ) as caught:
        mine = convert_(model)
    assert [warning.filename for warning in caught] == [__file__]
    assert [type(layer) for layer in mine] == [kind, ours.BatchNorm2d]


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (ours.LazyBatchNorm2d(), "has not seen an input"),
        (nn.LazyBatchNorm2d(), "has not seen an input"),
        (ours.ChannelsLastBatchNorm(3), "SyncBatchNorm has no statistics over the last dimension"),
    ],
)
def test_what_has_no_synchronised_form(layer, reason) -> None:
    with pytest.raises(ConversionError, match=reason):
        convert(nn.Sequential(layer), "sync")


def test_synchronised_layers_can_be_replaced_by_other_kinds() -> None:
    assert type(convert(nn.Sequential(ours.SyncBatchNorm(8)), "group")[0]) is nn.GroupNorm
    assert type(convert(nn.Sequential(nn.SyncBatchNorm(3)), "instance", example=X)[0]) is nn.InstanceNorm2d


def test_every_kind_has_a_twin_or_is_done() -> None:
    for to, done in DONE.items():
        for kind in set(PLAIN) - set(done):
            found = twin(kind, to, 4)
            if found is None:
                assert kind is ours.ChannelsLastBatchNorm or (
                    to not in ("batchnorm", "torch") and kind in LAZY
                )
            else:
                assert inspect.isclass(found)
                assert found in done


OTHERS = ("ghost", "renorm", "frozen", "domain")
FAMILIES = ("batchnorm", "torch", *OTHERS)


def evaluated(layer, x):
    training = layer.training
    try:
        return layer.eval()(x)
    finally:
        layer.train(training)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("start", FAMILIES)
@pytest.mark.parametrize("to", FAMILIES)
def test_there_and_back_every_family_keeps_state_and_evaluation(rank, start, to) -> None:
    source = trained(DONE[start][rank])
    x = torch.randn(4, 3, *(5,) * (rank + bool(rank)))
    handle = source.register_forward_hook(lambda *_: None)
    needed = {"domain": {"num_domains": 1}}
    there = convert(nn.Sequential(source), to, **needed.get(to, {}))
    back = convert(there, start, **needed.get(start, {}))[0]
    assert type(there[0]) is DONE[to][rank]
    assert type(back) is type(source)
    for layer in (there[0], back):
        statistics_shape = (1, 3) if isinstance(layer, DONE["domain"]) else (3,)
        assert layer.running_mean.shape == statistics_shape
        assert (layer.eps, layer.momentum, layer.training) == (0.01, 0.2, True)
        same_names = isinstance(layer, DONE["renorm"]) == isinstance(source, DONE["renorm"])
        assert (list(layer.state_dict()) == list(source.state_dict())) == same_names
        for name in set(layer.state_dict()) & set(source.state_dict()):
            a, b = layer.state_dict()[name], source.state_dict()[name]
            a = a.reshape(b.shape)
            torch.testing.assert_close(
                a, b, rtol=2e-7 if name in ("running_var", "running_std") else 0, atol=0
            )
        assert handle.id in layer._forward_hooks
        torch.testing.assert_close(evaluated(layer, x), evaluated(source, x))
    assert ("virtual_batch_size" in vars(back)) == (start == "ghost")
    assert ("num_domains" in vars(back)) == (start == "domain")


@pytest.mark.parametrize("start", FAMILIES[:-1])
def test_every_domain_starts_with_the_statistics_of_the_layer_in_memory_of_its_own(start) -> None:
    source = trained(DONE[start][1])
    weight = source.weight
    layer = convert_(nn.Sequential(source), "domain", num_domains=3)[0]
    assert layer.num_domains == 3
    assert layer.weight.data_ptr() == weight.data_ptr()
    assert layer.running_mean.shape == layer.running_var.shape == (3, 3)
    started = {name: getattr(layer, name).clone() for name in STATISTICS}
    assert started["num_batches_tracked"].tolist() == [int(source.num_batches_tracked)] * 3
    for index in range(3):
        with domain(index):
            torch.testing.assert_close(evaluated(layer, X), evaluated(source, X))
    layer(X, domain=1)
    for name, before in started.items():
        after = getattr(layer, name)
        assert [bool((a == b).all()) for a, b in zip(after, before, strict=True)] == [True, False, True]


def adapted():
    layer = ours.DomainBatchNorm2d(3, num_domains=3)
    for index in (0, 1, 1, 2):
        layer(torch.randn(4, 3, 6, 6) + index, domain=index)
    return nn.Sequential(layer, nn.BatchNorm2d(3))


@pytest.mark.parametrize("to", [*FAMILIES[:-1], "sync"])
def test_a_domain_is_picked_on_the_way_back(to) -> None:
    model = adapted()
    layer = convert(model, to, domain=1)[0]
    expected = model[0].eval()(X, domain=1)
    torch.testing.assert_close(layer.eval()(X), expected)
    assert layer.num_batches_tracked == 2
    # A view would drag the other domains into every checkpoint.
    assert layer.running_mean.untyped_storage().nbytes() == 3 * 4
    assert "num_domains" not in vars(layer)


@pytest.mark.parametrize(
    ("to", "options", "reason"),
    [
        ("batchnorm", {}, "'0' has statistics of 3 domains; choose whose go along, e.g. domain=0"),
        ("torch", {}, "choose whose go along"),
        ("sync", {}, "choose whose go along"),
        ("domain", {"num_domains": 4}, "choose whose go along"),
        ("torch", {"domain": 3}, "layer '0': domain must be from 0 to 2, got 3"),
        ("torch", {"domain": True}, "layer '0': domain must be an int, got bool"),
        ("domain", {}, "needs num_domains"),
        ("domain", {"num_domains": 2.0, "domain": 0}, "num_domains must be an int, got float"),
        ("group", {"domain": 0}, "to='group' has no option 'domain'"),
    ],
)
def test_a_domain_is_never_guessed(to, options, reason) -> None:
    model = adapted()
    layers = list(model)
    with pytest.raises(ConversionError, match=reason):
        convert_(model, to, **options)
    assert list(model) == layers


def test_domains_keep_what_they_have_or_start_again_from_one() -> None:
    model = adapted()
    means = model[0].running_mean.clone()
    same = convert(model, "domain", num_domains=3)[0]
    assert torch.equal(same.running_mean, means)
    assert same.num_batches_tracked.tolist() == [1, 2, 1]
    more = convert(model, "domain", num_domains=5, domain=1)[0]
    assert torch.equal(more.running_mean, means[1].expand(5, 3))
    assert more.num_batches_tracked.tolist() == [2] * 5
    again = convert(model, "domain", num_domains=3, domain=2)[0]
    assert torch.equal(again.running_mean, means[2].expand(3, 3))


def test_other_kinds_need_no_domain() -> None:
    assert type(convert(adapted(), "group", num_groups=3)[0]) is nn.GroupNorm


def test_renorm_keeps_the_standard_deviation_and_its_options() -> None:
    source = trained(nn.BatchNorm2d)
    layer = convert(nn.Sequential(source), "renorm", r_max=2.0, d_max=1.0, warmup=7)[0]
    assert (layer.r_max, layer.d_max, layer.warmup) == (2.0, 1.0, 7)
    torch.testing.assert_close(layer.running_std, (source.running_var + 0.01).sqrt())
    assert layer.num_batches_tracked == 1
    again = convert(nn.Sequential(layer), "renorm", warmup=3)[0]
    assert (again.r_max, again.d_max, again.warmup) == (2.0, 1.0, 3)
    back = convert(layer, "torch")
    assert not {"r_max", "d_max", "warmup", "_first_passes"} & set(vars(back))


def test_ghost_keeps_the_very_parameters_and_takes_its_option() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(3))
    parameters = list(model.parameters())
    convert_(model, "ghost", virtual_batch_size=4)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [layer.virtual_batch_size for layer in model] == [4, 4]
    convert_(model, "ghost")
    assert [layer.virtual_batch_size for layer in model] == [4, 4]
    convert_(model, "ghost", virtual_batch_size=8)
    assert [layer.virtual_batch_size for layer in model] == [8, 8]


def test_frozen_holds_the_same_memory_as_buffers_and_gives_back_what_trains() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3))
    weight = model[1].weight
    frozen = convert_(model, "frozen")
    assert list(frozen.parameters()) == []
    assert frozen[1].weight.data_ptr() == weight.data_ptr()
    assert not frozen[1].weight.requires_grad
    back = convert_(frozen)
    assert [name for name, _ in back.named_parameters()] == ["1.weight", "1.bias"]
    assert all(parameter.requires_grad for parameter in back.parameters())
    assert back[0].weight is None


def test_what_did_not_train_before_it_was_frozen_does_not_after() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    model[0].weight.requires_grad_(False)
    frozen = copy.deepcopy(convert(model, "frozen")).double()
    for to in ("batchnorm", "torch", "ghost", "group"):
        flags = {name: p.requires_grad for name, p in convert(frozen, to).named_parameters()}
        assert flags == {"0.weight": False, "0.bias": True, "1.weight": True, "1.bias": True}
    assert "_untrained" not in vars(convert(frozen)[0])


def test_frozen_leads_to_other_kinds_too() -> None:
    layer = convert(convert(nn.Sequential(nn.BatchNorm2d(8)), "frozen"), "group", num_groups=2)[0]
    assert type(layer) is nn.GroupNorm
    assert layer.weight.requires_grad


@pytest.mark.parametrize(
    ("layer", "to", "reason"),
    [
        (ours.LazyBatchNorm2d(), "frozen", "has not seen an input"),
        (ours.ChannelsLastBatchNorm(3), "ghost", "there is no 'ghost' batch norm over the last dimension"),
        (ours.SyncBatchNorm(3), "ghost", "whether its input is 1d, 2d or 3d is not known; pass example"),
        (nn.BatchNorm2d(3, track_running_stats=False), "frozen", "track_running_stats must be True"),
        (nn.BatchNorm2d(3, track_running_stats=False), "renorm", "track_running_stats must be True"),
        (nn.BatchNorm2d(3, track_running_stats=False), "domain", "track_running_stats must be True"),
        (ours.ChannelsLastBatchNorm(3), "domain", "there is no 'domain' batch norm over the last dimension"),
        (type("Own", (nn.BatchNorm2d,), {})(3), "ghost", "may compute something else"),
    ],
)
def test_what_has_no_such_form(layer, to, reason) -> None:
    with pytest.raises(ConversionError, match=reason):
        convert(nn.Sequential(layer), to, **({"num_domains": 2} if to == "domain" else {}))


def test_a_synchronised_layer_becomes_another_kind_where_its_rank_is_known() -> None:
    assert (
        type(convert(nn.Sequential(ours.SyncBatchNorm(3)), "frozen", example=X)[0]) is ours.FrozenBatchNorm2d
    )


def test_what_is_done_already_is_left_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(convert(nn.Sequential(ours.SyncBatchNorm(3)), "sync")[0]) is ours.SyncBatchNorm
