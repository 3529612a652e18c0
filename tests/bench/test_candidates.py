import pytest
import torch

from batchnorm.bench.candidates import Disagreement, Workbench
from batchnorm.bench.cases import PHASES, Case
from batchnorm.bench.harness import Effort
from batchnorm.bench.run import measure
from batchnorm.bench.settings import ACTIVATIONS
from batchnorm.bench.single import ATTEMPTS, measure_case, undisturbed
from batchnorm.bench.waiting import waited

FAST = Effort(block=1e-6, budget=0, least=2, most=2)


def case(
    shape=(4, 3, 5, 5), act="relu", residual=False, layout="contiguous", dtype="float32", compiled=False
):
    return Case(shape, layout, dtype, act, residual, ("own",), compiled)


CASES = [
    case((8, 3)),
    case((4, 3, 7), "silu"),
    case(residual=True),
    case(act=None, residual=True),
    case(layout="channels_last", dtype="bfloat16", act="relu6"),
    *(case(act=act) for act in ACTIVATIONS),
]


@pytest.mark.parametrize("which", CASES, ids=[each.key for each in CASES])
def test_every_candidate_of_every_phase_runs_and_ours_agrees_with_torch(which):
    bench = Workbench(which)
    bench.check()
    for phase in PHASES:
        calls = bench.calls(phase)
        assert list(calls) == ["torch", "batchnorm", "copy", "warm_copy"]
        for call in calls.values():
            call()


def test_layout_and_dtype_are_what_was_asked():
    bench = Workbench(case(layout="channels_last", dtype="bfloat16"))
    assert bench.x.is_contiguous(memory_format=torch.channels_last)
    assert bench.x.dtype == bench.grad.dtype == torch.bfloat16
    assert bench.ours.weight.dtype == torch.float32
    assert bench.calls("forward")["copy"]().stride() == bench.x.stride()


def test_forward_builds_a_graph_and_evaluation_does_not():
    bench = Workbench(case())
    assert bench.calls("forward")["batchnorm"]().requires_grad
    bench.calls("forward_backward")["batchnorm"]()
    assert bench.x.grad is not None
    bench.calls("evaluation")["torch"]()
    assert bench.x.grad is None
    assert not bench.ours.training
    assert not bench.x.requires_grad


def test_results_that_differ_stop_the_run():
    bench = Workbench(case())
    with torch.no_grad():
        bench.ours.bias += 0.5
    with pytest.raises(Disagreement, match=r"4x3x5x5 contiguous float32 bn\+relu: output differs"):
        bench.check()


def test_a_record_for_each_phase_with_every_ratio():
    lines = list(measure_case(case(residual=True), FAST))
    assert [(line["phase"], line["copies"]) for line in lines] == [
        ("forward", 1.5), ("forward_backward", 4.0), ("evaluation", 1.5)
    ]  # fmt: skip
    for line in lines:
        assert set(line["ratios"]) == {"torch", "copy", "warm_copy"}
        assert line["working_set"] == {"forward_backward": 5}.get(line["phase"], 3) * line["bytes"]
        assert all(value > 0 for value in line["seconds"].values())


def test_what_is_there_is_not_measured_again():
    told = []
    which = case()
    done = {(which.key, phase) for phase in ("forward", "evaluation")}
    lines = list(measure([which, case((8, 3))], FAST, done, tell=told.append))
    assert [line["phase"] for line in lines] == ["forward_backward", *PHASES]
    assert told == [which.key, case((8, 3)).key]


def test_a_compiler_that_fails_is_reported_and_not_fatal(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("\nno C++ compiler\nmore")

    monkeypatch.setattr(torch, "compile", broken)
    lines = list(measure_case(case(compiled=True), FAST))
    reason = "RuntimeError: no C++ compiler"
    for line in lines:
        expected = (
            {} if line["phase"] == "forward" else {"torch_compiled": reason, "batchnorm_compiled": reason}
        )
        assert line["not_run"] == expected
        assert "torch_compiled" not in line["ratios"]


def test_compiling_can_be_switched_off(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    lines = list(measure_case(case(compiled=True), FAST, ["evaluation"], compile_anything=False))
    assert lines[0]["not_run"]["torch_compiled"] == "switched off"


def test_compiled_candidates_are_timed_beside_the_eager_ones(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    for line in measure_case(case(compiled=True), FAST):
        assert set(line["ratios"]) == {"torch", "torch_compiled", "batchnorm_compiled", "copy", "warm_copy"}
        assert line["not_run"] == {}


def quietest(*shares):
    """What `undisturbed` makes of attempts of one second each that waited so long for a core."""
    waits, attempts = [], []
    for share in shares:
        waits += [0.0, share]
    moments = iter(range(100))

    def attempt():
        attempts.append(len(attempts))
        return {"batchnorm": [float(attempts[-1])]}

    times, share = undisturbed(attempt, waited=lambda: waits.pop(0), clock=lambda: float(next(moments)))
    return times["batchnorm"][0], share, len(attempts)


def test_a_disturbed_measurement_is_repeated_and_the_quietest_kept():
    assert quietest(0.02, 0.0, 0.0) == (0.0, 0.02, 1)
    assert quietest(0.9, 0.05, 0.0) == (1.0, 0.05, 2)
    assert quietest(0.9, 0.3, 0.5) == (1.0, 0.3, ATTEMPTS)


def test_where_the_system_does_not_tell_one_attempt_has_to_do():
    attempts = []
    assert undisturbed(lambda: attempts.append(1) or {}, waited=lambda: None) == ({}, None)
    assert attempts == [1]


def test_waiting_only_grows():
    first = waited()
    assert first is None or 0 <= first <= waited()
