import pytest
import torch

import batchnorm as bn
from batchnorm.errors import ModelError, UsageError
from batchnorm.lab.networks import build_network, placements_of, try_networks
from tests.lab import tiny

OWN = """
import torch
def build():
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
def trained():
    model = build()
    model[1].num_batches_tracked.fill_(9)
    return model
def frozen():
    return build().requires_grad_(False)
def wrong():
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return lambda name: f"{path}:{name}"


def test_a_model_with_batch_norms_of_its_own_places_them_itself(own):
    config = tiny.config(model=own("build"))
    assert placements_of(config, tiny.dataset()) == ("own",)
    assert build_network(config, "layer", "own", tiny.dataset()).placement == "own"
    asked = tiny.config(model=own("build"), placement="before")
    with pytest.raises(
        UsageError, match=r"--placement 'before' has no meaning for --model .* leave --placement out"
    ):
        placements_of(asked, tiny.dataset())


def test_others_are_placed_as_asked(own):
    config = tiny.config(placement="before,after")
    assert placements_of(config, tiny.dataset()) == ("before", "after")
    assert build_network(config, "batch", "before", tiny.dataset()).placement == "before"
    assert build_network(config, "batch", "after", tiny.dataset()).placement == "after"


def test_a_network_that_cannot_be_trained_is_refused_before_anything_runs(own):
    config = tiny.config(model=own("frozen"))
    with pytest.raises(ModelError, match="has no weights to train"):
        try_networks(config, tiny.dataset(), ("own",))
    with pytest.raises(ModelError, match=r"must return \(2, 3\)"):
        try_networks(tiny.config(model=own("wrong")), tiny.dataset(), ("after",))


def test_every_arm_is_tried_and_trying_leaves_no_trace():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    try_networks(tiny.config(norms="none,batch"), tiny.dataset(), ("after",))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(UsageError, match="instance"):
        try_networks(tiny.config(norms="none,instance"), tiny.dataset(), ("after",))


@pytest.mark.parametrize("model", ["mlp", "own"])
def test_the_frozen_arm_has_the_statistics_of_the_untrained_network(model, own):
    dataset = tiny.dataset()
    settings = {"model": own("trained")} if model == "own" else {"model": model, "dropout": 0.5}
    config = tiny.config(norms="batch,frozen", **settings)
    networks = {}
    for arm in ("batch", "frozen"):
        torch.manual_seed(3)
        networks[arm] = build_network(config, arm, "after", dataset)
    plain, frozen = (networks[arm].module for arm in ("batch", "frozen"))
    assert networks["frozen"].sites == networks["batch"].sites
    assert all(module.training for module in frozen.modules())
    samples = dataset.train.x[:: max(len(dataset.train.x) // 256, 1)][:256]
    plain.eval(), frozen.eval()
    for path in networks["frozen"].sites:
        plain.get_submodule(path).train()
        layer = frozen.get_submodule(path)
        assert isinstance(layer, bn.FrozenBatchNorm1d)
        assert layer.momentum == 0.1
        layer.running_var.mul_((len(samples) - 1) / len(samples))  # the biased one, as training has it
    torch.testing.assert_close(frozen(samples), plain(samples), rtol=1e-4, atol=1e-4)
    assert {name for name, _ in frozen.named_parameters()} < {name for name, _ in plain.named_parameters()}
