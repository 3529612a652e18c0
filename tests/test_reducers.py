"""What goes over the wire, and when, in a pretended group; tests/distributed has the numbers."""

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import batchnorm as bn
from batchnorm.moments import Moments
from batchnorm.reducers import GATHER_UP_TO, GroupReducer

CHANNELS = 8


@pytest.fixture
def wire(request, monkeypatch):
    """The collectives, each with the number of values that one rank has of it, in a group of the given size."""
    dist.init_process_group("fake", rank=0, world_size=request.param, store=FakeStore())
    seen = []
    gather = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
    real_gather, real_reduce = getattr(dist, gather), dist.all_reduce

    def gathering(output, input, **options):
        seen.append(("gather", output.numel(), input.dtype))
        return real_gather(output, input, **options)

    def reducing(values, **options):
        seen.append(("reduce", values.numel(), values.dtype))
        return real_reduce(values, **options)

    monkeypatch.setattr(dist, gather, gathering)
    monkeypatch.setattr(dist, "all_reduce", reducing)
    yield seen
    dist.destroy_process_group()


def step(x, layer, **call) -> None:
    layer(x, x, act="relu", **call).sum().backward()


@pytest.mark.parametrize("wire", [2, GATHER_UP_TO], indirect=True)
def test_up_to_64_ranks_one_gather_and_one_reduction(wire) -> None:
    step(torch.randn(4, CHANNELS, 5, requires_grad=True), bn.SyncBatchNorm(CHANNELS))
    ranks = dist.get_world_size()
    assert wire == [
        ("gather", ranks * (2 * CHANNELS + 2), torch.float64),
        ("reduce", 2 * CHANNELS, torch.float64),
    ]


@pytest.mark.parametrize("wire", [GATHER_UP_TO + 1, 1024], indirect=True)
def test_above_that_three_reductions_whatever_the_world_is(wire) -> None:
    step(torch.randn(4, CHANNELS, 5, requires_grad=True), bn.SyncBatchNorm(CHANNELS))
    sizes = [CHANNELS + 2, CHANNELS, 2 * CHANNELS]
    assert wire == [("reduce", size, torch.float64) for size in sizes]


@pytest.mark.parametrize("wire", [8, 1024], indirect=True)
@pytest.mark.parametrize("masked", [False, True])
def test_an_accelerator_is_never_waited_for(wire, masked) -> None:
    # A tensor on the meta device has no values: looking at one is an error.
    layer = bn.SyncBatchNorm(CHANNELS, device="meta")
    x = torch.randn(4, CHANNELS, 5, device="meta", requires_grad=True)
    mask = torch.ones(4, 5, dtype=torch.bool, device="meta") if masked else None
    step(x, layer, mask=mask)
    step(x[:0], layer, mask=None)
    with pytest.raises(RuntimeError, match="meta"):
        layer.num_batches_tracked.item()


@pytest.mark.parametrize("wire", [4], indirect=True)
def test_no_collective_where_no_gradient_of_the_input_is_asked(wire) -> None:
    bn.SyncBatchNorm(CHANNELS)(torch.randn(4, CHANNELS)).sum().backward()
    assert [kind for kind, *_ in wire] == ["gather"]
    bn.SyncBatchNorm(CHANNELS).eval()(torch.randn(4, CHANNELS, requires_grad=True)).sum().backward()
    with torch.no_grad():
        bn.SyncBatchNorm(CHANNELS)(torch.randn(4, CHANNELS))
    assert [kind for kind, *_ in wire] == ["gather"] * 2


@pytest.mark.parametrize("wire", [4], indirect=True)
def test_a_tensor_count_says_that_a_mask_decided_it(wire) -> None:
    # In the pretended group a reduction gives this rank's values back.
    mean = torch.zeros(CHANNELS, dtype=torch.float64)
    reducer = GroupReducer(gather_up_to=1)
    assert reducer.moments(Moments(3, mean, mean)).count == 3
    masked = reducer.moments(Moments(torch.tensor(3.0), mean, mean)).count
    assert isinstance(masked, torch.Tensor)
    assert masked == 3
