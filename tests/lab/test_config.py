import dataclasses

import pytest
import torch

import batchnorm
from batchnorm.errors import UsageError
from batchnorm.lab import arms
from batchnorm.lab.config import DEFAULT_LRS, CompareConfig

REFUSED = [
    ({"norms": "none,bach"}, "--norms 'bach' is unknown; choose from none, batch"),
    ({"norms": "batch,batch"}, "--norms 'batch,batch' has 'batch' twice"),
    ({"norms": ""}, "--norms '' is empty"),
    ({"placement": "around"}, "--placement 'around' is unknown; choose from before, after"),
    ({"placement": "after,after"}, "--placement 'after,after' has 'after' twice"),
    ({"lrs": ""}, "--lrs '' is empty"),
    ({"lrs": []}, "--lrs [] is empty"),
    ({"lrs": "0.1,0"}, "--lrs '0' must be above 0"),
    ({"lrs": "-1"}, "--lrs '-1' must be above 0"),
    ({"lrs": "nan"}, "--lrs 'nan' is not a finite number"),
    ({"lrs": "0.1,inf"}, "--lrs 'inf' is not a finite number"),
    ({"lrs": "fast"}, "--lrs 'fast' is not a number"),
    ({"lrs": "0.1,1e-1"}, "--lrs '0.1,1e-1' has 0.1 twice"),
    ({"batch_size": "1"}, "--batch-size '1' must be at least 2"),
    ({"batch_size": "2.5"}, "--batch-size '2.5' is not a whole number"),
    ({"epochs": "0"}, "--epochs '0' must be at least 1"),
    ({"seeds": "0"}, "--seeds '0' must be at least 1"),
    ({"optimizer": "lbfgs"}, "--optimizer 'lbfgs' is unknown; choose from sgd, adam, adamw"),
    ({"dropout": "1.0"}, "--dropout '1.0' must be at least 0 and below 1"),
    ({"dropout": "half"}, "--dropout 'half' is not a number"),
    ({"device": "tpu"}, "--device 'tpu' is unknown; choose from auto, cpu, cuda, mps"),
    ({"precision": "8-true"}, "--precision '8-true' is unknown; choose from 32-true"),
    ({"precision": "16-mixed", "device": "cpu"}, "--precision '16-mixed' needs a GPU"),
    ({"further": ["speed=9"]}, "--set 'speed' is unknown"),
    ({"data": " "}, "--data ' ' is empty"),
    ({"model": ""}, "--model '' is empty"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_bad_settings_are_refused_in_one_line(values, message):
    with pytest.raises(UsageError) as caught:
        CompareConfig.of(**values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, so asking for it is no mistake")
def test_a_device_that_is_not_there_is_refused_and_auto_finds_one_that_is():
    with pytest.raises(
        UsageError, match="--device 'cuda' is not available on this machine; choose from auto"
    ):
        CompareConfig.of(device="cuda")
    assert CompareConfig.of(device="auto").device in ("cpu", "mps")


def test_arms_placements_and_rates_have_one_order_whatever_was_typed():
    one = CompareConfig.of(norms="batch,none", placement="after,before", lrs="1,0.1")
    two = CompareConfig.of(norms=["none", "batch"], placement=["before", "after"], lrs=[0.1, 1.0])
    assert one == two
    assert (one.norms, one.placements, one.lrs) == (("none", "batch"), ("before", "after"), (0.1, 1.0))
    assert one.default_folder("d", None) == two.default_folder("d", None)


@pytest.mark.parametrize("optimizer", DEFAULT_LRS)
def test_without_rates_the_optimizers_grid_is_taken_and_may_be_extended(optimizer):
    found = CompareConfig.of(optimizer=optimizer)
    assert found.lrs == DEFAULT_LRS[optimizer]
    assert found.extend
    assert len(found.lrs) >= 5
    assert list(found.lrs) == sorted(set(found.lrs))
    assert not CompareConfig.of(optimizer=optimizer, lrs="0.1").extend


def test_every_arm_can_be_named():
    assert CompareConfig.of(norms=",".join(arms.KNOWN)).norms == arms.KNOWN


def test_model_options_are_the_keys_after_model():
    found = CompareConfig.of(further=["model.hidden=8,8", "momentum=0.9"])
    assert found.model_options == {"hidden": "8,8"}


def test_settings_hold_every_field_that_decides_numbers():
    settings = CompareConfig.of(further=["momentum=0.9"], dropout="0.5").settings("digest", "source")
    fields = {field.name for field in dataclasses.fields(CompareConfig)} - {"further", "placement_given"}
    fields -= {"devices"}  # there when it is above 1 alone: folders of earlier versions are continued
    assert fields | {"set", "data_digest", "model_digest", "batchnorm", "torch"} == settings.keys()
    assert settings["set"] == {"momentum": 0.9}
    assert settings["data_digest"] == "digest"
    assert settings["model_digest"] == "source"
    assert settings["batchnorm"] == batchnorm.__version__
    assert settings["torch"] == torch.__version__
    assert type(settings["torch"]) is str


def test_the_default_folder_is_named_after_data_and_model_and_changes_with_any_setting():
    def folder(digest="d", **values):
        return CompareConfig.of(**values).default_folder(digest, None)

    assert folder().parts[0] == "batchnorm-runs"
    assert folder().name.startswith("digits-lenet-")
    assert folder(model="some/my net.py:build").name.startswith("digits-my-net-build-")
    assert folder(data="../../x.npz").name.startswith("x-lenet-")
    assert "/" not in folder(data="../../x.npz").name
    changed = [
        folder(),
        folder(seeds=4),
        folder(further=["momentum=0.9"]),
        folder(digest="e"),
        folder(lrs="0.1"),
    ]
    assert len(set(changed)) == len(changed)
