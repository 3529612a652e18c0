"""Put batch norm into a network that has none."""

from collections import Counter, OrderedDict
from typing import Any

import torch
from torch import Tensor, fx, nn

from batchnorm.errors import ConversionError
from batchnorm.surgery.aliases import is_reached_by_memory
from batchnorm.surgery.bypassed import Structure, agree, outputs
from batchnorm.surgery.graph_sites import GraphSite, graph_sites, is_overwriting, use_values_in_place
from batchnorm.surgery.hidden import ACTIVATION_MODULES
from batchnorm.surgery.layers import batch_norm_paths
from batchnorm.surgery.layouts import Layouts, Spot, make_norm, spot_of
from batchnorm.surgery.observed import observed_sites
from batchnorm.surgery.replace import copied, exchange, refuse_scripted
from batchnorm.surgery.restored import materialise, own, restored, run
from batchnorm.surgery.rewrite import rewrite
from batchnorm.surgery.static_spots import static_spot
from batchnorm.surgery.trace import UntraceableError, trace

__all__ = ["insert", "insert_"]

PLACEMENTS = ("before", "after")


def insert(model: nn.Module, placement: str = "before", *, example: Any = None) -> nn.Module:
    """Return a copy of the model with a batch norm before or after each hidden activation.

    Hidden is what is neither the model's output (up to reshaping and dropout) nor a gate (a sigmoid, tanh or softplus
    only multiplied with something else). The copy keeps class, methods, submodules and the keys of the state_dict;
    keys of the new layers are added. Where torch.fx can trace the model, activations may be functions, and modules
    called several times get a norm a call. Where it cannot, each activation must be a module of its own, and an
    example is needed.

    Args:
        model: a network without batch norm; not changed.
        placement: "before" or "after" the activation. Default "before".
        example: a batch (tuple: positional arguments, dict: named ones), run without a trace to learn shapes, also
            those of lazy layers, and to see that nothing but norms was added. Without it channels are read off the
            preceding convolution or linear layer, and a linear layer is taken to see (N, C). Default None.

    Returns:
        The new model. (N, C) and (N, C, L) get a BatchNorm1d, images a 2d, volumes a 3d, and (N, *, C) behind a linear
        layer a ChannelsLastBatchNorm, all of this package.

    Raises:
        ConversionError: the model has batch norms; no hidden activation is found; or there is no telling where, or for
            how many channels, a norm must stand; an activation works in place on memory that others read through a
            view; or the model without its new norms does not compute on the example what it did. The message says
            what to do.

    Example:
        >>> from torch import nn
        >>> model = insert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)))
        >>> [type(layer).__name__ for layer in model[1]]
        ['BatchNorm2d', 'ReLU']

    Source:
        Ioffe & Szegedy 2015, section 3.2, for "before".
    """
    _check(model, placement)
    return _insert(copied(model, "insert"), placement, example)


def insert_(model: nn.Module, placement: str = "before", *, example: Any = None) -> nn.Module:
    """Put the batch norms into the model itself; see `insert`.

    Args:
        model: changed in place, unless an error is raised.
        placement: as for `insert`.
        example: as for `insert`.

    Returns:
        The model.

    Raises:
        ConversionError: as for `insert`.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> insert_(model, "after") is model
        True
    """
    _check(model, placement)
    return _insert(model, placement, example)


def _insert(model: nn.Module, placement: str, example: Any) -> nn.Module:
    if example is None:
        return _put(model, placement, None)
    materialise(model, example)
    expected = outputs(model, example)
    # A model that gives something else every time cannot be compared with itself.
    steady = agree(expected, outputs(model, example))
    before = Structure(model)
    try:
        result = _put(model, placement, example)
        norms = [result.get_submodule(path) for path in batch_norm_paths(result)]
        if steady and not agree(expected, outputs(result, example, bypassed=norms)):
            raise ConversionError(
                "insert: on the example the model without its new norms computes something else than before, as where "
                "an activation works in place on what others read; make it inplace=False, or place batch norms by hand"
            )
    except BaseException:
        before.put_back()
        raise
    return result


def _put(model: nn.Module, placement: str, example: Any) -> nn.Module:
    try:
        return _insert_traced(model, placement, example)
    except UntraceableError as problem:
        reason = str(problem)
    if example is None:
        raise ConversionError(f"insert: the model cannot be traced ({reason}); pass example=a batch")
    sites = observed_sites(model, placement, example, reason)
    for path in sites:
        if any(True for _ in model.get_submodule(path).parameters()):
            raise ConversionError(
                f"insert: the model cannot be traced ({reason}), and {path!r} has parameters, whose names would change"
            )
    return _put_beside(model, placement, sites)


def _check(model: nn.Module, placement: str) -> None:
    if placement not in PLACEMENTS:
        raise ConversionError(f"placement: expected before or after, got {placement!r}")
    refuse_scripted(model)
    norms = batch_norm_paths(model)
    if norms:
        raise ConversionError(
            f"insert: the model has batch norms already, first {norms[0] or 'the model itself'!r}; use convert"
        )


