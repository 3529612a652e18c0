import pytest

from batchnorm.bench.harness import Effort, Ratio, geometric_mean, interleaved, medians, ratio


class Machine:
    """A clock that only the callables move."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def clock(self):
        return self.now

    def call(self, name, *seconds):
        taken = list(seconds)

        def run():
            self.log.append(name)
            self.now += taken.pop(0) if len(taken) > 1 else taken[0]

        return run


def test_seconds_a_call_are_those_of_the_clock():
    machine = Machine()
    calls = {"a": machine.call("a", 2e-6), "b": machine.call("b", 3e-3)}
    times = interleaved(calls, Effort(budget=0, least=5, most=9), clock=machine.clock)
    assert times == {"a": [pytest.approx(2e-6)] * 5, "b": [pytest.approx(3e-3)] * 5}


def test_a_block_lasts_long_enough_for_the_clock():
    machine = Machine()
    interleaved({"a": machine.call("a", 2e-6)}, Effort(budget=0, least=1, most=1), clock=machine.clock)
    # The last two blocks are the first estimate and the one round, each with calls ahead that are not timed.
    assert len(machine.log) > 2 * (1e-3 / 2e-6)


@pytest.mark.parametrize(("budget", "rounds"), [(0.0, 5), (0.08, 10), (100.0, 25)])
def test_rounds_fill_the_budget_within_bounds(budget, rounds):
    machine = Machine()
    calls = {"a": machine.call("a", 3e-3), "b": machine.call("b", 5e-3)}
    times = interleaved(calls, Effort(budget=budget), clock=machine.clock)
    assert {len(values) for values in times.values()} == {rounds}


def test_calls_that_are_not_timed_warm_the_caches_of_short_calls_only():
    machine = Machine()
    seconds = {"short": 2e-3, "middle": 4e-3, "long": 0.05}
    calls = {name: machine.call(name, taken) for name, taken in seconds.items()}
    times = interleaved(calls, Effort(budget=0, least=2, most=2), clock=machine.clock)
    assert len(times["long"]) == 2
    # The first call and the one that calibrates, then the estimate and two rounds.
    for name, ahead in (("short", 4), ("middle", 2), ("long", 0)):
        assert machine.log.count(name) == 2 + 3 * (ahead + 1)


def test_the_order_within_a_round_changes_from_round_to_round():
    machine = Machine()
    calls = {name: machine.call(name, 0.05) for name in "abc"}
    interleaved(calls, Effort(budget=0, least=20, most=20), clock=machine.clock)
    rounds = ["".join(machine.log[-3 * k : len(machine.log) - 3 * (k - 1)]) for k in range(1, 21)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 3


def test_a_slow_spell_of_the_machine_moves_no_ratio():
    ours = [1e-3, 1e-3, 9e-3, 1e-3, 1e-3]
    theirs = [4 * value for value in ours]
    assert ratio(theirs, ours) == Ratio(pytest.approx(4), pytest.approx(4), pytest.approx(4))


def test_ratios_are_taken_round_by_round_with_quartiles():
    found = ratio([2.0, 4.0, 6.0, 8.0, 30.0], [1.0, 1.0, 1.0, 1.0, 3.0], scale=0.5)
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)
    assert ratio([3.0], [2.0]) == Ratio(1.5, 1.5, 1.5)


def test_medians_and_means():
    assert medians({"a": [3.0, 1.0, 2.0]}) == {"a": 2.0}
    assert geometric_mean([1.0, 4.0, 16.0]) == pytest.approx(4.0)
    assert geometric_mean([]) is None
