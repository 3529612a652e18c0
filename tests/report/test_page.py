import dataclasses
import itertools
import os
import re
import subprocess
import sys

import pytest

from batchnorm.errors import StoreError
from batchnorm.records import Records, Run, Store, read
from batchnorm.report import page as page_module
from batchnorm.report import render, write
from batchnorm.report.provenance import settings_table
from batchnorm.report.view import Detail, look
from tests.report.conftest import HOSTILE, MANY, SECTIONS
from tests.report.records_factory import Plan, records, write_records

PLANS = {
    "usual": Plan(),
    "no run": Plan(finished=0),
    "one run": Plan(finished=1),
    "cut off": Plan(finished=11),
    "only none": Plan(arms=[("none", None)]),
    "only batch": Plan(arms=[("batch", "after")]),
    "no baseline": Plan(arms=[("layer", "after"), ("batch", "after")]),
    "all diverged": Plan(diverge=[("none", None, None), ("batch", None, None)]),
    "none diverged": Plan(diverge=[("none", None, None)]),
    "one rate, one seed": Plan(lrs=(0.1,), seeds=1),
    "tabular": Plan(images=False, classes=("setosa", "versicolor", "virginica")),
    "no samples": Plan(samples=0),
    "no sites": Plan(sites=()),
    "own norms": Plan(arms=[("none", None), ("batch", "own")]),
    "one epoch": Plan(epochs=1),
    "eleven arms": Plan(arms=(("none", None), *MANY), seeds=2, lrs=(0.1,), sites=("a",)),
    "many classes": Plan(classes=[f"class {i}" for i in range(40)], samples=80, seeds=2),
}


def visible(page):
    """The markup without scripts, styles and their data."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize("name", PLANS)
def test_every_kind_of_records_gives_a_page_with_all_sections(tmp_path, name):
    page = render(records(tmp_path, PLANS[name]))
    assert re.findall(r'<section id="(\w+)"', page) == SECTIONS
    assert len(page.encode()) <= 8_000_000
    text = visible(page)
    assert not re.search(r"\bNone\b(?! of)|\bnan\b|Undefined|\{\{|Interval\(", text)


def test_arms_that_need_a_line_get_one_and_others_none(tmp_path):
    arms = [("none", None), ("batch", "after"), ("ghost", "after"), ("recurrent", "own")]
    text = visible(render(records(tmp_path, Plan(arms=arms))))
    explained = re.findall(r'<p class="note"><strong>(\w+)</strong>: (.+?)</p>', text)
    assert [arm for arm, _ in explained] == ["ghost", "recurrent"]
    assert "running statistics of each time step" in explained[1][1]


def test_headings_are_in_order(tmp_path):
    levels = [int(level) for level in re.findall(r"<h([1-6])\b", render(records(tmp_path)))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_element_ids_are_unique(tmp_path):
    ids = re.findall(r'\bid="([^"]+)"', visible(render(records(tmp_path))))
    assert len(ids) == len(set(ids))


def test_same_records_give_the_same_bytes(tmp_path):
    made = records(tmp_path)
    assert render(made) == render(made)
    assert render(read(tmp_path)) == render(made)


def test_the_bytes_do_not_depend_on_hash_seed_or_place(tmp_path):
    folder = write_records(tmp_path / "a", Plan(diverge=[("none", 1.0, None)]))
    code = """
import hashlib, sys
from batchnorm.report import write
print(hashlib.sha256(write(sys.argv[1]).read_bytes()).hexdigest())
"""
    digests = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONHASHSEED": seed},
        )  # fmt: skip
        digests.add(done.stdout.strip())
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_the_order_in_which_runs_ended_does_not_matter(tmp_path):
    made = records(tmp_path)
    other = dataclasses.replace(made, runs=dict(reversed(made.runs.items())))
    assert render(other) == render(made)


def test_rendering_loads_no_torch(tmp_path):
    folder = write_records(tmp_path / "run")
    code = """
