import random

import pytest
import torch
from torch import nn

from batchnorm.errors import ConversionError, ConversionWarning
from batchnorm.surgery import insert, insert_
from batchnorm.surgery.layers import batch_norm_paths
from tests.surgery.foreign import (
    Dynamic,
    DynamicFunctional,
    DynamicShared,
    Functional,
)

ROWS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
SIGNAL = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(0))


class TestUntraceable:
    def test_needs_an_example(self):
        with pytest.raises(
            ConversionError, match=r"cannot be traced \(torch.fx: TraceError: .*\); pass example="
        ):
            insert(Dynamic())

    def test_keeps_its_control_flow(self):
        new = insert(Dynamic(), "after", example=SIGNAL)
        new.conv.weight.data.fill_(1e10)
        assert torch.isfinite(new(SIGNAL)).all()
        assert batch_norm_paths(new) == ("act1.norm", "act2.norm")

    def test_an_activation_that_the_example_does_not_reach(self):
        class Net(Dynamic):
            def forward(self, x):
                x = self.conv(x)
                x = self.act1(x) if x.sum() < 1e9 else self.spare(x)
                return self.out(self.act2(self.fc(x.mean(-1))))

        net = Net()
        net.spare = nn.ReLU()
        for put in (insert, insert_):
            with pytest.warns(ConversionWarning, match="'spare' is not called on the example") as caught:
                new = put(net, example=SIGNAL)
            assert [warning.filename for warning in caught] == [__file__]
            assert batch_norm_paths(new) == ("act1.norm", "act2.norm")

    def test_functions_are_refused(self):
        with pytest.raises(ConversionError, match=r"and calls relu as a function.*make it a module"):
            insert(DynamicFunctional(), example=SIGNAL)

    def test_modules_called_twice_are_refused(self):
        with pytest.raises(ConversionError, match=r"calls 'act1' 2 times a pass; give each call"):
            insert(DynamicShared(), example=SIGNAL)

    def test_modules_with_parameters_are_refused(self):
        with pytest.raises(ConversionError, match=r"'act1' has parameters, whose names would change"):
            insert(Dynamic(nn.PReLU), example=SIGNAL)

    def test_gates_and_outputs(self):
        class Net(Dynamic):
            def forward(self, x):
                x = self.conv(x)
                if x.sum() > 1e9:
                    x = -x
                x = self.act1(x) * torch.sigmoid(x)
                return self.act2(self.fc(x.mean(-1))).view(len(x), -1)

        assert batch_norm_paths(insert(Net(), example=SIGNAL)) == ("act1.norm",)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ("with torch.no_grad(): x = self.a(x)", "it switches gradients"),
            ("x = self.a(x) + torch.randn(8)", "draws random numbers"),
            ("x = self.a(x) * random.random()", "draws random numbers"),
            ("self.calls = self.calls + 1; x = self.a(x)", "its forward changes or makes 'calls'"),
            ("x = self.a(x) + torch.tensor(1.0)", "its forward changes or makes '_tensor_constant0'"),
            (
                "x = self.a(x) if self.training else 2 * self.a(x)",
                "training and evaluation take different ways",
            ),
            ("x = self.a(x) * (2 if self.training else 3)", "differ in more than a flag"),
        ],
    )
    def test_what_a_graph_would_lose_goes_the_other_way(self, change, reason):
        space = {"torch": torch, "random": random}
        exec(f"def forward(self, x):\n    {change}\n    return self.b(self.act(x))\n", space)
        net = nn.Module.__new__(type("Net", (nn.Module,), {"forward": space["forward"]}))
        nn.Module.__init__(net)
        net.calls, net.a, net.b, net.act = 0, nn.Linear(6, 8), nn.Linear(8, 2), nn.ReLU()
        with pytest.raises(ConversionError, match=reason):
            insert(net)
        new = insert(net, "after", example=ROWS)
        assert batch_norm_paths(new) == ("act.norm",)
        assert (net.calls, new.calls) == (0, 0)
        assert not any(name.startswith("_tensor") for name in vars(net))

    def test_a_graph_that_computes_something_else(self):
        calls = []

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.act = nn.Linear(6, 8), nn.Linear(8, 2), nn.Tanh()

            def forward(self, x):
                calls.append(1)
                return self.b(self.act(self.act(self.a(x)) * (1 + (len(calls) > 6))))

        with pytest.raises(
            ConversionError, match=r"its graph computes something else\) and calls 'act' 2 times"
        ):
            insert(Net(), example=ROWS)

    def test_a_forward_of_the_instance(self):
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        net.forward = lambda x: net[2](net[1](net[0](x)) * 2)
        with pytest.raises(ConversionError, match="its forward was replaced on the model itself"):
            insert_(net)
        assert batch_norm_paths(insert_(net, example=ROWS)) == ("1.norm",)

    def test_hooks_on_containers(self):
        net = Functional()
        net.register_forward_hook(lambda m, i, o: o * 0)
        with pytest.raises(ConversionError, match="it has hooks on the model itself"):
            insert(net)
