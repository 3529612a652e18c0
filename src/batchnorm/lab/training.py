"""One training run: a pure function of the settings, an arm, a placement, a rate, a seed and the data."""

import hashlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from batchnorm.errors import BatchNormError, ModelError
from batchnorm.lab import isolation, ranks, scores
from batchnorm.lab import state as states
from batchnorm.lab.checkpoints import Checkpoint, Checkpoints
from batchnorm.lab.config import CompareConfig
from batchnorm.lab.data import Dataset, Split
from batchnorm.lab.instruments import PROBE_SAMPLES, activations
from batchnorm.lab.models import Network
from batchnorm.lab.networks import build_network
from batchnorm.lab.plan import Task
from batchnorm.lab.targets import describe

__all__ = ["train"]

EVALUATION_BATCH = 512
MEASURED_EPOCHS = 20
Line = dict[str, Any]
Progress = Callable[[Line], None]


def train(
    config: CompareConfig,
    task: Task,
    dataset: Dataset,
    sample_indices: Sequence[int] = (),
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
) -> list[Line]:
    """Train and test one network on one thread a device; the same arguments give the same numbers, times aside.

    All arms at a seed start from the same weights (outside norm layers) and see the same batches in the
    same order. A last batch of a single sample is left out for every arm, since batch norm cannot train
    on it. Thread count and random state of the process are put back afterwards.

    On several devices each step's batch is split over as many processes: gradients are those of the batch's mean loss,
    the arms normalise what their process sees (`sync` the whole batch), and a last batch with fewer than two samples a
    process is left out. Dropout differs between processes.

    Args:
        config: the settings.
        task: arm, placement, learning rate and seed.
        dataset: the samples.
        sample_indices: test samples whose predictions are kept.
        progress: called with each epoch's line when the epoch ends; on several devices it must survive pickling.
        checkpoints: where a long run leaves its state and goes on from; the numbers are the same with and without.

    Returns:
        The run's lines, from `run` to `final`; see `docs/reference/results.md`.

    Raises:
        ModelError: the network raised in training; the message quotes what it said.
    """
    checkpoint = None if checkpoints is None else checkpoints.of_run(task.name)
    state = None if checkpoint is None else checkpoint.load()
    arguments = config, task, dataset, sample_indices, progress or _ignore, checkpoints, state
    if config.devices == 1:
        return _train(ranks.single(config.device, config.precision), ranks.Alone(), *arguments)
    what = f"--model '{config.model}' on {config.devices} devices ({task.name})"
    return ranks.launch(_train, config.devices, config.device, config.precision, what, *arguments)


def _ignore(_: Line) -> None:
    pass


def _train(
    fabric: Fabric,
    among: ranks.Ranks,
    config: CompareConfig,
    task: Task,
    dataset: Dataset,
    sample_indices: Sequence[int],
    progress: Progress,
    checkpoints: Checkpoints | None,
    state: Line | None,
) -> list[Line]:
    checkpoint = None if checkpoints is None else checkpoints.of_run(task.name, due=state is not None)
    try:
        for start in (state, None):
            with (
                isolation.quiet(),
                isolation.one_thread(),
                isolation.own_random_state(task.seed, config.device),
                isolation.deterministic(config.device),
            ):
                run = _Run(fabric, among, config, task, dataset)
                try:
                    run.begin(start)
                except _UnfitError as error:
                    if checkpoint is not None and among.rank == 0:
                        checkpoint.refuse(f"does not fit: {error}")
                    continue
                return run.lines(sample_indices, progress if among.rank == 0 else _ignore, checkpoint)
        raise AssertionError("a run without a checkpoint always begins")
    except BatchNormError:
        raise
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())[:300] or "no message"
        raise ModelError(
            f"--model '{config.model}' failed in training ({task.name}): {type(error).__name__}: {said}"
        ) from error


class _UnfitError(Exception):
    """A checkpoint cannot be put into the network that was built for it."""


