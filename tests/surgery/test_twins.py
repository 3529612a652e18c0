"""Between this package's batch norms, torch's, and those over several processes."""

import inspect
import warnings

import pytest
import torch
from torch import nn

import batchnorm.nn as ours
from batchnorm.errors import ConversionError, ConversionWarning
from batchnorm.surgery import convert, convert_
from batchnorm.surgery.twins import DONE, LAZY, PLAIN, SYNCED, twin

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
PLAINLY = [kind for kind in PLAIN if kind not in (*LAZY, *SYNCED, ours.ChannelsLastBatchNorm)]


def trained(kind):
    layer = kind(3, eps=0.01, momentum=0.2)
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
        assert torch.equal(layer.state_dict()[name], source.state_dict()[name])


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


OTHERS = ("ghost", "renorm", "frozen")
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
    there = convert(nn.Sequential(source), to)
    back = convert(there, start)[0]
    assert type(there[0]) is DONE[to][rank]
    assert type(back) is type(source)
    for layer in (there[0], back):
        assert (layer.eps, layer.momentum, layer.training) == (0.01, 0.2, True)
        same_names = isinstance(layer, DONE["renorm"]) == isinstance(source, DONE["renorm"])
        assert (list(layer.state_dict()) == list(source.state_dict())) == same_names
        for name in set(layer.state_dict()) & set(source.state_dict()):
            a, b = layer.state_dict()[name], source.state_dict()[name]
            torch.testing.assert_close(
                a, b, rtol=2e-7 if name in ("running_var", "running_std") else 0, atol=0
            )
        assert handle.id in layer._forward_hooks
        torch.testing.assert_close(evaluated(layer, x), evaluated(source, x))
    assert ("virtual_batch_size" in vars(back)) == (start == "ghost")


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
        (type("Own", (nn.BatchNorm2d,), {})(3), "ghost", "may compute something else"),
    ],
)
def test_what_has_no_such_form(layer, to, reason) -> None:
    with pytest.raises(ConversionError, match=reason):
        convert(nn.Sequential(layer), to)


def test_a_synchronised_layer_becomes_another_kind_where_its_rank_is_known() -> None:
    assert (
        type(convert(nn.Sequential(ours.SyncBatchNorm(3)), "frozen", example=X)[0]) is ours.FrozenBatchNorm2d
    )


def test_what_is_done_already_is_left_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(convert(nn.Sequential(ours.SyncBatchNorm(3)), "sync")[0]) is ours.SyncBatchNorm
