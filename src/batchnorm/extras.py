"""What is installed beside the core: asked before anything is loaded, so that the answer is one line."""

import importlib.util

from batchnorm.errors import MissingExtraError

__all__ = ["require_lab", "require_pictures"]

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


def require_lab() -> None:
    """Refuse to begin without the packages of the extra `lab`, rather than fail after the training.

    Raises:
        MissingExtraError: names what is missing and the install command.
    """
    missing = [name for name in _LAB if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"{', '.join(missing)} not installed: pip install 'batchnorm[lab]'")


def require_pictures() -> None:
    """Refuse to begin without the packages of the extras `lab` and `pictures`.

    Raises:
        MissingExtraError: names what is missing and the install command.
    """
    require_lab()
    if importlib.util.find_spec("kaleido") is None:
        raise MissingExtraError("kaleido not installed: pip install 'batchnorm[pictures]'")
