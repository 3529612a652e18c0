import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from batchnorm.surgery.layouts import Spot
from batchnorm.surgery.static_spots import static_spot


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (lambda m, x: m.conv(x), Spot(8, 4)),
        (lambda m, x: F.max_pool2d(torch.relu(m.conv(x)), 2), Spot(8, 4)),
        (lambda m, x: F.adaptive_avg_pool2d(F.dropout(m.conv(x)), 1), Spot(8, 4)),
        (lambda m, x: m.conv(x) + x, Spot(8, 4)),
        (lambda m, x: m.signal(x), Spot(5, 3)),
        (lambda m, x: m.linear(x), Spot(7, 2)),
        (lambda m, x: m.linear(torch.relu(m.square(x))), Spot(7, 2)),
        (lambda m, x: m.linear(m.conv(x).flatten(1)), Spot(7, 2)),
        (lambda m, x: m.linear(torch.flatten(m.conv(x), 1)), Spot(7, 2)),
        (lambda m, x: m.linear(m.conv(x).view(-1, 6)), Spot(7, 2)),
        (lambda m, x: m.linear(m.conv(x).reshape((x.size(0), -1))), Spot(7, 2)),
        (lambda m, x: m.linear(m.flatten(m.conv(x))), Spot(7, 2)),
        (lambda m, x: m.linear(m.conv(x).flatten(2)), None),
        (lambda m, x: m.linear(x.permute(0, 2, 1)), None),
        (lambda m, x: m.linear(m.conv(x)), None),
        (lambda m, x: m.conv(x).permute(0, 2, 3, 1), None),
        (lambda m, x: torch.cat([m.conv(x), x], 1), None),
        (lambda m, x: x, None),
    ],
)
def test_channels_are_read_off_the_layer_before(tail, expected):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.signal = nn.Conv2d(3, 8, 3), nn.Conv1d(3, 5, 3)
            self.linear, self.square = nn.Linear(6, 7), nn.Linear(6, 6)
            self.flatten = nn.Flatten()

        def forward(self, x):
            return tail(self, x)

    net = Net()
    output = next(node for node in fx.symbolic_trace(net).graph.nodes if node.op == "output")
    assert static_spot(output.args[0], net) == expected
