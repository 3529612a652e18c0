import errno
import hashlib
import io
import os
import pickle

import pytest
import torch

from batchnorm.lab import checkpoints
from batchnorm.lab.checkpoints import Checkpoints

STATE = {"epoch": 3, "lines": [{"kind": "epoch", "loss": 0.1 + 0.2}], "weights": torch.arange(6.0) / 7}


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def group(tmp_path):
    made = Checkpoints.beside(tmp_path, {"epochs": 3}, after=0.0, apart=0.0)
    with made.kept(()):
        yield made


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if key == "weights" else one[key] == other[key] for key in one
    )


def test_what_was_saved_comes_back_and_the_last_one_counts(group):
    checkpoint = group.of_run("a")
    assert checkpoint.load() is None
    checkpoint.save(STATE | {"epoch": 2})
    checkpoint.save(STATE)
    assert same(group.of_run("a").load(), STATE)
    assert group.of_run("b").load() is None
    assert [path.name for path in group.folder.iterdir()] == [checkpoint.path.name]
    checkpoint.remove()
    assert group.of_run("a").load() is None
    assert group.notes() == []


def rewritten(payload):
    return b"a\n" + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def flipped(raw):
    return raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:]


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return rewritten(buffer.getvalue())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flipped, "is damaged"),
        (lambda raw: raw[: len(raw) // 2], "is damaged"),
        (lambda raw: b"", "is damaged"),
        (lambda raw: b"b" + raw[1:], "is damaged"),
        (lambda raw: rewritten(b"not a file of torch"), "cannot be loaded"),
        (lambda raw: saved([1, 2]), "is not one of this run"),
        (lambda raw: saved({"format": 1, "run": "b", "settings": "", "state": {}}), "is not one of this run"),
        (lambda raw: saved({"format": 0, "run": "a", "settings": "", "state": {}}), "is not one of this run"),
        (lambda raw: saved({"format": 1, "run": "a", "settings": "", "state": {}}), "with other settings"),
    ],
)
def test_one_that_cannot_be_used_is_removed_with_a_note(group, change, said):
    checkpoint = group.of_run("a")
    checkpoint.save(STATE)
    checkpoint.path.write_bytes(change(checkpoint.path.read_bytes()))
    assert group.of_run("a").load() is None
    assert not checkpoint.path.exists()
    (note,) = group.notes()
    assert note.startswith("The checkpoint of a ")
    assert said in note
    assert note.endswith("the run starts again")
    assert "\n" not in note
    assert group.notes() == []


def test_no_code_in_it_is_run(group, tmp_path):
    trap = tmp_path / "trap"
    checkpoint = group.of_run("a")
    checkpoint.path.write_bytes(
        saved({"format": 1, "run": "a", "settings": group.settings, "state": Bomb(trap)})
    )
    assert group.of_run("a").load() is None
    assert not trap.exists()
    checkpoint.path.write_bytes(rewritten(pickle.dumps(Bomb(trap))))
    assert group.of_run("a").load() is None
    assert not trap.exists()
    assert len(group.notes()) == 1  # one a run


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_is_full_leaves_the_one_before_and_a_note(group, monkeypatch, step):
    checkpoint = group.of_run("a")
    checkpoint.save(STATE)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, step, full)
        checkpoint.save(STATE | {"epoch": 4})
    assert same(group.of_run("a").load(), STATE)
    assert group.notes() == ["A checkpoint of a cannot be written: OSError: No space left on device"]
    assert [path.suffix for path in group.folder.iterdir()] == [".ckpt"]


def test_what_cannot_be_stored_is_a_note_too(group):
    group.of_run("a").save({"f": lambda: None})
    (note,) = group.notes()
    assert note.startswith("A checkpoint of a cannot be written: ")


def test_the_first_is_due_some_time_after_the_start_and_the_next_some_time_after_that(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    group = Checkpoints.beside(tmp_path, {})
    assert (group.after, group.apart) == (checkpoints.AFTER, checkpoints.APART)
    with group.kept(()):
        checkpoint, hurried = group.of_run("a"), group.of_run("a", due=True)
        assert (checkpoint.due(), hurried.due()) == (False, True)
        clock[0] += group.after - 1
        assert not checkpoint.due()
        clock[0] += 1
        assert checkpoint.due()
        checkpoint.save(STATE)
        assert not checkpoint.due()
        clock[0] += group.apart
        assert checkpoint.due()
        checkpoint.remove()
    assert not checkpoint.due()  # the folder is gone: nobody would find it


def test_the_folder_lasts_as_long_as_something_is_unfinished(tmp_path):
    group = Checkpoints.beside(tmp_path, {})
    with group.kept(()):
        group.of_run("a").save(STATE)
        group.of_run("b").save(STATE)
        (group.folder / "b-0.77.tmp").write_bytes(b"half")
    assert group.folder.is_dir()
    with group.kept({"a"}):
        assert group.of_run("a").load() is None
        assert same(group.of_run("b").load(), STATE)
        assert len(list(group.folder.iterdir())) == 1
        group.of_run("b").remove()
    assert not group.folder.exists()


def test_names_that_differ_in_what_a_file_name_cannot_hold_are_two_files(group):
    one, other = group.of_run("a/b"), group.of_run("a:b")
    assert one.path.parent == other.path.parent == group.folder
    assert one.path != other.path
    long = group.of_run("x" * 500)
    long.save(STATE)
    assert same(long.load(), STATE)
