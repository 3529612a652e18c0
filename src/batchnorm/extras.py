"""What is installed beside the core: asked before anything is loaded, so that the answer is one line."""

import importlib.util

from batchnorm.errors import MissingExtraError

__all__ = ["require", "require_lab", "require_pictures"]

_LAB = (
    "filelock",
    "itables",
    "jinja2",
    "joblib",
    "lightning",
    "numpy",
    "pandas",
    "plotly",
    "sklearn",
    "scipy",
    "torchmetrics",
)

# Extras that a single option needs, by the modules that it imports.
_OPTIONS = {
    "dask": ("dask", "distributed"),
    "mlflow": ("mlflow",),
    "ray": ("ray",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}


def require_lab() -> None:
    """Refuse to begin without the packages of the extra `lab`, rather than fail after the training.

    Raises:
        MissingExtraError: names what is missing and the install command.
    """
    _refuse("lab", [name for name in _LAB if importlib.util.find_spec(name) is None])


def require_pictures() -> None:
    """Refuse to begin without the packages of the extras `lab` and `pictures`.

    Raises:
        MissingExtraError: names what is missing and the install command.
    """
    require_lab()
    _refuse("pictures", [name for name in ("kaleido",) if importlib.util.find_spec(name) is None])


def require(extra: str) -> None:
    """Refuse to begin without the packages of an extra.

    Args:
        extra: `dask`, `ray`, `tensorboard`, `wandb` or `mlflow`.

    Raises:
        MissingExtraError: names what is missing and the install command.
    """
    _refuse(extra, [name for name in _OPTIONS[extra] if not _installed(name)])


def _installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    # A folder of that name in the working directory, such as W&B leaves, counts as a package without a file.
    return spec is not None and spec.origin is not None


def _refuse(extra: str, missing: list[str]) -> None:
    if missing:
        raise MissingExtraError(f"{', '.join(missing)} not installed: pip install 'batchnorm[{extra}]'")
