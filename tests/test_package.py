"""The package as installed: its public index, light imports and docstring examples."""

import doctest
import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import batchnorm as bn

PUBLIC = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormLSTM",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "ChannelsLastBatchNorm",
    "DomainBatchNorm1d",
    "DomainBatchNorm2d",
    "DomainBatchNorm3d",
    "FrozenBatchNorm1d",
    "FrozenBatchNorm2d",
    "FrozenBatchNorm3d",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "RecurrentBatchNorm1d",
    "SyncBatchNorm",
    "__version__",
    "backend",
    "convert",
    "convert_",
    "domain",
    "env",
    "errors",
    "functional",
    "insert",
    "insert_",
    "no_stats_update",
    "probes",
    "recalibrate",
    "recalibrate_",
]
HEAVY = ("torch", "numpy", "sklearn", "scipy", "plotly", "pandas", "lightning", "joblib", "rich", "click")


def python(*code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names_are_these() -> None:
    assert sorted(bn.__all__) == PUBLIC
    assert dir(bn) == PUBLIC
    for name in PUBLIC:
        assert getattr(bn, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'BatchNorm4d'"):
        _ = bn.BatchNorm4d


# Of extras that are too large for every test run (pyproject.toml); each has one module that only its option loads.
UNINSTALLED = ("mlflow", "ray", "wandb")


def test_every_module_says_what_it_offers() -> None:
    for info in pkgutil.walk_packages(bn.__path__, "batchnorm."):
        # The kernels' file has the ending of an extension module, and is none.
        if info.name.endswith(("__main__", "libbatchnorm_native")):
            continue
        try:
            module = importlib.import_module(info.name)
        except ModuleNotFoundError as missing:
            if missing.name not in UNINSTALLED:
                raise
            continue
        assert module.__doc__, info.name
        for name in module.__all__:
            assert hasattr(module, name), (info.name, name)


@pytest.mark.parametrize("module", ["batchnorm", "batchnorm.errors"])
def test_importing_loads_nothing_else(module) -> None:
    loaded = json.loads(
        python(f"import {module}, json, sys", f"print(json.dumps([m for m in {HEAVY} if m in sys.modules]))")
    )
    assert loaded == []


@pytest.mark.parametrize("module", ["batchnorm.report", "batchnorm.records", "batchnorm.cli"])
def test_these_load_no_torch(module) -> None:
    assert python(f"import {module}, sys", "print('torch' in sys.modules)").strip() == "False"


def test_the_layers_load_torch_alone() -> None:
    others = ("sklearn", "scipy", "plotly", "pandas", "lightning", "click", "rich")
    code = f"print([m for m in {others} if m in sys.modules])"
    assert python("import batchnorm as bn, sys", "bn.BatchNorm2d(3)", code).strip() == "[]"


@pytest.mark.parametrize(
    "name",
    [
        "batchnorm.activations",
        "batchnorm.functional",
        "batchnorm.installation",
        "batchnorm.moments",
        "batchnorm.nn.batchnorm",
        "batchnorm.nn.channels_last",
        "batchnorm.nn.domain",
        "batchnorm.nn.frozen",
        "batchnorm.nn.ghost",
        "batchnorm.nn.lazy",
        "batchnorm.nn.lstm",
        "batchnorm.nn.recurrent",
        "batchnorm.nn.sync",
        "batchnorm.nn.renorm",
        "batchnorm.ops.choice",
        "batchnorm.probes.activations",
        "batchnorm.probes.depth",
        "batchnorm.probes.gradient_norms",
        "batchnorm.probes.hessian",
        "batchnorm.probes.landscape",
        "batchnorm.probes.modes",
        "batchnorm.probes.output_gradients",
        "batchnorm.probes.percentiles",
        "batchnorm.probes.predictiveness",
        "batchnorm.probes.rank",
        "batchnorm.probes.shift",
        "batchnorm.surgery.convert",
        "batchnorm.surgery.insert",
        "batchnorm.surgery.twins",
    ],
)
def test_docstring_examples_run(name) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried > 0
    assert failed == 0
