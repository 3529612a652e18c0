import zipfile
from pathlib import Path

import numpy as np
import pytest

from batchnorm.errors import DataError
from batchnorm.lab import data, npz

RNG = np.random.default_rng(11)


def arrays(shape=(3,), count=40, classes=2, **changes):
    def x(n):
        return RNG.normal(5, 3, (n, *shape)).astype(np.float32)

    base = {
        "x_train": x(count),
        "y_train": np.arange(count) % classes,
        "x_test": x(8),
        "y_test": np.arange(8) % classes,
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


@pytest.fixture
def write(tmp_path):
    def write(**content):
        path = tmp_path / "own.npz"
        np.savez(path, **content)
        return str(path)

    return write


def refused(path, *said):
    with pytest.raises(DataError) as caught:
        data.load(path)
    message = str(caught.value)
    assert "\n" not in message
    for words in (path, *said):
        assert words in message


def test_features_are_standardised_by_training_and_a_tenth_validates(write):
    content = arrays()
    loaded = data.load(write(**content))
    assert loaded.input_shape == (3,)
    assert [len(part.y) for part in (loaded.train, loaded.validation, loaded.test)] == [36, 4, 8]
    assert loaded.validation.y.bincount().tolist() == [2, 2]
    assert loaded.train.x.mean(0).abs().max() < 1e-6
    np.testing.assert_allclose(loaded.scaling.undo(loaded.test.x), content["x_test"], rtol=1e-5)
    assert loaded.test.y.tolist() == content["y_test"].tolist()


def test_own_validation_is_used(write):
    content = arrays()
    content |= {"x_val": content["x_test"] * 2, "y_val": content["y_test"]}
    loaded = data.load(write(**content))
    assert [len(part.y) for part in (loaded.train, loaded.validation, loaded.test)] == [40, 8, 8]
    np.testing.assert_allclose(loaded.scaling.undo(loaded.validation.x), content["x_val"], rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "seen", "axes"),
    [
        ((5, 4), (1, 5, 4), None),
        ((1, 5, 4), (1, 5, 4), None),
        ((3, 5, 4), (3, 5, 4), None),
        ((16, 5, 4), (16, 5, 4), None),
        ((5, 4, 1), (1, 5, 4), (0, 3, 1, 2)),
        ((5, 4, 3), (3, 5, 4), (0, 3, 1, 2)),
    ],
)
def test_image_layouts(write, shape, seen, axes):
    content = arrays(shape)
    loaded = data.load(write(**content))
    assert loaded.input_shape == seen
    x_test = content["x_test"].reshape(8, *seen) if axes is None else content["x_test"].transpose(axes)
    np.testing.assert_allclose(loaded.scaling.undo(loaded.test.x), x_test, rtol=1e-4)
    assert loaded.train.x.is_contiguous()


@pytest.mark.parametrize("shape", [(3, 5, 3), (1, 28, 1), (8, 3, 3), (3, 3, 3)])
def test_an_ambiguous_layout_is_refused(write, shape):
    refused(write(**arrays(shape)), f"(40, {shape[0]}", "(N, C, H, W) or (N, H, W, C)")


def test_eight_bit_images_are_scaled_to_one(write):
    content = arrays((5, 4))
    content |= {
        key: RNG.integers(0, 256, content[key].shape).astype(np.uint8) for key in ("x_train", "x_test")
    }
    loaded = data.load(write(**content))
    np.testing.assert_allclose(loaded.scaling.undo(loaded.test.x)[:, 0], content["x_test"] / 255, atol=1e-6)


def test_class_names(write):
    assert data.load(write(**arrays(class_names=np.array(["cat", "<dog>"])))).class_names == ("cat", "<dog>")
    refused(write(**arrays(class_names=np.array(["cat"]))), "label 1", "1 names")
    refused(write(**arrays(class_names=np.array([1, 2]))), "class_names", "int64")


def test_the_same_file_has_the_same_digest(write):
    path = write(**arrays())
    assert data.load(path).digest == data.load(path).digest


def test_a_missing_file(tmp_path):
    refused(str(tmp_path / "none.npz"), "no file")


def test_a_folder(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    refused(str(tmp_path / "folder.npz"), "not an .npz")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04]\x94."], ids=["empty", "text", "pickle"])
def test_a_file_that_is_no_archive(tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    refused(str(path), "not an .npz archive")


def test_an_archive_that_is_damaged(write):
    path = Path(write(**arrays()))
    raw = bytearray(path.read_bytes())
    raw[200:260] = bytes(60)
    path.write_bytes(raw)
    refused(str(path), "x_train", "cannot be read")


def test_an_archive_of_something_else(tmp_path):
    path = tmp_path / "docs.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key in npz._NEEDED:
            archive.writestr(f"{key}.npy", "no array")
    refused(str(path), "x_train", "not an array")


def test_missing_keys_are_named_with_those_found(write):
    refused(
        write(images=np.zeros(3), y_train=np.zeros(3)),
        "lacks x_train, x_test, y_test",
        "found images, y_train",
    )
    refused(write(), "found nothing")


def test_half_a_validation_split(write):
    refused(write(**arrays(x_val=np.zeros((3, 3)))), "x_val but not y_val")
    refused(write(**arrays(y_val=np.zeros(3, int))), "y_val but not x_val")


def test_object_arrays_run_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "proof"), "w"))

    content = arrays()
    content["x_test"] = np.array([[Evil()]], object)
    path = tmp_path / "evil.npz"
    np.savez(path, **content)
    refused(str(path), "x_test", "Python objects")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_train": np.zeros(40)}, ["x_train", "(40,)"]),
        ({"x_train": np.zeros((40, 2, 2, 2, 2))}, ["x_train", "(40, 2, 2, 2, 2)", "(N, H, W, C)"]),
        ({"x_train": np.zeros((0, 3)), "y_train": np.zeros(0, int)}, ["x_train", "empty"]),
        ({"x_train": np.full((40, 3), np.nan)}, ["x_train", "120 NaN"]),
        ({"x_test": np.zeros((8, 4))}, ["x_test", "(4,)", "(3,)"]),
        ({"x_test": np.array([["a"] * 3] * 8)}, ["x_test", "<U1"]),
        ({"y_train": np.zeros(39, int)}, ["y_train", "39 labels for 40"]),
        ({"y_train": np.zeros(40)}, ["y_train", "float64"]),
        ({"y_train": np.arange(40) % 2 - 1}, ["y_train", "-1"]),
        ({"y_train": np.zeros(40, int), "y_test": np.zeros(8, int)}, ["y_train", "one class"]),
        ({"y_test": np.arange(8)}, ["y_test", "label 2"]),
        ({"x_train": np.zeros((1, 3)), "y_train": np.array([0])}, ["y_test", "label 1"]),
    ],
)
def test_malformed_arrays(write, changes, said):
    refused(write(**arrays(**changes)), *said)
