"""The only process-wide state that changes: what a thread asked for, and whether this process was forked."""

import threading

__all__ = ["CHOICE", "PROCESS", "Choice", "Process"]


class Choice(threading.local):
    """What this thread asked for with `batchnorm.backend`; a new thread has asked for nothing."""

    backend: str = "auto"


class Process:
    """What a fork left behind."""

    forked: bool = False


CHOICE = Choice()
PROCESS = Process()
