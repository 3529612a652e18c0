"""Exceptions and warnings of the package.

Each error subclasses what torch raises in the same case, so that code which catches torch's
errors keeps working, and `BatchNormError`, so that ours can be told apart.
"""

__all__ = [
    "ActivationError",
    "ArgumentError",
    "ArgumentTypeError",
    "BackendError",
    "BatchNormError",
    "BatchTooSmallError",
    "ConversionError",
    "ConversionWarning",
    "DataError",
    "DimensionError",
    "DtypeError",
    "MissingExtraError",
    "ModelError",
    "RecalibrationWarning",
    "RecomputationError",
    "ShapeError",
    "StoreError",
    "TransformError",
    "UsageError",
]


class BatchNormError(Exception):
    """Root of every error that this package raises on purpose."""


class ArgumentError(BatchNormError, ValueError):
    """An argument has a value outside what is accepted."""


class ArgumentTypeError(BatchNormError, TypeError):
    """An argument is of a type that cannot be used in its place."""


class ActivationError(ArgumentError):
    """`act` is neither a known name nor a module that can be fused."""


class DimensionError(BatchNormError, ValueError):
    """An input has the wrong number of dimensions."""


class BatchTooSmallError(BatchNormError, ValueError):
    """A training batch has one value a channel, so its variance says nothing."""


class ShapeError(BatchNormError, RuntimeError):
    """Two tensors whose shapes must agree do not."""


class DtypeError(BatchNormError, NotImplementedError):
    """Batch norm is not defined for this dtype."""


class TransformError(BatchNormError, RuntimeError):
    """A function transform (vmap, grad, ...) or a tracer meets what it cannot carry, such as buffers it did not get."""


class RecomputationError(BatchNormError, RuntimeError):
    """A forward that repeats an earlier one cannot find what that one used."""


class BackendError(BatchNormError, RuntimeError):
    """A backend was asked for that cannot serve here; the message says why."""


class ConversionError(BatchNormError, ValueError):
    """A model, or one of its layers, cannot be changed as asked."""


class ConversionWarning(UserWarning):
    """Some layers were left as they are, because changing them would lose something; the message names them."""


class RecalibrationWarning(UserWarning):
    """Some statistics were not measured, or not on all values of the data; the message names the layers."""


class MissingExtraError(BatchNormError, ImportError):
    """An optional dependency is not installed; the message names the install command."""


class UsageError(BatchNormError, ValueError):
    """A command got something it cannot work with: one line, exit code 2."""


class DataError(UsageError):
    """A data set is unknown, missing or malformed."""


class ModelError(UsageError):
    """A model is unknown, cannot be built, or does not fit the data."""


class StoreError(UsageError):
    """A result folder cannot be read or written, or belongs to another configuration."""
