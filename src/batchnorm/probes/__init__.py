"""Measure a running model and put it back bit-exact."""

from batchnorm.probes.activations import activations
from batchnorm.probes.depth import moments_by_depth, stable_rank_by_depth
from batchnorm.probes.gradient_norms import GradientNorms, gradient_norms
from batchnorm.probes.hessian import HessianEigenvalue, top_hessian_eigenvalue
from batchnorm.probes.landscape import LossAlongGradient, loss_along_gradient
from batchnorm.probes.modes import batch_statistics
from batchnorm.probes.output_gradients import activation_gradient_norms, activation_gradients
from batchnorm.probes.percentiles import activation_percentiles, percentiles
from batchnorm.probes.predictiveness import GradientPredictiveness, gradient_predictiveness
from batchnorm.probes.rank import stable_rank
from batchnorm.probes.seen import Seen
from batchnorm.probes.shift import LayerShift, covariate_shift

__all__ = [
    "GradientNorms",
    "GradientPredictiveness",
    "HessianEigenvalue",
    "LayerShift",
    "LossAlongGradient",
    "Seen",
    "activation_gradient_norms",
    "activation_gradients",
    "activation_percentiles",
    "activations",
    "batch_statistics",
    "covariate_shift",
    "gradient_norms",
    "gradient_predictiveness",
    "loss_along_gradient",
    "moments_by_depth",
    "percentiles",
    "stable_rank",
    "stable_rank_by_depth",
    "top_hessian_eigenvalue",
]
