"""The operators that torch.compile sees: torch's own checks of them, and compiled layers against eager ones."""

import hashlib

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

import batchnorm as bn
from batchnorm.ops import library

ACTS = ["relu", "relu6", "leaky_relu", "silu", "gelu", "gelu_tanh", "hardswish", "elu"]
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("act", ["", "relu", "silu"])
@pytest.mark.parametrize("form", ["plain", "residual", "masked", "channels_last", "strided"])
@pytest.mark.parametrize("name", ["forward", "evaluate"])
def test_torchs_own_checks(native, name, form, act) -> None:
    x = randn(4, 3, 5, 6)
    if form == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if form == "strided":
        x = x[..., ::2]
    x.requires_grad_()
    residual = randn(*x.shape, seed=1).requires_grad_() if form == "residual" else None
    mask = torch.rand(4, 1, 5, 6) < 0.7 if form == "masked" else None
    weight, bias = torch.rand(3).requires_grad_(), torch.rand(3).requires_grad_()
    given = (torch.zeros(3), torch.ones(3)) if name == "evaluate" else ()
    arguments = (x, *given, weight, bias, residual, mask, act, 0.01, 1e-5, 1)
    torch.library.opcheck(getattr(torch.ops.batchnorm_v1, name).default, arguments, test_utils=CHECKS)


def operators(compiled_graphs) -> set[str]:
    return {str(node.target) for graph in compiled_graphs for node in graph.graph.nodes}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("form", ["plain", "residual", "masked", "cumulative"])
@pytest.mark.parametrize("act", [None, "relu", "elu"])
def test_a_compiled_layer_is_one_operator_and_gives_the_eager_result(
    native, act, form, dynamic, training
) -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    momentum = None if form == "cumulative" else 0.2
    eager, layer = (bn.BatchNorm2d(3, momentum=momentum).train(training) for _ in range(2))
    run = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend=backend)
    compiled = []
    for size in (4, 6) if dynamic else (4, 4):
        x = randn(size, 3, 5, 6, seed=size)
        call = {"act": act}
        if form == "residual":
            call["residual"] = randn(size, 3, 5, 6, seed=1)
        if form == "masked":
            call["mask"] = torch.rand(size, 5, 6) < 0.7
        found = []
        for each, module in ((eager, eager), (run, layer)):
            leaf = x.clone().requires_grad_()
            out = each(leaf, **call)
            grads = torch.autograd.grad(out.square().sum(), [leaf, *module.parameters()])
            found.append([out, *grads, *module.buffers()])
        torch.testing.assert_close(*found)
        compiled.append(len(graphs))
    assert compiled[0] == compiled[1]
    assert f"batchnorm_v1.{'forward' if training else 'evaluate'}" in operators(graphs)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("act", ACTS)
def test_every_activation_compiles_to_the_eager_result(native, act, residual) -> None:
    torch._dynamo.reset()
    eager, layer = bn.BatchNorm1d(6), bn.BatchNorm1d(6)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = []
    for each, module in ((eager, eager), (run, layer)):
        torch.nn.init.constant_(module.weight, 5.0)  # so that values go beyond relu6's upper end
        x = randn(9, 6).requires_grad_()
        other = [randn(9, 6, seed=1).requires_grad_()] if residual else []
        out = each(x, *other, act=act)
        grads = torch.autograd.grad(out, [x, *other, *module.parameters()], randn(9, 6, seed=2))
        found.append([out, *grads, *module.buffers()])
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_compiled_graph_holds_no_operator_with_an_autograd_kernel(native) -> None:
    torch._dynamo.reset()
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    torch.compile(bn.BatchNorm1d(3), backend=backend)(randn(5, 3).requires_grad_()).sum().backward()
    ours = {name for name in operators(graphs) if name.startswith("batchnorm_")}
    assert ours == {"batchnorm_v1._forward.default", "batchnorm_v1._backward.default"}


def test_the_reference_is_compiled_where_it_was_asked_for(native) -> None:
    torch._dynamo.reset()
    graphs = []
    layer = bn.BatchNorm1d(3)
    run = torch.compile(layer, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    with bn.backend("reference"):
        run(randn(5, 3))
    assert not any("batchnorm_v1." in name for name in operators(graphs))
    run(randn(5, 3))
    assert any("batchnorm_v1." in name for name in operators(graphs[1:]))


# By version of the namespace: the digest of what its operators take and give. Add a line, never change one.
SCHEMAS = {"batchnorm_v1": "38064354edd5d22a"}


def test_operators_change_only_with_their_version() -> None:
    defined = sorted(
        str(schema)
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith(f"{library.NAMESPACE}::")
    )
    assert len(defined) == 5
    digest = hashlib.sha256("\n".join(defined).encode()).hexdigest()[:16]
    assert SCHEMAS[library.NAMESPACE] == digest, "\n".join(defined)


def test_an_exported_program_needs_none_of_ours(native) -> None:
    program = torch.export.export(torch.nn.Sequential(bn.BatchNorm2d(3)).eval(), (randn(4, 3, 5, 5),))
    assert not any("batchnorm_v" in name for name in operators([program]))


def test_checkpointing_inside_a_compiled_function_counts_once(native) -> None:
    torch._dynamo.reset()
    layer, x = bn.BatchNorm2d(3), randn(4, 3, 5, 5).requires_grad_()
    checkpoint = torch.utils.checkpoint.checkpoint
    run = torch.compile(
        lambda x: checkpoint(layer, x, use_reentrant=False).square().sum(), backend="aot_eager"
    )
    run(x).backward()
    assert layer.num_batches_tracked == 1
