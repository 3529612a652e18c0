"""12. Does batch norm need large batches, and does group norm not?

Batch norm estimates mean and variance from the batch, so a small batch makes them noise; group norm takes them from
the sample alone. Wu and He trained with 32 to 2 images a device and the learning rate scaled with the batch: batch
norm lost 11 points, group norm none. Here a small network runs at batches of 2 to 64 for the same number of epochs, and
every arm has a learning rate of its own at every size.

Two more arms tell the cause from its company. Ghost batch norm takes its statistics from 2 samples whatever the batch
is: where it does as badly at batch 64, small statistics are the cause and not small steps. Batch
renormalization corrects them towards the running ones (claim 13).
"""

from collections.abc import Sequence
from typing import Any

from batchnorm.lab.batch_sizes import NETWORK, SAMPLES, errors, mean_errors, rates_in_words, trained
from batchnorm.lab.experiment import Experiment, Scale, Task
from batchnorm.records.charts import Axis, Chart, Curve, Panel
from batchnorm.records.claim import Source
from batchnorm.records.intervals import paired_difference
from batchnorm.records.selection import distinct
from batchnorm.records.store import Line
from batchnorm.records.verdict import Check, Verdict
from batchnorm.records.wording import number, plain_interval, seeds

__all__ = ["EXPERIMENT"]

SMALL, LARGE = (2, 4, 8), (16, 32, 64)
WIDEST = 1.0  # points
GHOST = 2
# For 64 samples, scaled with the batch. At the small batches, whose runs are long, quick takes the middle one alone.
RATES = (0.02, 0.05, 0.12)
ARMS = {
    "batch": "batch norm",
    "group": "group norm",
    "renorm": "batch renormalization",
    "ghost": f"ghost batch norm, statistics of {GHOST} samples",
}


def plan(scale: Scale) -> list[Task]:
    """Every arm at every batch size with each of its rates; at a batch of 2, ghost batch norm is batch norm."""
    epochs = scale.pick(8, 10)
    long = scale.pick(RATES[1:2], RATES[1:])
    sizes = scale.pick((*SMALL, LARGE[-1]), (*SMALL, *LARGE))
    return [
        Task.of(arm, seed, batch=batch, lr=rate * batch / 64, epochs=epochs, samples=SAMPLES, data=scale.data)
        for seed in range(scale.seeds)
        for batch in sizes
        for arm in ARMS
        if arm != "ghost" or batch > GHOST
        for rate in (long if batch in SMALL else RATES)
    ]


def run(task: Task) -> list[dict[str, Any]]:
    """Train, and take the errors at the end."""
    return trained(task, epochs=task["epochs"], ghost=GHOST)


def verdict(records: Sequence[Line]) -> Verdict:
    """Whether batch norm's error rises from batch 8 to 2, and how far group norm's moves at all."""
    two, four, eight = means = [mean_errors(records, "batch").get(batch) for batch in SMALL]
    rise = paired_difference(*(errors(records, arm="batch", batch=batch) for batch in (SMALL[0], SMALL[-1])))
    rises = two is not None and four is not None and eight is not None and eight < four < two
    group = list(mean_errors(records, "group").values())
    known = [error for error in group if error is not None]
    spread = max(known) - min(known) if len(known) == len(group) > 0 else None
    written = ", ".join(number(error) for error in reversed(means))
    checks = [
        Check("batch norm: the mean error rises from batch 8 to 4 to 2, and the 95% interval of 2 minus 8 is above 0",
              f"{written}%; {plain_interval(rise, sign=True)} points",
              rises and rise is not None and rise.low is not None and rise.low > 0),
        Check(f"group norm: mean errors over all batch sizes within {WIDEST:g} point",
              "a batch size at which no rate trained" if spread is None else f"{number(spread)} points",
              spread is not None and spread <= WIDEST),
    ]  # fmt: skip
    lead = _against_group(records, SMALL[0])
    finding = (
        f"From batch 8 to 2 batch norm's error changed by {plain_interval(rise, sign=True)} points "
        f"({seeds(len({line['seed'] for line in records}))}); group norm's mean errors at {len(group)} batch sizes "
        f"lay {number(spread)} points apart."
    )
    surprise = ""
    if lead is None or lead.low is None or lead.low <= 0:
        surprise = (
            "At batch 2 group norm was not clearly better than batch norm, as it was in the paper by 10.6 points: "
            "batch "
            f"norm's error minus group norm's is {plain_interval(lead, sign=True)} points here."
        )
    return Verdict.of(
        checks, rise, unit="points of error, batch 2 against 8", finding=finding, surprise=surprise
    )


