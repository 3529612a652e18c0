import pytest

from batchnorm.report.view import look
from tests.report.browsing import browser, opened, page  # noqa: F401 (fixtures)
from tests.report.records_factory import Plan, records

HOSTILE = "</script><img src=x onerror='window.pwned=1'>\u2028\"%{x}<!--<script>"
SECTIONS = ["answer", "fairness", "curves", "rates", "distributions", "predictions", "confusion", "cost",
            "provenance"]  # fmt: skip
MANY = tuple(
    (arm, place) for arm in ("batch", "layer", "group", "instance", "local") for place in ("before", "after")
)


@pytest.fixture
def view(tmp_path):
    """Build the view of a plan given by its fields."""
    made = iter(range(100))

    def build(**fields):
        return look(records(tmp_path / f"run{next(made)}", Plan(**fields)))

    return build


@pytest.fixture
def hostile_plan():
    """Everything that a user can name holds markup."""
    return Plan(
        arms=(("none", None), (HOSTILE, HOSTILE), ("batch", "after")),
        classes=(HOSTILE, "b&amp;<b>", "'c'"),
        sites=(HOSTILE, "plain"),
        command=f"batchnorm compare --model '{HOSTILE}'",
        settings={"data": HOSTILE, "model": HOSTILE, HOSTILE: HOSTILE},
    )
