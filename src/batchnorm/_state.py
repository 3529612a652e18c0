"""The only process-wide state that changes: what a thread asked for, and whether this process was forked."""

import threading

__all__ = ["CHOICE", "PROCESS", "Choice", "Process"]


class Choice(threading.local):
    """What this thread asked for with `batchnorm.backend` and `batchnorm.domain`; a new one has asked for nothing."""

    backend: str = "auto"
    domain: int | None = None


class Process:
    """What a fork left behind."""

    forked: bool = False


CHOICE = Choice()
PROCESS = Process()
