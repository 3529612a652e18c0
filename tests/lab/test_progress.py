import pickle

from batchnorm.lab.progress import ProgressFile


def test_lines_of_several_writers_are_read_once_each(tmp_path):
    file = ProgressFile(tmp_path)
    assert file.news() == []
    other = pickle.loads(pickle.dumps(file.writer))
    file.writer({"run": "a", "epoch": 1})
    other({"run": "b", "epoch": 1})
    assert file.news() == [{"run": "a", "epoch": 1}, {"run": "b", "epoch": 1}]
    assert file.news() == []
    other({"run": "b", "epoch": 2})
    assert file.news() == [{"run": "b", "epoch": 2}]


def test_a_line_that_is_being_written_waits_and_a_torn_one_hurts_nobody(tmp_path):
    file = ProgressFile(tmp_path)
    file.path.write_bytes(b'{"run": "a"}\n{"run"')
    assert file.news() == [{"run": "a"}]
    with open(file.path, "ab") as out:
        out.write(b'\n{"run": "c"}\n')
    assert file.news() == [{"run": "c"}]


def test_where_nothing_can_be_written_training_goes_on(tmp_path):
    file = ProgressFile(tmp_path / "gone")
    file.writer({"run": "a"})
    assert file.news() == []


def test_a_file_that_was_removed_does_not_come_back(tmp_path):
    file = ProgressFile(tmp_path)
    file.path.unlink()
    file.writer({"run": "a"})
    assert list(tmp_path.iterdir()) == []
