import re

from batchnorm.bench.digest import answer, compiled_rows, digest, misses, not_run, summary_rows, target_rows
from batchnorm.bench.page import render, write
from tests.bench.records_factory import record, results, step

FILE = results(
    record(torch=4.5),
    record((16, 512, 7, 7), torch=0.8),
    record(act=None, torch=3.5),
    record(phase="evaluation", torch_compiled=2.0, batchnorm_compiled=0.5),
    record(layout="channels_last", residual=True),
    step(),
)


def test_the_answer_comes_from_the_records():
    sentences = answer(FILE)
    assert sentences[0].startswith(
        "BN and its activation, forward and backward, NCHW float32: 1.90 times as fast as"
    )
    assert "(geometric mean of 2 shapes), worst 0.800 at (16, 512, 7, 7)" in sentences[0]
    assert sentences[1].startswith(
        "BN alone, forward and backward, NCHW float32: 3.50 times as fast as torch"
    )
    assert re.search(r"^\d of \d+ targets that could be judged are met\.$", sentences[2])


def test_a_busy_machine_is_told():
    busy = answer(results(record(waiting=0.5), record(act=None)))
    assert any("took the cores during 1 of 2 measurements: those numbers are unrel" in text for text in busy)
    assert not any("cores" in sentence for sentence in answer(FILE))


def test_rows_say_what_was_asked_measured_and_missed():
    rows = {row[0]: row[1:] for row in target_rows(FILE)}
    assert rows["training, BN+act, NCHW float32"] == (">= 4", "1.90", "2.11", "missed by 53%", "2")
    assert rows["training, BN alone, NCHW float32"] == (">= 3", "3.50", "3.89", "met", "1")
    assert rows["every shape and pass"][:4] == (">= 1 (0.95)", "0.800", "", "missed by 20%")
    assert rows["step of MobileNetV2, NCHW float32"] == (">= 1.25", "-", "", "not run", "0")
    assert any("1 of 5 miss it, worst 0.800 at 16x512x7x7" in sentence for sentence in misses(FILE))
    assert list(summary_rows(FILE)) == ["Training: forward and backward", "Evaluation"]
    assert compiled_rows(FILE) == [("BN+act, NCHW float32, evaluation", "1", "2.00", "4.00", "2.00")]
    assert not_run(FILE) == []


def test_the_digest_holds_everything():
    found = digest(FILE)
    assert len(found["cases"]) == 5
    assert len(found["steps"]) == 1
    assert {"machine", "settings", "command", "summary", "targets"} <= set(found)
    assert {target["met"] for target in found["targets"]} == {True, False, None}


def test_the_page_shows_the_same_and_asks_the_network_for_nothing(tmp_path):
    page = render(FILE)
    assert render(FILE) == page
    shown = page.replace("\u00a0", " ")
    for text in (
        answer(FILE)[0],
        "missed by 53%",
        "ResNet-18, 16, NCHW float32",
        "<code>batchnorm bench</code>",
    ):
        assert text in shown
    assert "default-src 'none'" in page
    body = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "://" not in body
    path = write(FILE, tmp_path)
    assert path.read_text(encoding="utf-8") == page
    assert [each.name for each in tmp_path.iterdir()] == ["bench.html"]


def test_what_did_not_run_is_told_with_its_reason():
    reason = {"torch_compiled": "RuntimeError: no C++ compiler"}
    file = results(record(not_run=reason), record(phase="evaluation", not_run=reason))
    assert not_run(file) == ["torch compiled: RuntimeError: no C++ compiler"]
    assert render(file).count("Not run: torch compiled: RuntimeError: no C++ compiler") == 1


def test_every_link_of_the_contents_has_its_section():
    page = render(FILE)
    links = re.findall(r'<li><a href="#([\w-]+)"', page)
    assert links == re.findall(r'<section id="([\w-]+)"', page)
    assert len(re.findall(r'class="plot"', page)) == 2
