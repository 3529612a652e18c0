"""Networks of a comparison and of the claims, each with a norm layer of choice at its sites.

For a comparison, by name: `build`. For experiments, plain constructors; everything random comes from torch's generator,
weights outside the norms do not depend on `norm`, and each docstring names the children. `norm` is an arm's name
("none", "batch", "group", "layer", "renorm", "ghost", ...) or a maker (channels, ndim, steps=None) -> layer:

    construct(model, norm="batch", placement="before", *, input_shape, num_classes, dropout=0., **options)
        any of `KNOWN`: "lenet" | "mlp" (hidden, activation) | "vgg" (widths, convs a stage, hidden; from 8x8)
        | "resnet" (depth 6n+2, width, stride=1 for 8x8) | "lstm" (hidden, rows, read="pixels", gamma, noise)
    sigmoid_net(norm="none", *, inputs=64, num_classes=10, width=100, hidden=3, std=.1)                     claim 1
    walkthrough("ex1" | "ex2" | "flattened", norm="batch", *, input_shape=(3, 28, 28), num_classes=None)    seed 004
    deep_linear(norm="none", *, layers=25, width=10)                                                        claim 4
    noisy(norm="batch") -> maker; Noisy(layer)                                                              claim 5
    residual_stack(blocks, norm="batch", *, width=512, kind="plain", alpha=0., inputs=None, num_classes=None)
    residual_net(blocks, norm="batch", *, kind="plain", alpha=0., widths=(16,), input_shape=(1, 8, 8), num_classes=10,
        stride=1)     claims 6, 7; kind "plain" | "skipinit" (alpha learned, from alpha) | "halved" | "rescale"
    ball_net(norm="none", *, init="normal" | "kaiming", inputs=10, width=100, hidden=5, std=.1)             claim 9
    stack(depth, width, norm="batch", *, activation="relu" | "linear")                                  claims 16, 17
    plain_batch_norm: a maker, batch norm without weight and bias

Claim 18 takes construct("lstm", "recurrent", ..., read="pixels", hidden=100, gamma=.1, noise=.1); h at step t is the
input of the t-th call of `net.from_hidden`, where a forward pre-hook can `retain_grad()` it.
"""

from batchnorm.lab.models.build import KNOWN, brings_its_own_norms, build, construct
from batchnorm.lab.models.dense import ball_net, sigmoid_net
from batchnorm.lab.models.network import Network
from batchnorm.lab.models.norms import Noisy, maker, noisy, plain_batch_norm
from batchnorm.lab.models.residual import residual_net, residual_stack
from batchnorm.lab.models.stack import deep_linear, stack
from batchnorm.lab.models.walkthrough import walkthrough

__all__ = [
    "KNOWN",
    "Network",
    "Noisy",
    "ball_net",
    "brings_its_own_norms",
    "build",
    "construct",
    "deep_linear",
    "maker",
    "noisy",
    "plain_batch_norm",
    "residual_net",
    "residual_stack",
    "sigmoid_net",
    "stack",
    "walkthrough",
]
