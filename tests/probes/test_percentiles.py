import math

import numpy as np
import pytest
import torch

from batchnorm import probes
from batchnorm.errors import ArgumentError
from tests.probes.nets import batch, everything


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_percentiles_are_numpys(size, dtype):
    values = (100 * torch.randn(size, 3, generator=torch.Generator().manual_seed(size))).to(dtype)
    wanted = [0, 0.1, 15, 50, 66.6, 85, 100]
    found = probes.percentiles(values, wanted)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, np.percentile(values.double().numpy(), wanted), rtol=1e-13, atol=1e-13)


def test_values_that_are_not_finite():
    infinite = torch.tensor([-math.inf, 0.0, 1.0, math.inf, math.inf])
    assert probes.percentiles(infinite, [0, 25, 50, 75, 100]).tolist() == [
        -math.inf,
        0,
        1,
        math.inf,
        math.inf,
    ]
    assert probes.percentiles(infinite, [90]).tolist() == [math.inf]
    assert probes.percentiles(torch.tensor([math.nan, *range(9)])).isnan().all()
    assert probes.percentiles(torch.empty(0, 3)).isnan().all()


def test_of_the_modules_of_a_model():
    model, (x, _) = everything(), batch()
    model.drop.eval()
    copies = probes.activations(model, x, ["ours", "theirs"])
    for seen, copy in zip(probes.activation_percentiles(model, x, ["ours", "theirs"]), copies, strict=True):
        assert seen.path == copy.path
        np.testing.assert_allclose(seen.input, np.percentile(copy.input.numpy(), (15, 50, 85)), rtol=1e-13)
        np.testing.assert_allclose(seen.output, np.percentile(copy.output.numpy(), (15, 50, 85)), rtol=1e-13)


@pytest.mark.parametrize("percentiles", [[], [101], [-1], [math.nan]])
def test_percentiles_outside_0_to_100_are_refused(percentiles):
    with pytest.raises(ArgumentError, match="percentiles: expected numbers from 0 to 100"):
        probes.percentiles(torch.ones(2), percentiles)
    with pytest.raises(ArgumentError, match="percentiles: expected numbers from 0 to 100"):
        probes.activation_percentiles(everything(), batch()[0], ["ours"], percentiles=percentiles)
