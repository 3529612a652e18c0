"""A group of processes on this machine, started once, that runs functions for tests: gloo over a file, no ports."""

import datetime
import multiprocessing
import os
import pickle
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

# The server imports torch once and forks from that, so that a further process costs no import.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch.distributed", "torch._dynamo", "batchnorm.nn"])
_PATIENCE = 120  # seconds for one function; torch.compile inside takes some


class World:
    def __init__(self, size: int, folder: Path, timeout: float = 60) -> None:
        self.size = size
        self._pipes, self._processes = [], []
        for rank in range(size):
            mine, theirs = _CONTEXT.Pipe()
            arguments = (rank, size, str(folder / "rendezvous"), timeout, theirs)
            process = _CONTEXT.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)

    def outcomes(self, function, *args) -> list:
        """What function(*args) returned on each rank: ("returned", value), ("raised", text) or ("died", None)."""
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((function, args)))
        found = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(_PATIENCE), f"rank {rank} does not answer"
            try:
                found.append(pickle.loads(pipe.recv_bytes()))
            except EOFError:
                found.append(("died", None))
        return found

    def run(self, function, *args) -> list:
        """The values; every rank must return one."""
        outcomes = self.outcomes(function, *args)
        for rank, (how, value) in enumerate(outcomes):
            assert how == "returned", f"rank {rank} {how}: {value}"
        return [value for _, value in outcomes]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()


def _serve(rank, size, file, timeout, pipe) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # else gloo asks what the host name stands for
    dist.init_process_group(
        "gloo",
        init_method=f"file://{file}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=timeout),
    )
    while True:
        try:
            function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        torch.manual_seed(0)
        try:
            answer = ("returned", function(*args))
        except Exception:
            answer = ("raised", traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))
