import sys

import pytest

from batchnorm.errors import DataError, MissingExtraError
from batchnorm.lab import data


def test_digits_by_name():
    loaded = data.load("digits")
    assert loaded.name == "digits"
    assert (loaded.input_shape, loaded.num_classes) == ((1, 32, 32), 10)


@pytest.mark.parametrize("name", ["", "MNIST", "digit", "cifar100", "file.py", "numbers.csv"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(DataError) as caught:
        data.load(name)
    message = str(caught.value)
    assert repr(name) in message
    assert "\n" not in message
    for known in (*data.KNOWN, ".npz", "file.py:name"):
        assert known in message


def test_every_known_name_has_a_reader():
    for name in data.KNOWN:
        assert callable(data._reader(name))


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'batchnorm\[lab\]'"):
        data.load("digits")
