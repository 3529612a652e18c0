import pytest

from batchnorm.report.predictions import predictions


def test_disagreements_first_then_mistakes_then_the_rest(view):
    found = predictions(view(samples=60, classes="abc", levels={"none": 0.6, "batch": 0.6}))
    kinds = [row.kind for row in found.rows]
    assert set(kinds) == {"disagreement", "mistake", "right"}
    assert kinds == sorted(kinds, key=["disagreement", "mistake", "right"].index)
    assert found.count("all") == 60
    assert found.count("disagreements") == kinds.count("disagreement")
    assert found.count("mistakes") == sum(any(not g.right for g in row.guesses) for row in found.rows)


def test_each_guess_is_that_of_the_best_rate(view):
    made = view(samples=12)
    found = predictions(made)
    assert [arm.label for arm in found.arms] == ["none", "batch"]
    assert (found.seeds, found.same_seed) == ([0, 0], True)
    run = made.arms[1].best[0]
    assert run.header["lr"] == 0.1
    for row in found.rows:
        guess = row.guesses[1]
        assert guess.name == str(run.prediction["predicted"][row.index])
        assert guess.confidence == pytest.approx(run.prediction["confidence"][row.index])


def test_arms_are_compared_at_the_lowest_seed_that_all_finished(view):
    made = view(lrs=(0.1,), seeds=3, diverge=[("batch", 0.1, 0)])
    assert predictions(made).seeds == [1, 1]


def test_an_arm_without_predictions_has_no_column(view):
    found = predictions(view(diverge=[("none", None, None)]))
    assert [arm.label for arm in found.arms] == ["batch"]
    assert found.rows


def test_tabular_samples_show_features(view):
    found = predictions(view(images=False, classes="ab", samples=3))
    assert not found.has_images
    assert all(len(row.features.split(", ")) == 4 for row in found.rows)


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/a.png",
        "data:image/svg+xml;base64,AAAA",
        'data:image/png;base64,A"onload=',
        "//x",
        5,
        None,
    ],
)
def test_only_png_addresses_become_images(view, address):
    made = view(samples=1)
    made.records.samples[0]["image"] = address
    assert predictions(made).rows[0].image is None


def test_sorting_an_arm_shows_sure_mistakes_first(view):
    found = predictions(view(samples=60, levels={"none": 0.7, "batch": 0.7}))
    guesses = sorted((row.guesses[0] for row in found.rows), key=lambda guess: guess.order)
    wrong = [guess for guess in guesses if not guess.right]
    assert guesses[: len(wrong)] == wrong
    assert [guess.confidence for guess in wrong] == sorted((g.confidence for g in wrong), reverse=True)


def test_no_samples(view):
    found = predictions(view(samples=0))
    assert (found.rows, found.recorded) == ([], 0)
