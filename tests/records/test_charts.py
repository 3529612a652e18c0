import pytest

from batchnorm.records.charts import Curve, Points
from batchnorm.records.intervals import mean_interval

COLUMNS = {3.0: [1.0, 2.0, 6.0], 1.0: [None, 4.0], 2.0: [None, None]}


def test_a_curve_is_in_the_order_of_its_numbers_with_their_intervals():
    found = Curve.over_seeds("batch", COLUMNS, label="b", hollow=True)
    whole = mean_interval(COLUMNS[3.0])
    assert found.x == (1.0, 2.0, 3.0)
    assert found.y == (4.0, None, pytest.approx(3.0))
    assert found.low == (None, None, whole.low)
    assert found.high == (None, None, whole.high)
    assert (found.arm, found.label, found.hollow) == ("batch", "b", True)


def test_points_keep_the_order_they_are_given_in():
    assert Points.over_seeds("batch", {"tanh": [1.0], "relu": [2.0]}).x == ("tanh", "relu")