import sys
import batchnorm.report
batchnorm.report.write(sys.argv[1])
print(sorted({"torch", "lightning", "torchmetrics", "sklearn"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_markup_in_names_is_shown_and_never_run(tmp_path, hostile_plan):
    page = render(records(tmp_path, hostile_plan))
    assert HOSTILE not in page
    assert "<img src=x" not in page
    # The only script elements are the ones of the template, each closed.
    own = render(
        records(tmp_path / "plain", dataclasses.replace(hostile_plan, arms=(("none", None),), classes="ab"))
    )
    names = [re.findall(r"<script(?: [^>]*)?>", text)[-3:] for text in (page, own)]
    assert names[0] == names[1]
    assert "&lt;img src=x onerror=&#39;window.pwned=1&#39;&gt;" in visible(page)
    assert "\u2028" not in "".join(
        re.findall(r'<script type="application/json".*?</script>', page, flags=re.DOTALL)
    )


def test_an_image_that_is_no_png_address_is_not_loaded(tmp_path):
    made = records(tmp_path)
    made.samples[0]["image"] = "https://example.org/x.png"
    made.samples[1]["image"] = 'data:image/png;base64,AAAA"onerror="alert(1)'
    page = render(made)
    assert "example.org" not in page
    assert "onerror" not in visible(page)


def test_nothing_in_the_markup_points_to_the_network(tmp_path):
    page = visible(render(records(tmp_path)))
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith(("#", "data:"))
    assert "default-src 'none'" in page


def test_lines_without_numbers_do_not_break_the_page():
    lines = [{"epoch": None, "val_accuracy": None}, {}, {"epoch": 1, "val_loss": "high"}]
    activations = [
        {"site": "a", "where": "input", "epoch": 0, "p15": None, "histogram": {"edges": [1], "counts": []}}
    ]
    prediction = {"index": [0, None], "predicted": [None], "confidence": None}
    runs = {}
    for arm, place in (("none", None), ("batch", "after")):
        header = {"run": arm, "arm": arm, "placement": place, "lr": 0.1, "seed": 0, "sites": None}
        final = {"kind": "final", "confusion": [[None]], "test_accuracy": None}
        runs[arm] = Run(header, lines, activations, prediction, final)
    made = Records(
        {"settings": {}}, {"class_names": ["a"]}, [{"index": 0, "label": 0}, {"index": None}], runs
    )
    assert "What did normalization do?" in render(made)
    assert "What did normalization do?" in render(Records({}))


def test_a_command_with_bytes_that_are_not_utf8_can_be_written(tmp_path):
    write_records(tmp_path, Plan(command=os.fsdecode(b"batchnorm compare --model m\xff.py:f"), finished=0))
    assert "--model m?.py:f" in write(tmp_path).read_text(encoding="utf-8")


def test_write_replaces_the_old_page_and_leaves_nothing_else(tmp_path):
    write_records(tmp_path)
    (tmp_path / "report.html").write_text("old")
    path = write(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == render(read(tmp_path))
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name != ".lock") == [
        "report.html",
        "results.jsonl",
    ]
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_store_accepts_a_folder_that_has_a_page(tmp_path):
    folder = write_records(tmp_path / "run")
    write(folder)
    with Store(folder, read(folder).config) as store:
        assert len(store.records.runs) == 18


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_records(tmp_path)
    (tmp_path / "report.html").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page_module.os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write '.*report.html': No space left on device"):
        write(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
    assert not list(tmp_path.glob(".report-*"))


def test_write_without_results(tmp_path):
    with pytest.raises(StoreError, match="cannot read"):
        write(tmp_path)


def test_a_page_that_grows_too_large_shows_less_and_says_so(tmp_path, monkeypatch):
    made = records(tmp_path, Plan(samples=60))
    whole = len(render(made).encode())
    monkeypatch.setattr(page_module, "DETAILS", (page_module.DETAILS[0], Detail(10, 3, 1)))
    monkeypatch.setattr(page_module, "MAX_BYTES", whole - 1)
    page = render(made)
    assert len(page.encode()) < whole
    assert "10 test samples of 60 recorded" in page
    assert "fewer samples, epochs or layers than the records hold" in page


def test_the_largest_plan_stays_below_8_mb(tmp_path):
    plan = Plan(
        arms=(("none", None), *MANY),
        seeds=2,
        lrs=(0.1,),
        samples=400,
        sites=[f"s{i}" for i in range(20)],
        epochs=6,
    )
    assert len(render(records(tmp_path, plan)).encode()) <= 8_000_000


def test_a_figure_for_every_script_that_draws_one(tmp_path):
    page = render(records(tmp_path))
    plots = re.findall(r'id="plot-([\w-]+)"', page)
    assert plots == [
        "accuracy",
        "loss",
        "rates",
        "percentiles",
        "histograms",
        "confusion-0",
        "confusion-1",
        "cost",
    ]
    assert re.findall(r'id="json-([\w-]+)"', page) == plots


def test_a_missing_extra_is_named_with_its_install_command():
    code = """
import sys
sys.modules["jinja2"] = None
try:
    import batchnorm.report
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("MissingExtraError the report needs jinja2"), done.stderr
    assert "pip install 'batchnorm[lab]'" in done.stdout


@pytest.mark.parametrize(
    ("model", "value"),
    [
        ("lenet", "none: the model comes with batchnorm"),
        ("mine.py:build", "not recorded"),
        (None, "not recorded"),
    ],
)
def test_a_built_in_model_needs_no_digest(tmp_path, model, value):
    made = look(records(tmp_path, Plan(finished=0, settings={"model": model})))
    assert ["model_digest", value] in settings_table(made).rows


def test_without_scripts_every_table_is_readable(tmp_path):
    assert "<noscript><style>[data-when][hidden] { display: block !important; }" in render(records(tmp_path))
