import copy
import pickle

import torch
from torch import fx, nn

from batchnorm.surgery.rewrite import rewrite
from batchnorm.surgery.trace import trace
from tests.surgery.foreign import Functional, Residual


def doubled(model):
    """Rewrite a model to give twice what it gave."""
    graph = trace(model)
    output = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        twice = graph.call_function(torch.add, (output.args[0], output.args[0]))
    output.args = (twice,)
    rewrite(model, graph)
    return model


def test_only_forward_changes():
    model = Residual().eval()
    model.note = {"kept": 1}
    old = copy.deepcopy(model)
    x = torch.randn(2, 1, 8, 8)
    doubled(model)
    assert torch.equal(model(x), 2 * old(x))
    assert isinstance(model, Residual)
    assert repr(model) == repr(old)
    assert list(model.state_dict()) == list(old.state_dict())
    assert torch.equal(model.features(x), old.features(x))
    assert model.note == {"kept": 1}


def test_again_and_through_pickles_and_copies():
    model = doubled(doubled(Functional().eval()))
    x = torch.randn(2, 1, 28, 28)
    expected = model(x)
    for made in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(made(x), expected)
        assert type(made).__mro__[1] is Functional
    assert not torch.equal(doubled(pickle.loads(pickle.dumps(model)))(x), expected)


def test_a_graph_module_stays_one():
    model = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    x = torch.randn(2, 3)
    expected = 2 * model(x)
    doubled(model)
    assert isinstance(model, fx.GraphModule)
    assert torch.equal(model(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
