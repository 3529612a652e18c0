"""The scripts of benchmarks/, in miniature."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from batchnorm.bench.machine import environment
from batchnorm.bench.results import open_results, read_results
from tests.bench.records_factory import HEADER, record, results, step

FOLDER = Path(__file__).parents[2] / "benchmarks"


def script(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("network", "parameters", "norms"), [("ResNet-18", 11_689_512, 20), ("MobileNetV2", 3_504_872, 52)]
)
def test_networks_have_the_published_parameters_and_the_same_ones_in_both_kinds(network, parameters, norms):
    theirs, ours = script("networks").pair(network)
    for model in (theirs, ours):
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
        assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) == norms
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))
    assert list(theirs.state_dict()) == list(ours.state_dict())


@pytest.mark.parametrize("network", ["ResNet-18", "MobileNetV2"])
def test_logits_and_gradients_agree_with_torch(network):
    found = []
    for model in script("networks").pair(network, classes=5):
        torch.manual_seed(1)
        logits = model.double()(torch.randn(2, 3, 64, 64, dtype=torch.float64))
        logits.square().sum().backward()
        grads = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        buffers = torch.cat([buffer.flatten().double() for buffer in model.buffers()])
        found.append((logits.detach(), grads, buffers))
    for theirs, ours in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm()  # buffers are float32 in ours


def test_end_to_end_appends_a_step_to_a_folder_of_results(tmp_path):
    open_results(tmp_path, HEADER | {"machine": environment()}, ())
    command = [
        sys.executable,
        str(FOLDER / "end_to_end.py"),
        "--network",
        "ResNet-18",
        "--layout",
        "channels_last",
    ]
    small = ["--batch", "4", "--size", "64", "--rounds", "2", "--json", "--out", str(tmp_path)]
    done = subprocess.run([*command, *small], capture_output=True, text=True, timeout=250, check=True)
    line = json.loads(done.stdout)
    assert line["differs"]["float64"] < 1e-9
    assert line["ratios"]["torch"]["median"] > 0
    assert [step["network"] for step in read_results(tmp_path).steps] == ["ResNet-18"]


def test_a_step_of_another_machine_is_refused(tmp_path):
    open_results(tmp_path, HEADER, ())
    command = [sys.executable, str(FOLDER / "end_to_end.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "was measured with cpu 'Example CPU'" in done.stderr


def test_saved_bytes_count_each_storage_once_and_no_parameter():
    module = script("saved_bytes")
    x, layer = torch.randn(4, 3, requires_grad=True), torch.nn.Linear(3, 3)
    kept = module.saved_bytes(lambda: layer(x) * x.exp(), layer)
    assert kept == 4 * (4 * 3) * 3  # x, layer(x), exp(x); the weight is the layer's own


@pytest.mark.parametrize(
    ("act", "adds", "tensors"),
    [
        (None, False, 1),
        ("relu", False, 1),
        ("relu6", False, 1),
        ("silu", False, 1),
        ("relu", True, 2),
        ("silu", True, 2),
    ],
)
def test_ours_keeps_its_input_and_with_a_residual_one_tensor_more(act, adds, tensors):
    shape = (4, 8, 16, 16)
    found = script("saved_bytes").measure(act, adds, shape)
    size = 4 * torch.Size(shape).numel()
    assert tensors * size <= found["batchnorm"] < tensors * size + 1000
    assert (found["torch"] >= 2 * size) == (act is not None)


def test_the_table_of_the_docs_is_made_from_the_records():
    module = script("speed_table")
    file = results(record(torch=4.5), record(layout="channels_last", act=None, torch=1.5), step(torch=1.3))
    text = module.tables(file)
    assert "| (16, 64, 56, 56) | NCHW | relu | 4.50 ms | 1.00 ms | 4.50 | 4.50 to 4.50 | 1.11 |" in text
    assert "| (16, 64, 56, 56) | channels_last | nothing | 1.50 ms |" in text
    assert "| ResNet-18, 16, NCHW float32 | 1.30 s | 1.00 s | 1.30 | 1.30 to 1.30 |" in text
    assert "Example CPU" in text
    page = "before\n<!-- begin: python benchmarks/speed_table.py -->\nold\n<!-- end -->\nafter\n"
    filled = module.filled(page, "benchmarks/results/x.jsonl", file)
    mark = "<!-- begin: python benchmarks/speed_table.py benchmarks/results/x.jsonl -->"
    assert filled == f"before\n{mark}\n\n{text}\n<!-- end -->\nafter\n"
    assert module.filled(filled, "benchmarks/results/x.jsonl", file) == filled


def test_the_tables_of_the_docs_are_those_of_the_kept_results():
    module = script("speed_table")
    page = module.PAGE.read_text(encoding="utf-8")
    name = module.MARKS.search(page)[1]
    if not name:
        assert "No results are kept yet." in page
    else:
        assert module.filled(page, name, read_results(module.ROOT / name)) == page
