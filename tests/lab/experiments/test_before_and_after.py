import numpy as np
import pytest
import torch

from batchnorm.lab.experiments import load
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "before-and-after"


def test_contract():
    check(NAME)


@pytest.mark.parametrize(
    ("field", "value", "holds"),
    [
        ("mean_after", 2e-6, [False, True]),
        ("var_after", 1 + 1e-5, [True, False]),
        ("mean_after", None, [False, False]),
    ],
)
def test_one_column_turns_the_verdict(field, value, holds):
    records = miniature(NAME)
    assert load(NAME).verdict(records).verdict == "reproduced"
    found = load(NAME).verdict(doctored(records, {field: value}, seed=1, feature=1))
    assert [part.holds for part in found.checks] == holds
    assert found.verdict == ("partly" if any(holds) else "not reproduced")


def test_records_agree_with_numpy_on_the_same_points():
    torch.manual_seed(2)
    points = (torch.randn(64, 2) + 2 * torch.rand(64, 2)).double().numpy()
    lines = [line for line in miniature(NAME) if line["seed"] == 2]
    assert [line["feature"] for line in lines] == [0, 1]
    for line, column in zip(lines, points.T, strict=True):
        out = (column - column.mean()) / np.sqrt(column.var() + 1e-5)
        assert line["mean_before"] == pytest.approx(column.mean(), abs=1e-12)
        assert line["var_expected"] == pytest.approx(out.var(), abs=1e-12)
        assert line["var_after"] == pytest.approx(out.var(), abs=1e-6)
        assert line["before"] == np.histogram(column, np.linspace(-3, 3, 15))[0].tolist()
        assert line["after"] == np.histogram(out, np.linspace(-3, 3, 15))[0].tolist()
