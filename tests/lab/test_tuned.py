from batchnorm.lab.tuned import accuracies, best_rate


def line(seed, lr, validation, arm="batch"):
    test = None if validation is None else 1 - validation
    return {"arm": arm, "seed": seed, "lr": lr, "validation": validation, "test": test}


LINES = [
    line(0, 0.1, 0.5),
    line(1, 0.1, 0.75),
    line(0, 0.2, 0.25),
    line(1, 0.2, 0.9),
    line(0, 0.3, 0.99),
    line(1, 0.3, None),
    line(0, 0.4, 0.99, arm="none"),
]


def test_the_mean_over_seeds_decides_and_one_that_diverged_is_out():
    assert best_rate(LINES, arm="batch") == 0.1
    assert accuracies(LINES, arm="batch") == {0: 0.5, 1: 0.25}
    assert accuracies(LINES, "validation", arm="none") == {0: 0.99}


def test_of_equals_the_smaller_rate_is_chosen():
    assert best_rate([line(0, 0.2, 0.5), line(0, 0.1, 0.5)], arm="batch") == 0.1


def test_without_a_rate_that_trained_there_is_nothing():
    lost = [line(0, 0.1, None), line(1, 0.1, 0.9)]
    assert best_rate(lost, arm="batch") is None
    assert accuracies(lost, arm="batch") == {}
    assert best_rate(LINES, arm="layer") is None