def _against_group(records: Sequence[Line], batch: int) -> Any:
    return paired_difference(
        errors(records, arm="batch", batch=batch), errors(records, arm="group", batch=batch)
    )


def figures(records: Sequence[Line]) -> list[Chart]:
    """Error by batch size, and how far the other arms are from batch norm."""
    n = len({line["seed"] for line in records})
    sizes = Axis("batch size (samples)", log=True)
    lines, gaps = [], []
    for arm in ARMS:
        of = distinct(records, "batch", arm=arm)
        lines.append(
            Curve.over_seeds(arm, {batch: errors(records, arm=arm, batch=batch).values() for batch in of})
        )
        if arm != "batch":
            found = [
                paired_difference(errors(records, arm=arm, batch=b), errors(records, arm="batch", batch=b))
                for b in of
            ]
            gaps.append(
                Curve(
                    arm,
                    of,
                    [None if each is None else each.mean for each in found],
                    [None if each is None else each.low for each in found],
                    [None if each is None else each.high for each in found],
                )
            )
    lead = _against_group(records, SMALL[0])
    return [
        Chart(
            "error",
            verdict(records).finding,
            f"Test error by batch size at the same number of epochs: mean over {seeds(n)} with 95% t intervals. Rates "
            "of "
            f"batch norm: {rates_in_words(records, 'batch')}; of group norm: {rates_in_words(records, 'group')}.",
            [Panel(lines, sizes, Axis("test error (%)"))],
        ),
        Chart(
            "against-batch-norm",
            f"Batch norm's error minus group norm's at batch 2: {plain_interval(lead, sign=True)} points",
            f"Error minus batch norm's at the same batch size, paired by seed: mean over {seeds(n)} with 95% t "
            "intervals. "
            "Below 0 the arm is better.",
            [Panel(gaps, sizes, Axis("error minus batch norm's (points)"))],
        ),
    ]


EXPERIMENT = Experiment(
    number=12,
    name="batch-size",
    title="Does batch norm need large batches, and does group norm not?",
    claim="Batch norm's error rises quickly when the batch becomes small; group norm's does not depend on it.",
    source=Source("Y. Wu, K. He, Group Normalization, 2018", "https://arxiv.org/abs/1803.08494"),
    published="ResNet-50 on ImageNet, error at 32, 16, 8, 4 and 2 images a device: batch norm 23.6, 23.7, 24.8, 27.3, "
    "34.7%; group norm 24.1, 24.2, 24.0, 24.2, 24.1%; batch renormalization at 4: 26.3%.",
    method=f"{NETWORK} 8 epochs quick and 10 full at every batch size. Rates to choose from: "
    f"{', '.join(f'{rate:g}' for rate in RATES)} for 64 samples, scaled with the batch as in the paper; at batch 2 "
    f"to 8, whose runs are long, {RATES[1]:g} alone quick and the higher two full. Running averages reach back 400 "
    "samples (a step's share is at most 0.1) for every arm.",
    criterion="Batch norm's mean error rises from batch 8 to 4 to 2, and the 95% interval of batch 2 minus batch 8, "
    "paired by seed, is above 0; "
    f"group norm's mean errors over all batch sizes lie within {WIDEST:g} point.",
    does_not_show="What happens in deep networks on large images, where noise adds up over 50 norms. At the same "
    "number of "
    "epochs a large batch takes few steps: an error that rises with the batch is short training.",
    arms=ARMS,
    plan=plan,
    run=run,
    verdict=verdict,
    figures=figures,
    seconds=(160.0, 740.0),
    uses_data=True,
)
