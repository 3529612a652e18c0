"""9. Does batch norm make up for a poor initialization?

Godoy's picture init_vs_bn sets three networks side by side: weights of N(0, 0.1^2), whose signals shrink from layer to
layer; Kaiming's, made so that they do not; and the first weights again, with batch norm behind each ReLU. Violins show
what the five hidden layers put out, and the gradients of their weights at the first step on the whole data set.

With batch norm the signals keep their size. The gradients do not become alike by that: behind the data, which is
standardised but not batch normed by a hidden layer, the first layer's come out larger than the second's.
"""

from collections.abc import Sequence
from typing import Any

from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel, Violin
from batchnorm.records.claim import Source
from batchnorm.records.estimates import paired_ratio
from batchnorm.records.intervals import Interval
from batchnorm.records.selection import seed_values, select, values
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import plain_interval, seeds

__all__ = ["EXPERIMENT"]

SHRUNK, ABOUT, KEPT, LARGER = 0.3, 1.5, 1.0, 3.0
LAYERS, POINTS, DIMENSIONS, STD = 5, 1000, 10, 0.1
QUANTILES = 40  # of each violin, besides the smallest
ARMS = {
    "none": f"weights N(0, {STD:g}^2)",
    "kaiming": "Kaiming's weights",
    "batch": f"N(0, {STD:g}^2) and batch norm",
}


def plan(scale: Scale) -> list[Task]:
    """The three networks at every seed, which draws the points too."""
    return [Task.of(arm, seed, points=POINTS) for seed in range(scale.seeds) for arm in ARMS]


def run(task: Task) -> list[dict[str, Any]]:
    """One pass over all points and back: the spread and the quantiles of outputs and gradients, layer by layer."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    from batchnorm import probes
    from batchnorm.lab.models import ball_net

    x, y = _ball(task["points"], task.seed)
    torch.manual_seed(task.seed)
    init = "kaiming" if task.arm == "kaiming" else "normal"
    net = ball_net("batch" if task.arm == "batch" else "none", init=init, hidden=LAYERS, std=STD).train()
    outputs = probes.activations(net, x, [f"hidden.{layer}.activation" for layer in range(LAYERS)])
    binary_cross_entropy_with_logits(net(x), y).backward()
    records = []
    for layer, seen in enumerate(outputs):
        gradient = net.get_parameter(f"hidden.{layer}.linear.weight").grad
        assert gradient is not None
        assert seen.output is not None
        record: dict[str, Any] = {"layer": layer + 1}
        for name, found in (("activation", seen.output), ("gradient", gradient)):
            numbers = found.double().flatten()
            record[f"{name}_std"] = numbers.std(correction=0).item()
            places = torch.linspace(0, 1, QUANTILES + 1, dtype=torch.float64)
            record[f"{name}_quantiles"] = numbers.quantile(places).tolist()
        records.append(record)
    return records


def _ball(points: int, seed: int) -> tuple[Any, Any]:
    """Points spread evenly over a ball, of standard deviation 1; class 1 where |sum| is above half the radius."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    direction = torch.randn(points, DIMENSIONS, generator=draw)
    direction = direction / direction.norm(dim=1, keepdim=True)
    x = direction * torch.rand(points, 1, generator=draw) ** (1 / DIMENSIONS)
    scale = 1 / x.std(correction=0)
    x = scale * x
    return x, (x.sum(1, keepdim=True).abs() > scale / 2).float()


def _ratio(records: Sequence[Line], field: str, arm: str, over: int, under: int) -> Interval | None:
    """How many times as wide a field is in one layer as in another; None where a seed has no number."""
    pair = [seed_values(records, field, arm=arm, layer=layer) for layer in (over, under)]
    if any(value is None for side in pair for value in side.values()):
        return None
    return paired_ratio(*pair)


def verdict(records: Sequence[Line]) -> Verdict:
    """The spread of the last layer's outputs over the first's, and of the gradients of the first over the second's."""
    none, kaiming, batch = (_ratio(records, "activation_std", arm, LAYERS, 1) for arm in ARMS)
    first = _ratio(records, "gradient_std", "batch", 1, 2)
    last = f"standard deviation of the outputs of layer {LAYERS} over layer 1"
    checks = [
        Check(f"{ARMS['none']}: {last} below {SHRUNK:g}", plain_interval(none),
              none is not None and none.high is not None and none.high < SHRUNK),
        Check(f"{ARMS['kaiming']}: about 1, from 1/{ABOUT:g} to {ABOUT:g}", plain_interval(kaiming),
              kaiming is not None and kaiming.within(1 / ABOUT, ABOUT)),
        Check(f"{ARMS['batch']}: at least {KEPT:g}", plain_interval(batch),
              batch is not None and batch.low is not None and batch.low >= KEPT),
        Check(f"{ARMS['batch']}: standard deviation of the weight gradients of layer 1 over layer 2 at least "
              f"{LARGER:g}",
              plain_interval(first), first is not None and first.low is not None and first.low >= LARGER),
    ]  # fmt: skip
    n = len(values(records, "activation_std", arm="batch", layer=1))
    finding = (
        f"From layer 1 to layer {LAYERS} the spread of the outputs became {plain_interval(none)} times as large with "
        f"weights of N(0, {STD:g}^2), {plain_interval(kaiming)} times with Kaiming's, and {plain_interval(batch)} "
        f"times with batch norm on the first weights ({seeds(n)}). With batch norm the weight gradients of layer 1 "
        f"were spread {plain_interval(first)} times as widely as those of layer 2."
    )
    return Verdict.of(checks, batch, unit=f"times the spread, layer {LAYERS} over layer 1", finding=finding)


