"""Give a model a new forward, made from a graph, and leave all else of it as it is."""

import copyreg
import importlib
from types import ModuleType
from typing import Any

from torch import fx, nn

__all__ = ["rewrite"]


def rewrite(model: nn.Module, graph: fx.Graph) -> None:
    """Replace a model's forward by what a graph says.

    The model becomes an instance of a class made from its own, so its methods, attributes, submodules and state_dict
    stay, `isinstance` holds, and it can be copied and pickled. (A GraphModule would keep only what the graph reads.)

    Args:
        model: changed in place.
        graph: of this model; paths in it are paths in the model.
    """
    if isinstance(model, fx.GraphModule):
        model.graph = graph
        model.recompile()
        return
    code = graph.python_code("self")
    names = {
        name: ("module", value.__name__) if isinstance(value, ModuleType) else ("object", value)
        for name, value in code.globals.items()
    }
    base = vars(type(model)).get("_rewritten_from", type(model))
    model.__class__ = _class(base, code.src, names)


def _class(base: type[nn.Module], source: str, names: dict[str, tuple[str, Any]]) -> type[nn.Module]:
    namespace = {
        name: importlib.import_module(value) if kind == "module" else value
        for name, (kind, value) in names.items()
    }
    exec(compile(source, f"<batchnorm.insert into {base.__name__}>", "exec"), namespace)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        # A class made here cannot be found by its name; what it is made from can.
        made = super(made_class, self).__reduce_ex__(protocol)
        if isinstance(made, tuple) and made[0] is copyreg.__newobj__:  # type: ignore[attr-defined]
            return (_empty, (base, source, names), *made[2:])
        return made

    made_class: type[nn.Module] = type(
        base.__name__,
        (base,),
        {
            "__doc__": base.__doc__,
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__reduce_ex__": reduce,
            "_rewritten_from": base,
            "forward": namespace["forward"],
        },
    )
    return made_class


def _empty(base: type[nn.Module], source: str, names: dict[str, tuple[str, Any]]) -> nn.Module:
    made = _class(base, source, names)
    return made.__new__(made)
