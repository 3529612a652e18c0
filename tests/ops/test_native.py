"""The binding: what it packs, each operator alone against the reference, layouts, and what autograd keeps."""

import ctypes
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import batchnorm as bn
from batchnorm.activations import NAMES, resolve
from batchnorm.moments import RunningStats
from batchnorm.ops import Affine, reference
from batchnorm.ops.native import _ACTS, CALL

HEADER = Path(__file__).parents[2] / "native" / "batchnorm.h"
KINDS = {
    "int64_t": ctypes.c_int64,
    "int32_t": ctypes.c_int32,
    "double": ctypes.c_double,
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_packed_call_is_the_headers_struct() -> None:
    body = re.search(r"typedef struct bn_call \{(.*?)\} bn_call;", HEADER.read_text(), re.S)[1]
    fields = []
    for statement in re.sub(r"/\*.*?\*/", "", body, flags=re.S).split(";")[:-1]:
        kind, *names = statement.replace("const", "").replace(",", " ").split()
        for name in names:
            pointer = name.startswith("*")
            fields.append((name.lstrip("*"), ctypes.c_void_p if pointer else KINDS[kind]))
    layout = type("Call", (ctypes.Structure,), {"_fields_": fields})
    assert CALL.size == ctypes.sizeof(layout)
    values = CALL.unpack(bytes(CALL.pack(*range(1, 32))))
    read = layout.from_buffer_copy(CALL.pack(*range(1, 32)))
    assert [getattr(read, name) for name, _ in fields] == list(values)


def test_the_codes_of_activations_are_the_headers() -> None:
    codes = re.search(r"BN_IDENTITY,(.*?)BN_RELU_OF_OUTPUT", HEADER.read_text(), re.S)[1]
    assert [name.strip().removeprefix("BN_").lower() for name in codes.split(",")[:-1]] == list(_ACTS)
    assert sorted(_ACTS) == sorted(NAMES)


LAYOUTS = {
    "rows": (randn(7, 5), 1),
    "sequence": (randn(4, 5, 9), 1),
    "image": (randn(3, 5, 4, 6), 1),
    "channels_last": (randn(3, 5, 4, 6).contiguous(memory_format=torch.channels_last), 1),
    "channels_last_3d": (randn(2, 5, 3, 4, 2).contiguous(memory_format=torch.channels_last_3d), 1),
    "last": (randn(3, 4, 5), 2),
    "first": (randn(5, 3, 4), 0),
    "channels_last memory, last dimension": (
        randn(3, 6, 4, 5).contiguous(memory_format=torch.channels_last),
        3,
    ),
    "one channel": (randn(6, 1, 4, 4).contiguous(memory_format=torch.channels_last), 1),
    "permuted": (randn(3, 4, 6, 5).permute(0, 3, 2, 1), 1),
    "every other": (randn(8, 5, 6)[::2, :, 1:5], 1),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_each_operator_alone_in_each_layout(native, name, masked) -> None:
    x, channel_dim = LAYOUTS[name]
    channels = x.size(channel_dim)
    mask = None
    if masked:
        positions = [1 if dim == channel_dim else size for dim, size in enumerate(x.shape)]
        mask = torch.rand(positions, generator=torch.Generator().manual_seed(1)) < 0.7
    affine = Affine(
        1 + randn(channels, seed=2) / 4, randn(channels, seed=3), x.flip(0), resolve("silu"), mask
    )
    grad = randn(*x.shape, seed=4)
    found = []
    for backend in (native, reference):
        batch = backend.moments(x, mask, channel_dim)
        invstd = (batch.var + 1e-5).rsqrt()
        call = (batch.mean, invstd, affine, channel_dim)
        output = backend.normalize(x, *call)
        sums = backend.grad_moments(grad, x, *call)
        count = batch.count if isinstance(batch.count, int) else batch.count.item()
        grads = backend.grad_input(grad, x, *call, (sums[0] / count, sums[1] / count))
        constant = backend.grad_input(grad, x, *call, None)
        found.append([torch.tensor(float(count)), batch.mean, batch.var, output, *sums, *grads, *constant])
    for mine, truth in zip(*found, strict=True):
        torch.testing.assert_close(mine, truth, rtol=2e-6, atol=4e-6, check_dtype=False)


@pytest.mark.parametrize("name", LAYOUTS)
def test_outputs_lie_in_memory_as_the_references_do(native, name) -> None:
    x, channel_dim = LAYOUTS[name]
    strides = []
    for choice in ("native", "reference"):
        with bn.backend(choice):
            out = bn.functional.batch_norm(x, None, None, training=True, channel_dim=channel_dim)
            strides.append(out.stride())
    assert strides[0] == strides[1]


def step(layer, x: Tensor, grad: Tensor, **call) -> list[Tensor]:
    x = x.detach().requires_grad_()
    out = layer(x, **call)
    found = torch.autograd.grad(out, [x, *layer.parameters()], grad)
    return [out.detach(), *found, *(buffer.clone() for buffer in layer.buffers())]


@pytest.mark.parametrize("kind", ["expanded", "channels_last", "strided", "vmap"])
def test_gradients_that_arrive_in_another_form(native, kind) -> None:
    x = randn(4, 3, 5, 5)
    if kind == "vmap":
        x.requires_grad_()
        out = bn.BatchNorm2d(3)(x, act="silu")
        many = randn(6, 4, 3, 5, 5)
        (batched,) = torch.autograd.grad(out, x, many, is_grads_batched=True, retain_graph=True)
        single = torch.stack([torch.autograd.grad(out, x, one, retain_graph=True)[0] for one in many])
        torch.testing.assert_close(batched, single, rtol=1e-5, atol=1e-6)
        return
    grad = {
        "expanded": torch.ones(()).expand(4, 3, 5, 5),
        "channels_last": randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last),
        "strided": randn(4, 3, 5, 10)[..., ::2],
    }[kind]
    torch.testing.assert_close(
        step(bn.BatchNorm2d(3), x, grad, act="gelu"),
        step(bn.BatchNorm2d(3), x, grad.contiguous(), act="gelu"),
    )


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("act", [None, "relu", "silu"])
def test_only_what_is_asked_for_gets_a_gradient(native, act, residual) -> None:
    shape = (4, 3, 5)
    tensors = {"x": randn(*shape), "weight": randn(3, seed=1), "bias": randn(3, seed=2)}
    if residual:
        tensors["residual"] = randn(*shape, seed=3)
    grad = randn(*shape, seed=4)

    def call(values):
        return bn.functional.batch_norm(
            values["x"],
            None,
            None,
            values["weight"],
            values["bias"],
            True,
            residual=values.get("residual"),
            act=act,
        )

    every = {name: value.clone().requires_grad_() for name, value in tensors.items()}
    whole = dict(zip(every, torch.autograd.grad(call(every), list(every.values()), grad), strict=True))
    for name in tensors:
        alone = {key: value.clone().requires_grad_(key == name) for key, value in tensors.items()}
        (found,) = torch.autograd.grad(call(alone), alone[name], grad)
        torch.testing.assert_close(found, whole[name])


def test_moved_buffers_are_noticed_by_autograd(native) -> None:
    layer = bn.BatchNorm1d(3)
    scale = torch.ones(3, requires_grad=True)
    saved = (layer.running_mean * scale).sum()
    before = [buffer._version for buffer in layer.buffers()]
    layer(randn(5, 3))
    assert all(buffer._version > old for buffer, old in zip(layer.buffers(), before, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("momentum", [0.3, None])
def test_buffers_of_any_type_move_as_the_references(native, dtype, momentum) -> None:
    found = []
    for choice in ("native", "reference"):
        layer = bn.BatchNorm1d(3, momentum=momentum)
        layer.running_mean, layer.running_var = layer.running_mean.to(dtype), layer.running_var.to(dtype)
        with bn.backend(choice):
            for seed in range(3):
                layer(randn(6, 3, seed=seed))
            found.append([*layer.buffers(), layer.eval()(randn(6, 3))])
    torch.testing.assert_close(*found)
    assert native.moves(RunningStats(*layer.buffers())) == (dtype != torch.bfloat16)


@pytest.mark.parametrize(
    ("tensor", "residual"),
    [
        (torch.zeros(0, 3), None),
        (torch.zeros(4, 3, device="meta"), None),
        (randn(4, 3).to_sparse(), None),
        (randn(4, 3).bfloat16(), randn(4, 3)),
        (torch.zeros(4, 3, dtype=torch.int64), None),
    ],
    ids=["empty", "meta", "sparse", "residual of another type", "integers"],
)
def test_what_is_left_to_the_reference(native, tensor, residual) -> None:
    assert native.serves(randn(4, 3), Affine())
    assert not native.serves(tensor, Affine(residual=residual))


def test_the_forwards_backend_is_the_backwards(native, monkeypatch) -> None:
    called = []
    monkeypatch.setattr(reference, "backward", lambda *args: called.append("reference") or (None,) * 4)
    x = randn(4, 3).requires_grad_()
    with bn.backend("reference"):
        first = bn.BatchNorm1d(3)(x)
    second = bn.BatchNorm1d(3)(x)
    with bn.backend("reference"):
        second.sum().backward()
    assert called == []
    first.sum().backward()
    assert called == ["reference"]
