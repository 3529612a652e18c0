"""Targets: Python objects named on the command line as `file.py:name` or `package.module:name`."""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from batchnorm.errors import ModelError, UsageError
from batchnorm.surgery.restored import generators_kept

__all__ = ["describe", "importable", "is_target", "load_target", "source_digest"]

_SHOWN_NAMES = 20


def load_target(target: str, *, error: type[UsageError] = ModelError, call: bool = False) -> Any:
    """Load the object that `target` names.

    A file is loaded once for each state of its text, under a module name made from its path and text, so that it means
    the same in every worker process; its folder is importable while it loads. Loading leaves the states of the random
    generators of Python, numpy and torch as they were.

    Args:
        target: `file.py:name` or `package.module:name`; `name` may have dots.
        error: class of the error that tells of a bad target.
        call: whether the object must be callable.

    Returns:
        The object.

    Raises:
        UsageError: of the class `error`, in one line: no colon, no such file or module, the file raises, no such name
            (the names that there are follow), or not callable.

    Example:
        >>> load_target("math:sqrt")(9.0)
        3.0
    """
    source, name = _parts(target, error)
    with importable(target), generators_kept():
        module = (
            _load_file(source, target, error) if _is_file(source) else _load_module(source, target, error)
        )
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise error(f"{target!r}: {source} has no {name!r}; it has {_names(module)}")
        found = getattr(found, part)
    if call and not callable(found):
        raise error(f"{target!r}: expected something to call, got a {type(found).__name__}")
    return found


def is_target(text: str) -> bool:
    """Whether `text` has the form of a target, `something:name`, as against the name of something built in."""
    return ":" in text or text.endswith(".py")


def source_digest(target: str) -> str | None:
    """The sha256 of the file behind a target, in hexadecimal; None where there is no readable source file.

    Files that it imports do not enter.
    """
    source = target.rpartition(":")[0] or target
    try:
        if _is_file(source):
            return hashlib.sha256(Path(source).read_bytes()).hexdigest()
        if ":" not in target:
            return None
        with importable(target), generators_kept():
            spec = importlib.util.find_spec(source)
        if spec is None or spec.origin is None or not spec.has_location:
            return None
        return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    except (OSError, ImportError, ValueError):
        return None


@contextlib.contextmanager
def importable(target: str) -> Iterator[None]:
    """Within it, the neighbours of a target can be imported: its file's folder, or for a package the current folder.

    Wrap calls of a loaded object too, since functions may import when they run.
    """
    source = target.rpartition(":")[0] or target
    folder = str(Path(source).resolve().parent) if _is_file(source) else os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _parts(target: str, error: type[UsageError]) -> tuple[str, str]:
    source, colon, name = target.rpartition(":")
    if not colon or not source or not name or name.endswith(".py"):
        hint = f"{target}:name" if target.endswith(".py") else "file.py:name or package.module:name"
        raise error(f"{target!r}: expected file.py:name or package.module:name; write {hint}")
    return source, name


def _is_file(source: str) -> bool:
    return source.endswith(".py") or os.sep in source or "/" in source


def _load_file(source: str, target: str, error: type[UsageError]) -> ModuleType:
    path = Path(source)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{target!r}: there is no file {str(path)!r} (looked in {os.getcwd()})") from None
    except OSError as problem:
        raise error(f"{target!r}: cannot read {str(path)!r}: {problem.strerror}") from None
    resolved = path.resolve()
    identity = hashlib.sha256(str(resolved).encode() + b"\0" + text).hexdigest()[:16]
    name = f"_batchnorm_target_{resolved.stem}_{identity}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise error(f"{target!r}: {str(path)!r} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs: dataclasses and pickle look their module up there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as problem:
        del sys.modules[name]
        raise error(f"{target!r}: loading it raised {describe(problem, resolved)}") from problem
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(source: str, target: str, error: type[UsageError]) -> ModuleType:
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as problem:
        missing = problem.name or ""
        if source == missing or source.startswith(f"{missing}."):
            raise error(
                f"{target!r}: there is no module {missing!r}; install it, or name a file as path/to/file.py:name"
            ) from None
        raise error(f"{target!r}: importing it raised {describe(problem)}") from problem
    except (Exception, SystemExit) as problem:
        raise error(f"{target!r}: importing it raised {describe(problem)}") from problem


def describe(problem: BaseException, path: Path | None = None) -> str:
    """An exception in one line: type, message, and where it was raised (in `path`, where that took part)."""
    message = " ".join(str(problem).split())
    if isinstance(problem, SyntaxError) and problem.filename:
        return f"{type(problem).__name__}: {problem.msg} ({problem.filename}, line {problem.lineno})"
    frames = traceback.extract_tb(problem.__traceback__)
    own = [frame for frame in frames if path is None or Path(frame.filename) == path]
    frame = (own or list(frames))[-1:]
    where = f" ({frame[0].filename}, line {frame[0].lineno})" if frame else ""
    return f"{type(problem).__name__}{': ' if message else ''}{message}{where}"


def _is_definition(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


def _names(module: ModuleType) -> str:
    declared = getattr(module, "__all__", None)
    if declared is None:
        declared = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and not isinstance(value, ModuleType)
            and not (_is_definition(value) and value.__module__ != module.__name__)
        ]
    names = sorted(str(name) for name in declared or (n for n in vars(module) if not n.startswith("_")))
    if not names:
        return "no public names"
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more
