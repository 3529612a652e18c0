"""One run on one device or on several: who takes which samples, and how several come to one number."""

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor
from torch import distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from batchnorm.errors import BatchNormError, ModelError
from batchnorm.lab import isolation, pool
from batchnorm.lab.targets import describe

__all__ = ["Alone", "Ranks", "Together", "launch", "single"]

# Seconds in which the driver sees that a process is gone, before those that waited for it complain of the silence.
_GRACE = 1.0
_LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"
_PLACES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ranks(Protocol):
    """What a training loop asks for where its run may be one of several processes, rank 0 of which speaks."""

    rank: int
    size: int

    def share(self, batch: Tensor) -> Tensor:
        """The entries of a batch that this rank trains on, (n,)."""

    def weighted(self, loss: Tensor, share: int, batch: int) -> Tensor:
        """What backward starts from, so that the mean gradient over ranks is that of the batch's mean loss."""

    def mean(self, loss: Tensor, share: int, batch: int) -> float:
        """The mean loss over the whole batch, the same on every rank."""

    def parts(self, samples: Tensor, most: int) -> tuple[Tensor, ...]:
        """The samples that this rank evaluates, equally many parts on every rank."""

    def joined(self, outputs: Tensor) -> Tensor:
        """The outputs of all ranks, in the order of ranks, on every rank."""

    def gathered(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank."""

    def agreed(self, value: Any) -> Any:
        """What rank 0 says."""


class Alone:
    """A run on one device."""

    rank = 0
    size = 1

    def share(self, batch: Tensor) -> Tensor:
        """All of it."""
        return batch

    def weighted(self, loss: Tensor, share: int, batch: int) -> Tensor:  # noqa: ARG002
        """The loss as it is."""
        return loss

    def mean(self, loss: Tensor, share: int, batch: int) -> float:  # noqa: ARG002
        """The loss as it is; also waits for an accelerator."""
        return loss.item()

    def parts(self, samples: Tensor, most: int) -> tuple[Tensor, ...]:
        """Parts of `most` samples."""
        return samples.split(most)

    def joined(self, outputs: Tensor) -> Tensor:
        """The outputs as they are."""
        return outputs

    def gathered(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]

    def agreed(self, value: Any) -> Any:
        """The value as it is."""
        return value


class Together:
    """A run in several processes, as one of them sees it; every method but `share` and `weighted` waits for all."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.rank: int = fabric.global_rank
        self.size: int = fabric.world_size

    def share(self, batch: Tensor) -> Tensor:
        """A contiguous part; the first ranks have one sample more where it does not divide."""
        return batch.tensor_split(self.size)[self.rank]

    def weighted(self, loss: Tensor, share: int, batch: int) -> Tensor:
        """Shares differ by a sample, and the gradients' mean over ranks knows nothing of it."""
        return loss * (share * self.size / batch)

    def mean(self, loss: Tensor, share: int, batch: int) -> float:
        """Summed over ranks in float64."""
        total: Any = self._fabric.all_reduce(loss.detach().double() * share, reduce_op="sum")
        return float(total) / batch

    def parts(self, samples: Tensor, most: int) -> tuple[Tensor, ...]:
        """Equally many on every rank, since a wrapped model joins its buffers at each call."""
        largest = -(-len(samples) // self.size)
        return samples.tensor_split(self.size)[self.rank].tensor_split(-(-largest // most))

    def joined(self, outputs: Tensor) -> Tensor:
        """On the CPU, where they are scored."""
        return torch.cat(self.gathered(outputs.cpu()))

    def gathered(self, value: Any) -> list[Any]:
        """Through pickle, a few times an epoch."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def agreed(self, value: Any) -> Any:
        """Sent by rank 0."""
        return self._fabric.broadcast(value)


def single(device: str, precision: str) -> Fabric:
    """Fabric on one device of this process, whatever job it finds itself in."""
    return Fabric(accelerator=device, devices=1, precision=precision, plugins=[LightningEnvironment()])  # type: ignore[arg-type]


def launch(
    function: Callable[..., Any], devices: int, device: str, precision: str, what: str, *arguments: Any
) -> Any:
    """Call `function(fabric, ranks, *arguments)` in a new process for each device; all end with this call.

    Args:
        function: importable by name, as are the classes of the arguments; each process starts by importing the main
            module, so a script of your own needs `if __name__ == "__main__":`.
        devices: number of processes.
        device: `cpu` or `cuda`.
        precision: as Fabric names it.
        what: what is being done, for messages.
        arguments: pickled; tensors share memory.

    Returns:
        What the function returned on rank 0.

    Raises:
        BatchNormError: as rank raised it, as a `ModelError` with its message.
        ModelError: a rank died.
    """
    others = set(multiprocessing.active_children())
    with tempfile.TemporaryDirectory(prefix="batchnorm-") as scratch, _own_group():
        complaint = Path(scratch) / "complaint"
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            # A network of the user's may have weights that a pass does not use.
            strategy=_Silent(start_method="spawn", find_unused_parameters=True),
            precision=precision,  # type: ignore[arg-type]
            plugins=[LightningEnvironment()],
        )
        try:
            return fabric.launch(_OnRank(function, complaint, what, arguments))
        except ProcessExitedException as error:
            raise ModelError(_death(error, devices, what)) from None
        except ProcessRaisedException as error:
            said = complaint.read_text(encoding="utf-8") if complaint.exists() else describe(error)
            raise ModelError(said) from None
        except Exception as error:
            raise ModelError(f"{what} failed: {describe(error)}") from error
        finally:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
                process.join()


class _Silent(DDPStrategy):
    def setup_environment(self) -> None:
        with isolation.quiet():
            super().setup_environment()


class _OnRank:
    """One object, since Fabric walks through what it is given and stumbles over frozen dataclasses."""

    def __init__(
        self, function: Callable[..., Any], complaint: Path, what: str, arguments: tuple[Any, ...]
    ) -> None:
        self.function, self.complaint, self.what, self.arguments = function, complaint, what, arguments

    def __call__(self, fabric: Fabric) -> Any:
        pool._end_with(os.getppid())
        try:
            found = self.function(fabric, Together(fabric), *self.arguments)
            # All together: a thread of the group that is still there when the interpreter ends aborts the process.
            dist.barrier()
            dist.destroy_process_group()
            return found
        except (Exception, SystemExit) as error:
            ours = isinstance(error, BatchNormError)
            said = str(error) if ours else f"{self.what} failed: {describe(error)}"
            # The first to fail is the cause; the others miss it.
            with contextlib.suppress(FileExistsError), open(self.complaint, "x", encoding="utf-8") as file:
                file.write(said)
            time.sleep(_GRACE)
            raise ModelError(said) from None


def _death(error: ProcessExitedException, devices: int, what: str) -> str:
    how = f"signal {error.signal_name}" if error.signal_name else f"exit code {error.exit_code}"
    return (
        f"{what}: rank {error.error_index} of {devices} died ({how}), perhaps for lack of memory; finished runs are "
        "kept: repeat the command with fewer --devices or a smaller --batch-size"
    )


@contextlib.contextmanager
def _own_group() -> Iterator[None]:
    """Hide the job that this process may be a part of, and take back the address that Fabric leaves behind."""
    hidden = (*_PLACES, _LOG_LEVEL)
    before = {name: os.environ.pop(name) for name in hidden if name in os.environ}
    os.environ[_LOG_LEVEL] = "ERROR"  # where C++ remarks that all weights were used
    # A worker of joblib's starts its processes in a way that theirs would not know.
    method = multiprocessing.get_start_method(allow_none=True)
    foreign = method is not None and method not in multiprocessing.get_all_start_methods()
    if foreign:
        multiprocessing.set_start_method("spawn", force=True)
    try:
        with isolation.quiet():
            yield
    finally:
        if foreign:
            multiprocessing.set_start_method(method, force=True)
        for name in hidden:
            os.environ.pop(name, None)
        os.environ.update(before)
