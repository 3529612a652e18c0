import json
import math
import os
import subprocess
import sys
import textwrap

import pytest

from batchnorm.errors import StoreError
from batchnorm.records import Store, read

CONFIG = {"kind": "config", "schema": 1, "settings": {"data": "digits", "lrs": [0.1]}}


def lines_of(run, accuracy=0.9):
    common = {"run": run, "arm": "batch", "placement": "after", "lr": 0.1, "seed": 0}
    return [
        {"kind": "run", **common, "parameters": 10},
        {"kind": "epoch", **common, "epoch": 1, "val_accuracy": accuracy},
        {"kind": "activation", **common, "epoch": 1, "site": "a", "where": "input"},
        {"kind": "prediction", **common, "index": [0], "predicted": [1], "confidence": [0.5]},
        {"kind": "final", **common, "test_accuracy": accuracy, "diverged": False},
    ]


@pytest.fixture
def folder(tmp_path):
    with Store(tmp_path / "out", CONFIG) as store:
        store.append(lines_of("one"))
    return tmp_path / "out"


def raw(folder):
    return (folder / "results.jsonl").read_bytes()


def damage(folder, data):
    (folder / "results.jsonl").write_bytes(data)


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True, timeout=60
    )


def test_a_run_comes_back_with_all_its_lines(folder):
    run = read(folder).runs["one"]
    assert [line["kind"] for line in lines_of("one")] == [
        run.header["kind"], *(line["kind"] for line in [*run.epochs, *run.activations]),
        run.prediction["kind"], run.final["kind"],
    ]  # fmt: skip
    assert read(folder).config == CONFIG


def test_data_and_samples(tmp_path):
    with Store(tmp_path, CONFIG) as store:
        store.append([{"kind": "data", "name": "old"}, {"kind": "sample", "index": 1}])
        store.append([{"kind": "data", "name": "new"}, {"kind": "sample", "index": 2}])
    records = read(tmp_path)
    assert records.data["name"] == "new"
    assert [line["index"] for line in records.samples] == [2]


def test_opening_again_goes_on_behind_what_is_there(folder):
    before = raw(folder)
    with Store(folder, CONFIG) as store:
        assert list(store.records.runs) == ["one"]
        store.append(lines_of("two"))
    assert raw(folder).startswith(before)
    assert list(read(folder).runs) == ["one", "two"]


def test_a_run_without_its_final_line_does_not_count(folder):
    with Store(folder, CONFIG) as store:
        store.append(lines_of("two")[:-1])
        store.append(lines_of("three"))
    assert list(read(folder).runs) == ["one", "three"]


def test_of_two_runs_with_one_name_the_first_counts(folder):
    with Store(folder, CONFIG) as store:
        store.append(lines_of("one", accuracy=0.1))
    assert read(folder).runs["one"].final["test_accuracy"] == 0.9


def test_lines_of_another_run_are_not_mixed_in(folder):
    with Store(folder, CONFIG) as store:
        two = lines_of("two")
        store.append([two[0], *lines_of("other")[1:3], *two[1:]])
    assert len(read(folder).runs["two"].epochs) == 1


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_last_line_is_ignored_then_closed(folder, cut):
    whole = raw(folder)
    damage(folder, whole + json.dumps(lines_of("two")[0]).encode()[:cut])
    assert list(read(folder).runs) == ["one"]
    with Store(folder, CONFIG) as store:
        assert list(store.records.runs) == ["one"]
        store.append(lines_of("two"))
    assert list(read(folder).runs) == ["one", "two"]
    assert b'\n{"kind":"resumed"}\n' in raw(folder)


def test_every_length_of_the_file_can_be_continued(folder):
    """Killed at any moment: whatever was on disk by then, the next start reads it and goes on."""
    whole = raw(folder)
    for size in range(len(whole)):
        damage(folder, whole[:size])
        with Store(folder, CONFIG) as store:
            store.append(lines_of("two"))
        assert list(read(folder).runs)[-1] == "two"


def test_a_last_line_that_lacks_only_its_end_is_kept(folder):
    damage(folder, raw(folder).rstrip(b"\n"))
    with Store(folder, CONFIG) as store:
        assert list(store.records.runs) == ["one"]
        store.append(lines_of("two"))
    assert list(read(folder).runs) == ["one", "two"]


@pytest.mark.parametrize("closing", [b"\n", b'\n{"kind":"resu', b'\n{"ki\n{"kind":"resumed"', b"\n\n"])
def test_killed_while_closing_a_torn_line(folder, closing):
    damage(folder, raw(folder) + b'{"kind":"ru' + closing)
    assert list(read(folder).runs) == ["one"]
    with Store(folder, CONFIG) as store:
        store.append(lines_of("two"))
    assert list(read(folder).runs) == ["one", "two"]


@pytest.mark.parametrize("bad", [b"not json", b"[1, 2]", b'{"no": "kind"}', b"\xff\xfe", b"\x00" * 8, b""])
def test_damage_in_the_middle_is_refused_and_named(folder, bad):
    first, rest = raw(folder).split(b"\n", 1)
    broken = first + b"\n" + bad + b"\n" + rest
    damage(folder, broken)
    with pytest.raises(StoreError, match=r"is damaged: line 2 is not a record"):
        read(folder)
    with pytest.raises(StoreError, match="line 2"), Store(folder, CONFIG):
        pass
    assert raw(folder) == broken


def test_two_bad_lines_are_damage_even_before_a_resumed_line(folder):
    first, rest = raw(folder).split(b"\n", 1)
    damage(folder, first + b'\nnot json\nnor this\n{"kind":"resumed"}\n' + rest)
    with pytest.raises(StoreError, match="line 2 is not a record"):
        read(folder)