def _insert_traced(model: nn.Module, placement: str, example: Any) -> nn.Module:
    graph = trace(model, example)
    overwritten = use_values_in_place(graph, model)
    sites = graph_sites(graph, model)
    for site in sites:
        if is_overwriting(site.output, model) and is_reached_by_memory(site.output, site.input, model):
            raise ConversionError(
                f"insert: {_name(site)} works in place on a view, or on a value of which there is a view, and what it "
                "changes is read there; make it inplace=False and use its output, or place batch norms by hand"
            )
    if not sites:
        raise _none_found()
    spots = _static_spots(model, placement, sites) if example is None else {}
    if example is not None:
        spots = _spots_in_example(model, graph, placement, sites, example)
    calls = Counter(model.get_submodule(str(n.target)) for n in graph.nodes if n.op == "call_module")
    if not overwritten and all(_stands_alone(site, model, calls) for site in sites):
        return _put_beside(model, placement, {str(site.path): spots[site] for site in sites})
    for site in sites:
        name = _free_name(model, f"norm_{site.output.name}")
        model.add_module(name, make_norm(spots[site], model))
        _put_into(graph, site, placement, name)
    rewrite(model, graph)
    return model


def _static_spots(model: nn.Module, placement: str, sites: list[GraphSite]) -> dict[GraphSite, Spot]:
    spots = {}
    for site in sites:
        spot = static_spot(site.input if placement == "before" else site.output, model)
        if spot is None:
            raise ConversionError(f"insert: {_name(site)} does not show its channels; pass example=a batch")
        spots[site] = spot
    return spots


def _spots_in_example(
    model: nn.Module, graph: fx.Graph, placement: str, sites: list[GraphSite], example: Any
) -> dict[GraphSite, Spot]:
    notes: dict[fx.Node, tuple[Any, Any]] = {}
    for training in (True, False):
        try:
            expected = run(model, example, training=training)
        except Exception as problem:
            if training:
                continue
            text = " ".join(str(problem).split())
            raise ConversionError(
                f"insert: on the example the model raised {type(problem).__name__}: {text}"
            ) from problem
        with restored(model), torch.no_grad(), Layouts() as layouts:
            model.train(training)
            found = _Noting(model, graph, layouts, notes).run(*_positional(graph, own(example)))
        if not _equal(expected, found):
            raise UntraceableError("its graph computes something else")
    spots = {}
    for site in sites:
        shape, layout = notes[site.input if placement == "before" else site.output]
        spots[site] = spot_of(shape, layout, _name(site))
    return spots


class _Noting(fx.Interpreter):
    """Runs a graph and notes the shapes and layouts of its values."""

    def __init__(
        self, model: nn.Module, graph: fx.Graph, layouts: Layouts, notes: dict[fx.Node, Any]
    ) -> None:
        super().__init__(model, graph=graph)
        self.layouts = layouts
        self.notes = notes

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.notes[n] = (tuple(value.shape), self.layouts.layout(value))
        return value


def _positional(graph: fx.Graph, example: Any) -> tuple[Any, ...]:
    if not isinstance(example, dict):
        return tuple(example) if isinstance(example, tuple | list) else (example,)
    holders = [node for node in graph.nodes if node.op == "placeholder"]
    return tuple(example.get(str(node.target), *node.args) for node in holders)


def _equal(expected: Any, found: Any) -> bool:
    a, b = (torch.utils._pytree.tree_leaves(value) for value in (expected, found))
    return len(a) == len(b) and all(
        torch.equal(x, y)
        if isinstance(x, Tensor) and isinstance(y, Tensor) and not x.is_meta
        else type(x) is type(y)
        for x, y in zip(a, b, strict=True)
    )


def _stands_alone(site: GraphSite, model: nn.Module, calls: Counter[nn.Module]) -> bool:
    """Whether a norm can be put beside the activation's module without touching any forward or any key."""
    if site.path is None:
        return False
    module = model.get_submodule(site.path)
    return calls[module] == 1 and not list(module.parameters())


def _put_beside(model: nn.Module, placement: str, sites: dict[str, Spot]) -> nn.Module:
    if not sites:
        raise _none_found()
    new = {}
    for path, spot in sites.items():
        activation = model.get_submodule(path)
        parts = [("norm", make_norm(spot, model)), ("activation", activation)]
        ordered = parts if placement == "before" else parts[::-1]
        new[activation] = nn.Sequential(OrderedDict(ordered)).train(activation.training)
    return exchange(model, new)


def _put_into(graph: fx.Graph, site: GraphSite, placement: str, name: str) -> None:
    if placement == "before":
        with graph.inserting_before(site.readers[0]):
            norm = graph.call_module(name, (site.input,))
        for reader in site.readers:
            reader.replace_input_with(site.input, norm)
    else:
        with graph.inserting_after(site.output):
            norm = graph.call_module(name, (site.output,))
        site.output.replace_all_uses_with(norm, delete_user_cb=lambda user: user is not norm)


def _free_name(model: nn.Module, wanted: str) -> str:
    name, number = wanted, 1
    while hasattr(model, name):
        name, number = f"{wanted}_{number}", number + 1
    return name


def _name(site: GraphSite) -> str:
    return repr(site.path) if site.path else f"the activation {site.output.name!r}"


def _none_found() -> ConversionError:
    kinds = ", ".join(kind.__name__ for kind in ACTIVATION_MODULES[:4])
    return ConversionError(
        f"insert: no hidden activation ({kinds}, ... or their functions) was found outside torch's own composite "
        "layers; place batch norms by hand"
    )
