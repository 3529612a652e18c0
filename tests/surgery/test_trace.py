import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from batchnorm.surgery.trace import UntraceableError, trace
from tests.surgery.foreign import Dynamic, Functional, Heads


def test_flags_are_read_when_the_graph_runs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(Functional())

        def forward(self, x):
            return F.dropout(self.inner(x), 0.5, not self.training)

    net = Net()
    graph = trace(net)
    flags = [node.target for node in graph.nodes if node.op == "get_attr" and "training" in str(node.target)]
    assert flags == ["inner.0.training", "training"]
    x = torch.randn(3, 1, 28, 28)
    for training in (True, False):
        outputs = []
        for run in (net, fx.Interpreter(net.train(training), graph=graph).run):
            torch.manual_seed(0)
            outputs.append(run(x))
        assert torch.equal(*outputs)


def test_the_model_is_as_before():
    model = Functional()
    model.conv2_drop.eval()
    attributes, modes = dict(vars(model)), [m.training for m in model.modules()]
    trace(model)
    assert vars(model) == attributes
    assert [m.training for m in model.modules()] == modes


def test_examples_that_do_not_fit():
    for example in ((1, 2, 3, 4), {"y": 1}):
        with pytest.raises(UntraceableError, match="the example does not fit its forward"):
            trace(Heads(), example)
    with pytest.raises(UntraceableError, match=r"torch\.fx: TraceError"):
        trace(Dynamic())