def test_each_group_of_lines_is_on_disk_before_append_returns(folder, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(raw(folder)))
    with Store(folder, CONFIG) as store:
        store.append(lines_of("two"))
        assert synced == [raw(folder)]


def test_numbers_that_are_not_finite_become_null(folder):
    with Store(folder, CONFIG) as store:
        lines = lines_of("two")
        lines[1]["val_loss"] = math.inf
        lines[-1]["confusion"] = [[1, -math.inf], (math.nan, 2)]
        store.append(lines)
    run = read(folder).runs["two"]
    assert run.epochs[0]["val_loss"] is None
    assert run.final["confusion"] == [[1, None], [None, 2]]
    assert b"NaN" not in raw(folder)
    assert b"Infinity" not in raw(folder)


def test_text_of_any_script_and_line_separators_stay_on_one_line(folder):
    name = '猫 \u2028 \x85 </script> " \\ \n'
    with Store(folder, CONFIG) as store:
        store.append([{"kind": "data", "class_names": [name]}])
    assert read(folder).data["class_names"] == [name]


def test_a_command_with_bytes_that_are_not_utf8(tmp_path):
    with Store(tmp_path, CONFIG | {"command": os.fsdecode(b"compare --model m\xff.py:f")}):
        pass
    assert os.fsencode(read(tmp_path).config["command"]) == b"compare --model m\xff.py:f"


def test_results_of_other_settings_are_refused_and_left_alone(folder):
    before = raw(folder)
    other = CONFIG | {"settings": {"data": "mnist", "lrs": [0.1]}}
    with pytest.raises(StoreError, match=r"data is 'digits' there and 'mnist' here; choose another --out"):
        Store(folder, other).__enter__()
    assert raw(folder) == before
    with Store(folder, CONFIG):  # the lock was given back
        pass


def test_settings_agree_after_a_round_trip_through_json(folder):
    with Store(folder, CONFIG | {"settings": {"lrs": (0.1,), "data": "digits"}}) as store:
        assert list(store.records.runs) == ["one"]


def test_a_further_setting_is_another_configuration(folder):
    with pytest.raises(StoreError, match=r"dropout is None there and 0\.5 here"):
        Store(folder, CONFIG | {"settings": {**CONFIG["settings"], "dropout": 0.5}}).__enter__()


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"is not empty and holds no results \('thesis.tex' is there\)"):
        Store(tmp_path, CONFIG).__enter__()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(StoreError, match="cannot write to"):
        Store(path, CONFIG).__enter__()


def test_a_second_writer_is_refused_while_the_first_is_open(folder):
    code = """
        import json, sys
        from batchnorm.errors import StoreError
        from batchnorm.records import Store
        try:
            with Store(sys.argv[1], json.loads(sys.argv[2])):
                print("opened")
        except StoreError as error:
            print(error)
        """
    with Store(folder, CONFIG):
        assert (
            "is being written by another process" in run_python(code, str(folder), json.dumps(CONFIG)).stdout
        )
    assert run_python(code, str(folder), json.dumps(CONFIG)).stdout.strip() == "opened"


def test_the_lock_of_a_killed_process_does_not_stay(folder):
    code = """
        import json, os, signal, sys
        from batchnorm.records import Store
        Store(sys.argv[1], json.loads(sys.argv[2])).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
        """
    assert run_python(code, str(folder), json.dumps(CONFIG)).returncode == -9
    with Store(folder, CONFIG) as store:
        assert list(store.records.runs) == ["one"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
def test_a_full_disk_is_one_clear_line(tmp_path):
    (tmp_path / "results.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"cannot write to '.*': No space left on device"):
        Store(tmp_path, CONFIG).__enter__()


def test_a_disk_that_fills_up_midway_loses_only_the_run_being_written(folder):
    code = """
        import json, resource, sys
        from batchnorm.errors import StoreError
        from batchnorm.records import Store
        with Store(sys.argv[1], json.loads(sys.argv[2])) as store:
            limit = int(sys.argv[3])
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                store.append([{"kind": "run", "run": "two", "filler": "x" * 4096}])
            except StoreError as error:
                print(error)
        """
    done = run_python(code, str(folder), json.dumps(CONFIG), str(len(raw(folder)) + 100))
    assert "cannot write to" in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert list(read(folder).runs) == ["one"]
    with Store(folder, CONFIG) as store:
        store.append(lines_of("two"))
    assert list(read(folder).runs) == ["one", "two"]


def test_reading_what_is_not_there_or_not_ours(tmp_path):
    with pytest.raises(StoreError, match="cannot read"):
        read(tmp_path)
    damage(tmp_path, b"")
    with pytest.raises(StoreError, match="holds no results yet"):
        read(tmp_path)
    damage(tmp_path, b'{"kind":"event"}\n')
    with pytest.raises(StoreError, match="does not start with a config line"):
        read(tmp_path)
    damage(tmp_path, b'{"kind":"config","schema":99,"settings":{}}\n')
    with pytest.raises(StoreError, match="has schema 99; this version reads schema 1"):
        read(tmp_path)


def test_writing_after_closing_is_refused(folder):
    store = Store(folder, CONFIG)
    with store:
        pass
    with pytest.raises(StoreError, match="is not open for writing"):
        store.append(lines_of("two"))


def test_unknown_kinds_are_skipped(folder):
    with Store(folder, CONFIG) as store:
        store.append([{"kind": "weather", "sun": True}, *lines_of("two")])
    assert list(read(folder).runs) == ["one", "two"]


def test_reading_loads_no_torch():
    code = """
        import sys, batchnorm.records, batchnorm.records.summary
        print(sorted({"torch", "lightning", "sklearn", "pandas"} & set(sys.modules)))
        """
    assert run_python(code).stdout.strip() == "[]"