class _Run:
    def __init__(
        self, fabric: Fabric, among: ranks.Ranks, config: CompareConfig, task: Task, dataset: Dataset
    ) -> None:
        self.config = config
        self.fabric = fabric
        self.ranks = among
        self.identity = task.identity()
        # Three independent streams, so that an arm that draws more numbers than another, for its
        # weights or in dropout, does not get other batches.
        weights, order, dropout = (
            int(word) >> 1 for word in np.random.SeedSequence(task.seed).generate_state(3, np.uint64)
        )
        torch.manual_seed(weights)
        self.network = build_network(config, task.arm, task.placement, dataset)
        torch.manual_seed(dropout + among.rank)
        self.order = torch.Generator().manual_seed(order)
        self.batches = _batches(len(dataset.train.y), config.batch_size, least=2 * among.size)
        self.initial_weights = _weights_digest(self.network)
        self.model, self.optimizer = self.fabric.setup(
            self.network.module, _optimizer(config, task.lr, self.network.module)
        )
        self.criterion = nn.CrossEntropyLoss(label_smoothing=config.further.get("label_smoothing", 0.0))
        self.train, self.validation, self.test = (
            Split(self.fabric.to_device(split.x), self.fabric.to_device(split.y))
            for split in (dataset.train, dataset.validation, dataset.test)
        )
        self.step_seconds: list[float] = []
        self.said: list[Line] = []
        self.epoch = 0
        # The same samples in every run, and not the first ones: a split may be sorted by class.
        chosen = torch.randperm(len(dataset.validation.y), generator=torch.Generator().manual_seed(0))
        self.probe = chosen[:PROBE_SAMPLES].to(self.validation.x.device)

    def begin(self, state: Line | None) -> None:
        """Start where a checkpoint was written, or at the beginning.

        Raises: _UnfitError: the checkpoint is not one of such a network; this object is then to be thrown away.
        """
        if state is None:
            self.said = [self._header(), *self._activations(0)]
            return
        try:
            states.restore(state, self.network.module, self._bare_optimizer())
            self.fabric.strategy.precision.load_state_dict(state["precision"])
            self.order.set_state(state["order"])
            self.step_seconds = list(state["step_seconds"])
            self.said, self.epoch = list(state["lines"]), int(state["epoch"])
            states.set_generators(state["random"][self.ranks.rank])
        except Exception as error:
            raise _UnfitError(describe(error)) from error

    def lines(
        self, sample_indices: Sequence[int], progress: Progress, checkpoint: Checkpoint | None
    ) -> list[Line]:
        for epoch in range(self.epoch + 1, self.config.epochs + 1):
            line = self._epoch(epoch)
            self.said.append(line)
            progress(line)
            if line["val_loss"] is None:
                return [*self.said, self._final(None, diverged_at=epoch)]
            self.said += self._activations(epoch)
            self.epoch = epoch
            if checkpoint is not None and self.ranks.agreed(checkpoint.due()):
                self._save(checkpoint)
        test = self._evaluate(self.test)
        if not math.isfinite(test.loss):  # not called diverged, which decides the choice of the rate
            return [*self.said, self._final(None, diverged_at=None)]
        return [*self.said, self._prediction(test, sample_indices), self._final(test, diverged_at=None)]

    def _save(self, checkpoint: Checkpoint) -> None:
        random = self.ranks.gathered(states.generators(self.config.device))
        if self.ranks.rank == 0:
            checkpoint.save(
                {
                    "epoch": self.epoch,
                    "lines": self.said,
                    "step_seconds": self.step_seconds,
                    "order": self.order.get_state(),
                    "random": random,
                    "precision": self.fabric.strategy.precision.state_dict(),
                    **states.capture(self.network.module, self._bare_optimizer()),
                }
            )

    def _bare_optimizer(self) -> torch.optim.Optimizer:
        bare: torch.optim.Optimizer = self.optimizer.optimizer
        return bare

    def _header(self) -> Line:
        module, sites = self.network.module, self.network.sites
        return {
            "kind": "run",
            **self.identity,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "sites": list(sites),
            "initial_weights": self.initial_weights,
            "steps_per_epoch": len(self.batches),
            "activation": ", ".join(str(module.get_submodule(site)) for site in sites),
        }

    def _epoch(self, epoch: int) -> Line:
        values, sizes, outputs, labels = self._pass()
        finite = math.isfinite(values[-1])
        validation = self._evaluate(self.validation) if finite else None
        if validation is not None and not math.isfinite(validation.loss):
            validation = None
        return {
            "kind": "epoch",
            **self.identity,
            "epoch": epoch,
            "step": len(self.step_seconds),
            "train_loss": scores.mean_loss(torch.tensor(values), torch.tensor(sizes)) if finite else None,
            "train_accuracy": scores.accuracy(outputs, labels) if finite else None,
            "val_loss": None if validation is None else validation.loss,
            "val_accuracy": None if validation is None else validation.accuracy,
            "seconds": sum(self.step_seconds),
        }

    def _pass(self) -> tuple[list[float], list[int], Tensor, Tensor]:
        """Train on each batch once; ends early at a loss that is not finite.

        Returns: the batches' losses and sizes, and the outputs and labels of all samples in them.
        """
        self.model.train()
        permutation = self.fabric.to_device(torch.randperm(len(self.train.y), generator=self.order))
        values, sizes, outputs, labels = [], [], [], []
        for start, stop in self.batches:
            began = time.perf_counter()
            chosen = self.ranks.share(permutation[start:stop])
            part = len(chosen), stop - start
            self.optimizer.zero_grad()
            output = self.model(self.train.x[chosen])
            loss = self.criterion(output, self.train.y[chosen])
            self.fabric.backward(self.ranks.weighted(loss, *part))
            self.optimizer.step()
            values.append(self.ranks.mean(loss, *part))  # also waits, so that the time is the step's
            self.step_seconds.append(time.perf_counter() - began)
            sizes.append(stop - start)
            outputs.append(output.detach())
            labels.append(self.train.y[chosen])
            if not math.isfinite(values[-1]):
                break
        return values, sizes, self.ranks.joined(torch.cat(outputs)), self.ranks.joined(torch.cat(labels))

    def _evaluate(self, split: Split) -> scores.Scores:
        self.model.eval()
        with torch.no_grad():
            # Copies, so that a network that works in place on its input cannot change the data.
            parts = self.ranks.parts(split.x, EVALUATION_BATCH)
            outputs = [self.model(part.clone()) for part in parts]
        return scores.evaluate(self.ranks.joined(torch.cat(outputs)), split.y)

    def _activations(self, epoch: int) -> list[Line]:
        if not self.network.sites or epoch not in _measured(self.config.epochs):
            return []
        module = self.network.module
        probe = self.validation.x[self.probe].to(_dtype(module))
        with self.fabric.autocast():
            entries = activations(
                module, self.network.sites, probe, histogram=epoch in (0, self.config.epochs)
            )
        return [{"kind": "activation", **self.identity, "epoch": epoch, **entry} for entry in entries]

    def _prediction(self, test: scores.Scores, sample_indices: Sequence[int]) -> Line:
        confidence, predicted = test.probabilities[list(sample_indices)].max(dim=1)
        return {
            "kind": "prediction",
            **self.identity,
            "index": list(sample_indices),
            "predicted": predicted.tolist(),
            "confidence": [round(value, 4) for value in confidence.tolist()],
        }

    def _final(self, test: scores.Scores | None, diverged_at: int | None) -> Line:
        return {
            "kind": "final",
            **self.identity,
            "test_loss": None if test is None else test.loss,
            "test_accuracy": None if test is None else test.accuracy,
            "diverged": diverged_at is not None,
            "diverged_at": diverged_at,
            "confusion": None if test is None else test.confusion(),
            "train_seconds": sum(self.step_seconds),
            "seconds_per_step": statistics.median(self.step_seconds),
        }