def figures(records: Sequence[Line]) -> list[Chart]:
    """The violins of the picture, for outputs and for gradients, and the spread of both by layer."""
    n = len(values(records, "activation_std", arm="batch", layer=1))
    batch = _ratio(records, "activation_std", "batch", LAYERS, 1)
    first = _ratio(records, "gradient_std", "batch", 1, 2)
    none = _ratio(records, "activation_std", "none", LAYERS, 1)
    kaiming = _ratio(records, "activation_std", "kaiming", LAYERS, 1)
    drawn = f"{QUANTILES + 1} quantiles of all values of seed 0 (of {seeds(n)}), on scales of their own."
    return [
        Chart(
            "activations",
            f"The outputs' spread becomes {plain_interval(none)} times as large through {LAYERS} layers without batch "
            f"norm, {plain_interval(batch)} times with it",
            f"Outputs of the ReLUs of layers h1 to h{LAYERS} over {POINTS} points at the first weights: {drawn}",
            _violins(records, "activation", "output"),
            columns=3,
        ),
        Chart(
            "gradients",
            f"With batch norm the weight gradients of h1 are spread {plain_interval(first)} times as widely as h2's",
            f"Gradients of the loss for the weights of h1 to h{LAYERS} at the first step: {drawn}",
            _violins(records, "gradient", "gradient of a weight"),
            columns=3,
        ),
        Chart(
            "spread",
            f"With Kaiming's weights the outputs' spread becomes {plain_interval(kaiming)} times as large",
            f"Standard deviation over all values of a layer: mean of {seeds(n)} with 95% t intervals.",
            [
                Panel(
                    [
                        Curve.over_seeds(arm, {layer: values(records, f"{field}_std", arm=arm, layer=layer)
                                               for layer in range(1, LAYERS + 1)})
                        for arm in ARMS
                    ],
                    Axis("hidden layer"), Axis(f"standard deviation of {words}", log=True), title=words,
                )
                for field, words in (("activation", "outputs"), ("gradient", "weight gradients"))
            ],
        ),
    ]  # fmt: skip


def _violins(records: Sequence[Line], field: str, words: str) -> list[Panel]:
    return [
        Panel(
            [
                Violin(arm, f"h{line['layer']}", line[f"{field}_quantiles"])
                for line in sorted(select(records, arm=arm, seed=0), key=lambda line: line["layer"])
            ],
            Axis("hidden layer"),
            Axis(words),
            title=title,
        )
        for arm, title in ARMS.items()
    ]


EXPERIMENT = Experiment(
    number=9,
    name="initialization",
    title="Does batch norm make up for a poor initialization?",
    claim="Batch norm keeps the size of a deep network's signals from the first layer to the last, though its weights "
    "are drawn so small that they would shrink without it.",
    source=Source(
        "D. V. Godoy, Deep Learning with PyTorch Step-by-Step, chapter Extra",
        "https://github.com/dvgodoy/PyTorchStepByStep/blob/master/ChapterExtra.ipynb",
    ),
    published="Violins without numbers. Made again, the standard deviation of the outputs went from 0.187 to 0.038 for "
    "N(0, 0.1^2), from 0.81 to 0.98 for Kaiming's weights, and from 0.187 to 0.60 with batch norm.",
    method=f"{POINTS} points spread over a {DIMENSIONS}-dimensional ball, scaled to standard deviation 1; class 1 "
    f"where the sum of coordinates is above half the radius in size. {LAYERS} hidden layers of 100 ReLUs, binary "
    "cross entropy, one step's gradients on all points; batch norm behind each ReLU, without weight and bias. Outputs "
    "are those of the ReLUs. N(0, 0.1^2) draws the same weights with and without batch norm. Each seed draws points "
    "and weights.",
    criterion=f"Standard deviation of the outputs of layer {LAYERS} over layer 1, whole 95% interval: below "
    f"{SHRUNK:g} for N(0, {STD:g}^2), from 1/{ABOUT:g} to {ABOUT:g} for Kaiming's, at least {KEPT:g} with batch norm; "
    f"and with batch norm the weight gradients' of layer 1 over layer 2 at least {LARGER:g}.",
    does_not_show="Whether any of the three trains better: it is one step at the first weights. That gradients of the "
    "first layer are larger with batch norm is a sign of this network, not of a good state.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(0.8, 5.0),
    seeds=(5, 20),
)  # fmt: skip
