import pytest

from batchnorm.bench.summary import slowest, summarize
from batchnorm.bench.targets import TARGETS, verdicts
from tests.bench.records_factory import record, results, step


def verdict(text, *lines):
    (found,) = [verdict for verdict in verdicts(results(*lines)) if verdict.target.text == text]
    return found


def test_nothing_measured_is_neither_met_nor_missed():
    assert {(found.met, found.value) for found in verdicts(results())} == {(None, None)}
    assert len(TARGETS) == 14


def test_a_geometric_mean_is_judged_as_one_number():
    lines = [record(torch=2.0), record((16, 512, 7, 7), torch=9.0)]
    found = verdict("training, BN+act, NCHW float32", *lines)
    assert (found.value, found.met, found.count) == (pytest.approx(18**0.5), True, 2)
    found = verdict("training, BN+act, NCHW float32", *lines, record((16, 256, 14, 14), torch=1.0))
    assert (found.met, found.count) == (False, 3)
    assert found.short_by == pytest.approx(1 - 18 ** (1 / 3) / 4)


# What makes the target of that name true, then the same record spoiled.
DOCTORED = [
    ("training, BN+act, NCHW float32", {"torch": 4.0}, {"torch": 3.9}),
    ("training, BN+ReLU, NCHW float32", {"torch": 4.0}, {"torch": 3.9}),
    ("training, BN alone, NCHW float32", {"act": None, "torch": 3.0}, {"act": None, "torch": 2.9}),
    (
        "evaluation, BN+act, NCHW float32",
        {"phase": "evaluation", "torch": 2.0},
        {"phase": "evaluation", "torch": 1.9},
    ),
    (
        "evaluation, BN alone, NCHW float32",
        {"phase": "evaluation", "act": None, "torch": 2.0},
        {"phase": "evaluation", "act": None, "torch": 1.9},
    ),
    (
        "evaluation in the caches, copy / ours, each",
        {"shape": (16, 64, 28, 28), "phase": "evaluation", "copy": 0.8},
        {"shape": (16, 64, 28, 28), "phase": "evaluation", "copy": 0.79},
    ),
    ("every shape and pass", {"torch": 0.95}, {"torch": 0.94}),
    (
        "training, BN+act, channels_last float32",
        {"layout": "channels_last", "torch": 2.5},
        {"layout": "channels_last", "torch": 2.4},
    ),
    (
        "training, BN+act, NCHW bfloat16",
        {"dtype": "bfloat16", "torch": 3.0},
        {"dtype": "bfloat16", "torch": 2.9},
    ),
    ("ours eager / ours compiled, each", {"batchnorm_compiled": 1.05}, {"batchnorm_compiled": 1.07}),
    (
        "beyond the caches, NCHW, copies, each",
        {"shape": (16, 64, 112, 112), "copy": 1 / 1.59},
        {"shape": (16, 64, 112, 112), "copy": 1 / 1.61},
    ),
    (
        "beyond the caches, channels_last, copies, each",
        {"shape": (16, 64, 112, 112), "layout": "channels_last", "copy": 1 / 2.19},
        {"shape": (16, 64, 112, 112), "layout": "channels_last", "copy": 1 / 2.21},
    ),
]


@pytest.mark.parametrize(("text", "good", "bad"), DOCTORED, ids=[text for text, *_ in DOCTORED])
def test_a_doctored_record_flips_the_verdict(text, good, bad):
    assert verdict(text, record(**good)).met is True
    assert verdict(text, record(**good)).short_by == 0
    found = verdict(text, record(**bad))
    assert found.met is False
    assert 0 < found.short_by < 0.1


@pytest.mark.parametrize(("network", "least"), [("MobileNetV2", 1.25), ("ResNet-18", 1.06)])
def test_training_steps_have_their_own_targets(network, least):
    text = f"step of {network}, NCHW float32"
    assert verdict(text, step(network, least)).met is True
    assert verdict(text, step(network, least - 0.01)).met is False
    assert verdict(text, record()).met is None


def test_shape_by_shape_the_worst_decides_and_is_named():
    found = verdict(
        "every shape and pass", record(torch=9.0), record((16, 8, 7, 7), torch=0.5), record((4, 4), torch=0.7)
    )
    assert (found.met, found.value, found.failing, found.count) == (False, 0.5, 2, 3)
    assert found.where == "16x8x7x7 contiguous float32 bn+relu, forward_backward"


def test_caches_decide_which_shapes_a_target_is_about():
    between = record((16, 64, 56, 56), torch=9.0)  # 51 MB in four tensors, 32 MiB of cache
    assert verdict("beyond the caches, NCHW, copies, each", between).met is None
    assert (
        verdict("evaluation in the caches, copy / ours, each", record((16, 64, 112, 112), "evaluation")).met
        is None
    )
    unknown = results(record((16, 64, 112, 112)))
    unknown.machine["cache_bytes"] = None
    try:
        assert {v.met for v in verdicts(unknown) if v.target.place} == {None}
    finally:
        unknown.machine["cache_bytes"] = 32 * 2**20


def test_the_summary_has_a_row_for_each_pass_variant_layout_and_dtype():
    lines = [
        record(torch=2.0, copy=0.5),
        record((16, 512, 7, 7), torch=8.0, copy=0.125),
        record(phase="evaluation"),
        record(act=None, residual=True, torch_compiled=3.0, batchnorm_compiled=1.5),
        record(layout="channels_last", dtype="bfloat16"),
    ]
    rows = summarize(lines)
    assert [(row.phase, row.group, row.layout, row.dtype, row.count) for row in rows] == [
        ("forward_backward", "bn+act", "contiguous", "float32", 2),
        ("forward_backward", "bn+add", "contiguous", "float32", 1),
        ("forward_backward", "bn+act", "channels_last", "bfloat16", 1),
        ("evaluation", "bn+act", "contiguous", "float32", 1),
    ]
    assert (rows[0].torch, rows[0].copies) == (pytest.approx(4), pytest.approx(4))
    assert (rows[0].worst, rows[0].worst_shape, rows[0].torch_compiled) == (2.0, (16, 64, 56, 56), None)
    assert (rows[1].torch_compiled, rows[1].batchnorm_compiled) == (pytest.approx(3), pytest.approx(1.5))
    assert slowest(lines, 1) == [lines[0]]
