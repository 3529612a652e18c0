import random

import numpy as np
import pytest
import torch

from batchnorm.errors import DataError
from batchnorm.lab import data

HEAD = """
import numpy as np, torch
from torch.utils.data import DataLoader, TensorDataset
x = torch.arange(80.0).reshape(40, 2); y = torch.arange(40) % 2
pair = (x, y); test = (x[:6] + 0.5, y[:6])
def loader(pair, **options): return DataLoader(TensorDataset(*pair), batch_size=7, **options)
"""


@pytest.fixture
def source(tmp_path):
    def source(text):
        path = tmp_path / "own.py"
        path.write_text(HEAD + text)
        return f"{path}:it"

    return source


def refused(target, *said):
    with pytest.raises(DataError) as caught:
        data.load(target)
    message = str(caught.value)
    assert "\n" not in message
    for words in (target, *said):
        assert words in message


@pytest.mark.parametrize(
    "text",
    [
        "it = loader(pair), loader(test)",
        "it = [pair, test]",
        "it = {'train': pair, 'test': loader(test)}",
        "it = TensorDataset(*pair), TensorDataset(*test)",
        "it = (x.numpy(), y.numpy()), (x[:6].double() + 0.5, y[:6].int())",
        "it = [(x[:20], y[:20]), (x[20:], y[20:])], [test]",
        "def it(): return (batch for batch in loader(pair)), loader(test)",
        "class it:\n    def __new__(cls): return {'test': test, 'train': pair}",
    ],
    ids=["loaders", "tensors", "dict", "datasets", "arrays", "batches", "generator", "callable"],
)
def test_every_form_gives_the_same_samples_untouched(source, text):
    loaded = data.load(source(text))
    assert [len(part.y) for part in (loaded.train, loaded.validation, loaded.test)] == [36, 4, 6]
    assert loaded.train.x.dtype == torch.float32
    assert loaded.train.y.dtype == torch.int64
    assert sorted(torch.cat([loaded.train.x, loaded.validation.x])[:, 0].tolist()) == list(range(0, 80, 2))
    assert loaded.test.x[0].tolist() == [0.5, 1.5]
    assert loaded.test.y.tolist() == [0, 1, 0, 1, 0, 1]
    assert loaded.scaling is None
    assert loaded.class_names == ("0", "1")


def test_own_validation_and_names(source):
    loaded = data.load(
        source("it = {'train': pair, 'validation': test, 'test': test, 'class_names': ['no', 'yes']}")
    )
    assert [len(part.y) for part in (loaded.train, loaded.validation, loaded.test)] == [40, 6, 6]
    assert loaded.class_names == ("no", "yes")
    assert len(data.load(source("it = pair, test, test")).validation.y) == 6


def test_random_loaders_give_the_same_bytes_and_leave_the_generators_alone(source):
    target = source(
        "import random\n"
        "def it():\n"
        "    noisy = (x + torch.randn(40, 2) + np.random.rand() + random.random(), y)\n"
        "    return loader(noisy, shuffle=True), test\n"
    )
    digests = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        digests.add(data.load(target).digest)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]
        assert random.getstate() == before[2]
    assert len(digests) == 1


def test_half_precision_and_images(source):
    loaded = data.load(
        source("x = torch.ones(4, 3, 5, 5, dtype=torch.bfloat16); y = y[:4]; it = (x, y), (x, y)")
    )
    assert loaded.input_shape == (3, 5, 5)
    assert loaded.train.x.dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("other = 1", ["it"]),
        ("def it(): raise KeyError('gone')", ["KeyError", "gone"]),
        ("def it(): raise SystemExit(3)", ["SystemExit"]),
        ("def it(one): pass", ["TypeError", "one"]),
        ("it = 3", ["int", "(train, test)"]),
        ("it = (pair,)", ["tuple of 1"]),
        ("it = {'train': pair, 'valid': test, 'test': test}", ["train, valid, test"]),
        ("it = {'train': pair}", ["train", "expected"]),
        ("it = pair, 'digits'", ["test of", "str"]),
        ("it = pair, []", ["test of", "no batches"]),
        ("it = pair, [{'x': x, 'y': y}]", ["batch 0 of test", "dict"]),
        ("it = pair, [(x, y, y)]", ["batch 0 of test", "Tensor, Tensor, Tensor"]),
        ("it = pair, [test, (x[:, :1], y)]", ["batch 1 of test", "(1,)", "(2,)"]),
        (
            "def batches():\n    yield test\n    raise OSError('disk')\nit = pair, batches()",
            ["test of", "OSError", "disk"],
        ),
        ("it = (x[:, :, None], y), test", ["x in train", "(40, 2, 1)", "(N, C, H, W)"]),
        ("it = (x / 0, y), test", ["x in train", "infinite"]),
        ("it = (x, y.float()), test", ["y in train", "float32"]),
        ("it = (x, y[:3]), test", ["y in train", "3 labels for 40"]),
        ("it = pair, (x, y + 5)", ["y in test", "label 5"]),
        ("it = pair, (x[:, :1], y)", ["x in test", "(1,)"]),
        ("it = {'train': pair, 'test': test, 'class_names': 'ab'}", ["class_names", "str"]),
    ],
)
def test_anything_else_is_refused_in_one_line(source, text, said):
    refused(source(text), *said)


def test_a_missing_file_is_a_data_error(tmp_path):
    refused(f"{tmp_path}/none.py:it", "no file")
