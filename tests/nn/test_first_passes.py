"""A forward that activation checkpointing repeats uses the numbers of the first: every gradient is the plain one.

Each layer is called on several batches before the first backward, so that the running statistics have moved far when
the repetition comes.
"""

import copy
import functools
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import batchnorm as bn
from batchnorm.errors import RecomputationError
from tests.nn.test_renorm import made, randn

PASSES = 4


def net():
    torch.manual_seed(0)
    options = {"r_max": 3.0, "d_max": 5.0, "warmup": 1, "momentum": 0.4}
    return nn.Sequential(
        nn.Conv2d(3, 4, 1),
        bn.BatchRenorm2d(4, **options),
        nn.SiLU(),
        nn.Conv2d(4, 4, 1),
        bn.BatchRenorm2d(4, **options),
    )


def everything(ctx, op, *args, **kwargs):
    return CheckpointPolicy.PREFER_SAVE


def selective(policy):
    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    return lambda model, x: checkpoint(model, x, use_reentrant=False, context_fn=contexts)


def nested(reentrant):
    def run(model, x):
        def inner(x):
            x = checkpoint(model[:2], x, use_reentrant=reentrant)
            return checkpoint(model[2:], x, use_reentrant=False)

        return checkpoint(inner, x, use_reentrant=False)

    return run


WAYS = {
    "saved tensors": lambda model, x: checkpoint(model, x, use_reentrant=False),
    "to the end": lambda model, x: checkpoint(model, x, use_reentrant=False, early_stop=False),
    "reentrant": lambda model, x: checkpoint(model, x, use_reentrant=True),
    "nested": nested(False),
    "reentrant in nested": nested(True),
    "selective": selective([torch.ops.aten.mul.Tensor, torch.ops.aten.sqrt.default]),
    "everything saved": selective(everything),
}


def gradients(model, way, steps=2):
    model, found = copy.deepcopy(model), []
    for step in range(steps):
        batches = [
            (2 + number) * randn(4, 3, 5, 5, seed=10 * step + number).float() + number
            for number in range(PASSES)
        ]
        batches = [batch.requires_grad_() for batch in batches]
        total = sum(way(model, batch).pow(3).mean() for batch in batches)
        total.backward()
        found += [batch.grad for batch in batches]
    return found, [p.grad for p in model.parameters()], list(model.state_dict().values())


@pytest.mark.parametrize("way", WAYS)
def test_a_repeated_forward_uses_the_numbers_of_the_first(way) -> None:
    expected = gradients(net(), lambda model, x: model(x))
    actual = gradients(net(), WAYS[way])
    # Under a policy torch's operators run, not the kernels. Reentrant, a parameter's gradient is summed in other order.
    kernels = not way.startswith(("selective", "everything"))
    for mine, theirs, exact in zip(
        actual, expected, (kernels, kernels and "reentrant" not in way, kernels), strict=True
    ):
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a, b) if exact else torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_forward_that_was_not_seen_says_what_happened() -> None:
    layer, x = made((6, 3)), randn(6, 3).requires_grad_()
    y = checkpoint(layer, x, use_reentrant=False)
    for seed in range(64):
        with torch.no_grad():
            layer(randn(6, 3, seed=seed + 1))
    with pytest.raises(RecomputationError, match="none of the last 64 forwards of this layer had this batch"):
        y.sum().backward()
    z = randn(6, 3).requires_grad_()
    z.register_hook(lambda grad: layer(grad))
    with pytest.raises(RecomputationError, match="started inside a backward pass"):
        (z * 2).sum().backward()


def test_a_batch_with_nan_is_found_again() -> None:
    layer, x = made((6, 3)), randn(6, 3)
    x[0, 1] = float("nan")
    x.requires_grad_()
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert x.grad[:, 1].isnan().all()
    assert not x.grad[:, 0].isnan().any()
    assert layer.running_mean[1] == -2
    assert layer.running_std[1] == torch.tensor(0.4)
    assert layer.num_batches_tracked == 1


def test_plain_training_keeps_nothing_and_copies_start_empty() -> None:
    layer, x = made((6, 3)), randn(6, 3)
    layer(x)
    assert len(layer._first_passes._kept) == 0
    with torch.no_grad():
        for _ in range(70):
            layer(x)
    assert len(layer._first_passes._kept) == 64
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert len(other._first_passes._kept) == 0
        assert torch.equal(other(x), copy.deepcopy(layer)(x))


def test_a_checkpoint_inside_or_around_a_compiled_layer_is_refused() -> None:
    torch._dynamo.reset()
    layer, x = made((6, 3)), randn(6, 3).requires_grad_()
    inside = torch.compile(lambda t: checkpoint(layer, t, use_reentrant=False), backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"torch\.compile cannot checkpoint batch renormalization"):
        inside(x)
    around = checkpoint(torch.compile(layer, backend="aot_eager"), x, use_reentrant=False)
    with pytest.raises(RecomputationError, match="repeats a compiled forward"):
        around.sum().backward()


def test_of_equal_batches_the_last_one_counts() -> None:
    # As in sharpness-aware minimization: the same batch again, after its first backward.
    plain, repeated = made((6, 3), momentum=0.5), made((6, 3), momentum=0.5)
    for _ in range(3):
        x, y = (3 * randn(6, 3).requires_grad_() for _ in range(2))
        expected = torch.autograd.grad(plain(x, act="silu").square().sum(), x)
        actual = torch.autograd.grad(
            checkpoint(lambda t: repeated(t, act="silu"), y, use_reentrant=False).square().sum(), y
        )
        assert torch.equal(actual[0], expected[0])
