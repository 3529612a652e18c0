import pytest

from batchnorm.bench import apart, run
from batchnorm.bench.apart import MeasurementError, measure_apart
from batchnorm.bench.cases import Case
from batchnorm.bench.harness import Effort

CASE = Case((4, 3, 5, 5), "channels_last", "bfloat16", "relu", True, ("own",))
FAST = Effort(block=1e-6, budget=0, least=2, most=2)


def test_a_process_of_its_own_gives_the_same_records():
    lines = list(measure_apart(CASE, FAST, ["forward", "evaluation"], compile_anything=False))
    assert [(line["case"], line["phase"]) for line in lines] == [
        (CASE.key, "forward"),
        (CASE.key, "evaluation"),
    ]
    assert lines[0]["rounds"] == 2
    assert set(lines[0]["ratios"]) == {"torch", "copy", "warm_copy"}


def test_large_tensors_and_only_they_are_measured_apart(monkeypatch):
    seen = []
    monkeypatch.setattr(run, "measure_apart", lambda case, *_, **__: seen.append(("apart", case.key)) or [])
    monkeypatch.setattr(run, "measure_case", lambda case, *_, **__: seen.append(("here", case.key)) or [])
    large = Case((16, 64, 112, 112), "contiguous", "float32", None, False)
    small = Case((16, 64, 56, 56), "contiguous", "float32", None, False)
    assert list(run.measure([large, small], FAST, set())) == []
    assert seen == [("apart", large.key), ("here", small.key)]


def test_what_goes_wrong_there_is_told_here():
    unknown = Case((4, 3, 5, 5), "contiguous", "float32", "tanh", False)
    with pytest.raises(MeasurementError, match="the process that measured it ended with code 1"):
        list(measure_apart(unknown, FAST, ["forward"], compile_anything=False))


def test_an_error_of_ours_keeps_its_message(monkeypatch, capsys):
    def fail(_):
        raise MeasurementError("they differ")
        yield

    monkeypatch.setattr(apart, "_answer", fail)
    monkeypatch.setattr("sys.argv", ["apart", "{}"])
    apart.main()
    assert capsys.readouterr().out == '{"error": "they differ"}\n'
