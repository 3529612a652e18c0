from collections import defaultdict, deque

import pytest
import torch
from torch import nn

from batchnorm.errors import ConversionError
from batchnorm.surgery import convert_, insert, insert_
from batchnorm.surgery.contents import Contents
from batchnorm.surgery.layers import batch_norm_paths

ROWS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


class Logging(nn.Module):
    def __init__(self, norm=False):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4) if norm else nn.Identity()
        self.log = []

    def forward(self, x):
        y = self.act(self.norm(self.a(x)))
        self.log.append(y)
        return self.b(y)


def test_contents_come_back_in_any_depth():
    model = nn.Module()
    item = torch.ones(2)
    model.held = ([item], {"a": {1}}, deque([item], maxlen=3), defaultdict(list, x=[item]))
    contents = Contents(model)
    assert not contents.changed()
    model.held[0].append(item)
    model.held[1]["a"].add(2)
    model.held[1]["b"] = 3
    model.held[2].append(item)
    model.held[3]["x"].clear()
    model.held[3]["y"].append(1)
    assert contents.changed()
    contents.put_back()
    assert model.held[0] == [item]
    assert model.held[1] == {"a": {1}}
    assert list(model.held[2]) == [item]
    assert dict(model.held[3]) == {"x": [item]}
    assert not contents.changed()


def test_a_list_that_forward_appends_to_does_not_grow_with_the_example():
    model = Logging(norm=True)
    convert_(model, "layer", example=ROWS)
    assert model.log == []


def test_a_model_that_appends_keeps_its_forward():
    with pytest.raises(ConversionError, match="its forward changes a list"):
        insert(Logging())
    model = insert_(Logging(), example=ROWS)
    assert batch_norm_paths(model) == ("act.norm",)
    assert model.log == []
    model(ROWS)
    assert len(model.log) == 1
