"""The networks of a comparison: where its arms put their layers, and whether each of them works."""

import torch
from torch import Tensor, nn

from batchnorm.errors import ModelError, UsageError
from batchnorm.lab import isolation, models
from batchnorm.lab.config import CompareConfig
from batchnorm.lab.splits import Dataset
from batchnorm.nn.tracked import TrackedNorm
from batchnorm.surgery import convert_

__all__ = ["build_network", "placements_of", "try_networks"]

_MEASURED = 256


def build_network(config: CompareConfig, arm: str, placement: str | None, dataset: Dataset) -> models.Network:
    """Build the network of one arm from torch's random state.

    Args:
        config: the settings.
        arm: a name from `--norms`.
        placement: `before` or `after`; `own` and None (the arm `none`) stand for the first that was asked for,
            which decides only where the layers' inputs are measured.
        dataset: gives the shapes.
    """
    network = models.build(
        config.model,
        arm,
        placement if placement in config.placements else config.placements[0],
        input_shape=dataset.input_shape,
        num_classes=dataset.num_classes,
        dropout=config.dropout,
        # A copy, because a network that works in place on its input would change the data.
        example=dataset.train.x[:2].clone(),
        **config.model_options,
    )
    if arm == "frozen":
        _measure_frozen(network.module, _spread(dataset.train.x))
    return network


def _measure_frozen(module: nn.Module, samples: Tensor) -> None:
    """Give frozen layers the statistics of the network as it starts, where new ones have mean 0 and variance 1."""
    convert_(module, "batchnorm").eval()
    norms = [layer for layer in module.modules() if isinstance(layer, TrackedNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # the average, where a layer is called at several steps
    with torch.no_grad():
        module(samples)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    convert_(module, "frozen").train()


def _spread(samples: Tensor) -> Tensor:
    """Copies of at most some hundred samples from all over a split, which may be sorted by class."""
    return samples[:: max(len(samples) // _MEASURED, 1)][:_MEASURED].clone()


def placements_of(config: CompareConfig, dataset: Dataset) -> tuple[str, ...]:
    """The placements to run: those asked for, or `own` where the model has batch norms of its own.

    Raises:
        UsageError: a placement was asked for and the model has its own.
    """
    own = models.brings_its_own_norms(
        config.model,
        input_shape=dataset.input_shape,
        num_classes=dataset.num_classes,
        dropout=config.dropout,
        **config.model_options,
    )
    if not own:
        return config.placements
    if config.placement_given:
        raise UsageError(
            f"--placement {','.join(config.placements)!r} has no meaning for --model {config.model!r}, "
            "which places batch norms of its own: leave --placement out"
        )
    return ("own",)


def try_networks(config: CompareConfig, dataset: Dataset, placements: tuple[str, ...]) -> None:
    """Build each arm's network once, so that one that does not work is refused before anything is written.

    Raises:
        ModelError, UsageError: in one line.
    """
    for arm in config.norms:
        for placement in placements[:1] if arm == "none" else placements:
            with isolation.quiet(), isolation.one_thread(), isolation.own_random_state(0, config.device):
                module = build_network(config, arm, placement, dataset).module
            if not any(parameter.requires_grad for parameter in module.parameters()):
                raise ModelError(f"--model {config.model!r} has no weights to train")
