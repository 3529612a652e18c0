"""Compiled layers over many steps: when torch compiles again, and that what it compiles is what eager mode gives."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import batchnorm as bn


@pytest.fixture
def compile_counting(native):
    """Compile through AOTAutograd, and the counter that says how often: an attribute `frame_count`."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def compiled(model, **options):
        return torch.compile(model, backend=counter, **options)

    yield compiled, counter
    torch._dynamo.reset()


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Two layers of one class and width, and one of another."""

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.first, self.second = (bn.BatchNorm2d(4, momentum=momentum) for _ in range(2))
        self.last = bn.BatchNorm1d(4, momentum=momentum)

    def forward(self, x):
        y = self.second(self.first(x, act="relu"), x, act="silu")
        return self.last(y.mean((2, 3)))


def assert_same_state(found: nn.Module, expected: nn.Module) -> None:
    for (name, value), other in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, msg=name)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_steps_and_switches_of_the_mode_compile_once_each(compile_counting, momentum) -> None:
    compiled, counter = compile_counting
    torch.manual_seed(0)
    model = Net(momentum)
    eager = copy.deepcopy(model)
    run = compiled(model, fullgraph=True, dynamic=False)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, eager)]
    counts = []
    for step in range(8):
        training = step % 4 < 2
        model.train(training), eager.train(training)
        x = randn(6, 4, 5, 5, seed=step)
        outputs = run(x), eager(x)
        torch.testing.assert_close(*outputs)
        if training:
            for output, optimizer in zip(outputs, optimizers, strict=True):
                optimizer.zero_grad()
                output.pow(3).sum().backward()
                optimizer.step()
        counts.append(counter.frame_count)
    assert counts == [1, 1, 2, 2, 2, 2, 2, 2]
    assert_same_state(model, eager)


def test_batches_of_any_size_compile_twice_at_most(compile_counting) -> None:
    compiled, counter = compile_counting
    model = Net()
    eager = copy.deepcopy(model)
    run = compiled(model, fullgraph=True)  # the second size makes it symbolic
    for size in (6, 7, 3, 12, 5):
        x = randn(size, 4, 5, 5, seed=size)
        torch.testing.assert_close(run(x), eager(x))
    assert counter.frame_count == 2
    assert_same_state(model, eager)


def test_a_graph_broken_between_layers(compile_counting) -> None:
    compiled, counter = compile_counting

    class Broken(Net):
        def forward(self, x):
            y = self.first(x, act="relu")
            torch._dynamo.graph_break()
            return self.second(y, x)

    model = Broken()
    eager = copy.deepcopy(model)
    run = compiled(model)
    for step in range(3):
        x = randn(6, 4, 5, 5, seed=step)
        torch.testing.assert_close(run(x), eager(x))
    assert counter.frame_count == 2
    assert_same_state(model, eager)


@pytest.mark.parametrize(
    "form", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"]
)
@pytest.mark.parametrize("masked", [False, True])
def test_layout_mask_and_autocast(compile_counting, masked, form) -> None:
    compiled, counter = compile_counting
    model = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), bn.BatchNorm2d(4)])
    eager = copy.deepcopy(model)

    def step(model, x, mask):
        y = model[0](x)
        return model[1](y, y, act="relu", mask=mask)

    run = compiled(step, fullgraph=True, dynamic=False)
    for seed in (0, 1):
        x = randn(4, 3, 5, 6, seed=seed).contiguous(memory_format=form)
        mask = randn(4, 5, 6, seed=seed + 2) < 0.5 if masked else None
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = run(model, x, mask), step(eager, x, mask)
        assert found.dtype is expected.dtype is torch.bfloat16
        assert found.stride() == expected.stride()
        torch.testing.assert_close(found, expected)
        for output in (found, expected):
            output.float().square().sum().backward()
    for parameter, other in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=2e-2, atol=2e-2)
    assert counter.frame_count == 1
    assert_same_state(model, eager)


def test_under_distributed_data_parallel(compile_counting, tmp_path) -> None:
    compiled, counter = compile_counting
    model = Net()
    eager = copy.deepcopy(model)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        run = compiled(wrapped)
        for step in range(3):
            x = randn(6, 4, 5, 5, seed=step)
            for each in (run, eager):
                each(x).pow(3).sum().backward()
            if step == 0:
                compiled_at_first = counter.frame_count
    finally:
        torch.distributed.destroy_process_group()
    assert counter.frame_count == compiled_at_first > 0
    for parameter, other in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-4)
    assert_same_state(model, eager)