def _batches(samples: int, size: int, least: int) -> list[tuple[int, int]]:
    """Start and stop of each batch; a last one of fewer than `least` samples is left out."""
    bounds = [(start, min(start + size, samples)) for start in range(0, samples, size)]
    return bounds[:-1] if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] < least else bounds


def _measured(epochs: int) -> set[int]:
    """The epochs after which activations are measured: 0, the last, and evenly between, so that files stay small."""
    return set(np.linspace(0, epochs, min(epochs, MEASURED_EPOCHS) + 1).round().astype(int).tolist())


def _optimizer(config: CompareConfig, lr: float, module: nn.Module) -> torch.optim.Optimizer:
    options = config.further
    decay = options.get("weight_decay", 0.01 if config.optimizer == "adamw" else 0.0)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=options.get("momentum", 0.0),
            nesterov=options.get("nesterov", False),
            weight_decay=decay,
        )
    adaptive = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    betas = (options.get("beta1", 0.9), options.get("beta2", 0.999))
    return adaptive(parameters, lr=lr, betas=betas, weight_decay=decay)


def _weights_digest(network: Network) -> str:
    """Of shapes and values outside the norm layers; not of names, which an inserted layer changes."""
    digest = hashlib.sha256()
    inside = tuple(f"{site}." for site in network.sites)
    for name, parameter in network.module.named_parameters():
        if not name.startswith(inside):
            digest.update(repr(tuple(parameter.shape)).encode())
            digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _dtype(module: nn.Module) -> torch.dtype:
    kinds = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    return next(kinds, torch.float32)
