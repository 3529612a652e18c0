import numpy as np
import pytest
import torch

from batchnorm.lab.experiments import load
from batchnorm.lab.experiments import population_statistics as module
from tests.lab.experiments.contract import check, doctored, miniature

NAME = "population-statistics"


def test_contract():
    check(NAME)


def test_reproduced_and_what_each_check_needs():
    verdict = load(NAME).verdict
    records = miniature(NAME)
    assert verdict(records).verdict == "reproduced"
    for field in ("mean_error", "var_error"):
        for value in (2e-6, None):
            where = {"arm": "recalibrate", "split": "samples", "layer": 2, "seed": 1}
            found = verdict(doctored(records, {field: value}, **where))
            assert [part.holds for part in found.checks] == [False, True]
    where = {"arm": "update_bn", "split": "kinds", "layer": 1, "seed": 2}
    found = verdict(doctored(records, {"var_error": 0.05}, **where))
    assert [part.holds for part in found.checks] == [True, False]


def test_the_cuts_hold_every_sample_once():
    x = torch.arange(702.0)
    order = torch.randperm(702, generator=torch.Generator().manual_seed(0))
    sizes = {split: [len(batch) for batch in module._cut(x, split, order)] for split in module.SPLITS}
    assert sizes["whole"] == [702]
    assert sizes["alike"] == [54] * 13
    assert sizes["ragged"] == sizes["ragged-kinds"] == [100] * 7 + [2]
    assert sizes["kinds"] == [100] * 6 + [102]
    assert sizes["samples"] == [1] * 702
    for split in module.SPLITS:
        assert torch.cat(module._cut(x, split, order)).sort().values.equal(x)


def test_the_formula_of_the_paper_is_exact_for_batches_of_one_size_only():
    x = np.random.default_rng(0).normal(size=(60, 3)) * 5 + np.arange(60)[:, None]
    mean, var = module._precise(np.split(x, 6))
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(var, x.var(0, ddof=1), rtol=1e-12)
    mean, _ = module._precise([x[:58], x[58:]])
    np.testing.assert_allclose(mean, (x[:58].mean(0) + x[58:].mean(0)) / 2, rtol=1e-12)


def test_update_bn_averages_the_variances_of_batches():
    torch.manual_seed(1)  # as run draws: first the layer's weights, then kinds and samples
    torch.nn.Linear(module.FEATURES, module.HIDDEN)
    kinds = module.SPREAD * torch.randn(8, module.FEATURES)
    x = kinds.repeat_interleave(torch.tensor([100] * 7 + [2]), 0)
    x = (x + torch.randn(x.shape)).double().numpy()
    average = np.mean([part.var(0, ddof=1) for part in np.split(x, [100, 200, 300, 400, 500, 600])], 0)
    share = (average / x.var(0, ddof=1)).mean()
    (line,) = (
        each
        for each in miniature(NAME)
        if (each["arm"], each["split"], each["layer"], each["seed"]) == ("update_bn", "kinds", 1, 1)
    )
    assert line["var_share"] == pytest.approx(share, rel=1e-5)
