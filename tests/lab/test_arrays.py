import numpy as np
import pytest

from batchnorm.errors import DataError
from batchnorm.lab.arrays import Pair, check_agreement, check_features, check_labels


def pair(y, shape=(2,), name="train"):
    y = np.array(y)
    return Pair(np.zeros((len(y), *shape)), y, f"x_{name}", f"y_{name}")


def refused(call, *said):
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for words in said:
        assert words in message
    return message


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((0, 3)), "(0, 3)"),
        (np.zeros((3, 0)), "empty"),
        (np.zeros(3), "(3,)"),
        (np.array(1.0), "()"),
        (np.array([["a", "b"]]), "<U1"),
        (np.ones((2, 2), complex), "complex128"),
        (np.array([[1, None]], object), "object"),
    ],
)
def test_features_that_are_no_numbers_are_refused(x, said):
    refused(lambda: check_features(x, "x_train"), "x_train", said)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_counted_and_found(bad):
    x = np.zeros((9, 2, 3), np.float16)
    x[4, 1, 2] = x[7, 0, 0] = bad
    refused(lambda: check_features(x, "x"), "2 NaN or infinite", "sample 4")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64])
def test_features_of_any_real_dtype_pass(dtype):
    x = np.ones((2, 3), dtype)
    assert check_features(x, "x") is x


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (np.array([0.0, 1.0]), "float64"),
        (np.array(["a", "b"]), "<U1"),
        (np.array([True, False]), "bool"),
        (np.eye(2, dtype=int), "(2, 2)"),
        (np.array(1), "()"),
        (np.array([0, 1, 0]), "3 labels for 2 samples"),
        (np.array([1, -3]), "negative label -3"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(y, said):
    refused(lambda: check_labels(y, "y_train", 2), "y_train", said)


def test_labels_in_a_column_are_accepted():
    y = check_labels(np.array([[1], [0]], np.uint8), "y", 2)
    assert y.tolist() == [1, 0]
    assert y.dtype == np.int64


def test_missing_names_are_numbers():
    assert check_agreement({"train": pair([1, 0]), "test": pair([0])}, None, "it") == ("0", "1")


def test_given_names_may_have_classes_without_samples():
    names = ("a", "b", "c", "d")
    assert check_agreement({"train": pair([2, 0]), "test": pair([2])}, names, "it") == names


@pytest.mark.parametrize(
    ("train", "test", "names", "said"),
    [
        (pair([0, 1]), pair([0], (3,), "test"), None, ["x_test", "(3,)", "(2,)"]),
        (pair([0, 1]), pair([2], name="test"), None, ["y_test", "label 2", "y_train never has"]),
        (pair([1, 2]), pair([1]), None, ["none is 0"]),
        (pair([0, 10**9]), pair([0]), None, ["none is 1"]),
        (pair([0, 2]), pair([0]), ("a", "b"), ["label 2", "2 names"]),
        (pair([0, 0]), pair([0]), None, ["one class"]),
        (pair([1, 1]), pair([1]), ("a", "b"), ["one class"]),
    ],
)
def test_splits_that_are_not_one_problem_are_refused(train, test, names, said):
    refused(lambda: check_agreement({"train": train, "test": test}, names, "it"), *said)
