import hashlib
import random
import sys
import textwrap

import joblib
import pytest
import torch

from batchnorm.errors import DataError, ModelError
from batchnorm.lab.targets import importable, load_target, source_digest


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return str(tmp_path / name)

    return write


def test_file_and_module_targets(write):
    path = write("net.py", "def make(): return 7\nclass A:\n    b = 3\n")
    assert load_target(f"{path}:make")() == 7
    assert load_target("net.py:A.b") == 3
    assert load_target("math:pi") == pytest.approx(3.14159, abs=1e-5)


def test_package_in_the_current_folder(write):
    write("homegrown_nets.py", "def make(): return 'here'")
    assert load_target("homegrown_nets:make")() == "here"


def test_siblings_import_and_the_path_is_put_back(write):
    write("blocks_next_door.py", "WIDTH = 12")
    path = write("net.py", "from blocks_next_door import WIDTH\ndef make(): return WIDTH\n")
    before = list(sys.path)
    assert load_target(f"{path}:make")() == 12
    assert sys.path == before


def test_import_inside_the_function(write):
    write("late_neighbour.py", "WIDTH = 13")
    path = write("net.py", "def make():\n    import late_neighbour\n    return late_neighbour.WIDTH\n")
    make = load_target(f"{path}:make")
    with importable(f"{path}:make"):
        assert make() == 13


def test_same_text_is_loaded_once_and_a_changed_file_again(write):
    path = write("net.py", "class Net: pass")
    first = load_target(f"{path}:Net")
    assert load_target(f"{path}:Net") is first
    assert sys.modules[first.__module__].Net is first
    write("net.py", "class Net: changed = True")
    assert load_target(f"{path}:Net").changed


def test_two_files_of_one_name_stay_apart(write, tmp_path):
    (tmp_path / "other").mkdir()
    write("net.py", "WHO = 'first'")
    write("other/net.py", "WHO = 'second'")
    assert [load_target(f"{p}:WHO") for p in ("net.py", "other/net.py")] == ["first", "second"]


def test_dataclasses_and_workers(write):
    path = write(
        "net.py",
        """
        from dataclasses import dataclass
        @dataclass
        class Width:
            value: "int" = 5
        def make(): return Width().value
        """,
    )

    def work(target):
        return load_target(target)()

    assert joblib.Parallel(n_jobs=2)(joblib.delayed(work)(f"{path}:make") for _ in range(2)) == [5, 5]


def test_loading_draws_nothing(write):
    path = write("net.py", "import random, torch\nrandom.random()\ntorch.randn(3)\nX = 1\n")
    states = random.getstate(), torch.get_rng_state()
    load_target(f"{path}:X")
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("net.py", "write net.py:name"),
        ("nothing", "expected file.py:name or package.module:name"),
        ("net.py:", "expected file.py:name"),
        ("absent.py:make", "there is no file 'absent.py'"),
        ("net.py:mak", "has no 'mak'; it has Net, WIDTH, make"),
        ("no_such_package_here.sub:x", "there is no module 'no_such_package_here'"),
        ("broken.py:x", "loading it raised ZeroDivisionError: division by zero"),
        ("broken.py:x", "broken.py, line 3)"),
        ("syntax.py:x", "SyntaxError: "),
        ("leaves.py:x", "SystemExit: 3"),
        ("needs.py:x", "ModuleNotFoundError: No module named 'not_installed_at_all'"),
        ("empty.py:x", "it has no public names"),
        ("net.py:WIDTH", "expected something to call, got a int"),
    ],
)
@pytest.mark.parametrize("error", [ModelError, DataError])
def test_bad_targets_say_so_in_one_line(write, target, message, error):
    write(
        "net.py",
        "import torch\nfrom math import sqrt\ndef make(): ...\nclass Net: ...\nWIDTH = 3\n_hidden = 1\n",
    )
    write("broken.py", "def f():\n    # comment\n    return 1 / 0\nf()\n")
    write("syntax.py", "def f(:\n")
    write("leaves.py", "import sys\nsys.exit(3)\n")
    write("needs.py", "import not_installed_at_all\n")
    write("empty.py", "")
    with pytest.raises(error) as caught:
        load_target(target, error=error, call=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [name for name in sys.modules if name.startswith("_batchnorm_target_broken")]


def test_digest(write):
    path = write("net.py", "X = 1\n")
    expected = hashlib.sha256(b"X = 1\n").hexdigest()
    assert source_digest(f"{path}:X") == expected
    assert source_digest("net:X") == expected
    assert [source_digest(t) for t in ("lenet", "absent.py:x", "no_such_package_here:x", "sys:path")] == [
        None
    ] * 4
