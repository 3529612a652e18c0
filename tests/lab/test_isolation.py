import logging
import random
import threading
import warnings

import lightning.fabric  # noqa: F401
import numpy as np
import pytest
import torch
from lightning_utilities.core import rank_zero

from batchnorm.lab import isolation


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_one_thread_inside_and_as_many_as_before_outside(two_threads):
    with isolation.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), isolation.one_thread():
        raise KeyError
    assert torch.get_num_threads() == 2


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def test_a_run_gets_its_own_random_numbers_and_gives_the_state_back():
    seed_all(5)
    expected = draws()
    seed_all(5)
    with isolation.own_random_state(3, "cpu"):
        first = draws()[:2]
        torch.manual_seed(9)
    assert draws() == expected
    with isolation.own_random_state(3, "cpu"):
        assert draws()[:2] == first
    with isolation.own_random_state(4, "cpu"):
        assert draws()[:2] != first


def test_libraries_are_quiet_inside_only():
    # The logger that Fabric's remarks, such as "Using bfloat16 Automatic Mixed Precision", really go to.
    logger = rank_zero.log
    level = logger.level
    assert logger.isEnabledFor(logging.INFO)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with isolation.quiet():
            warnings.warn("inside", stacklevel=1)
            assert not logger.isEnabledFor(logging.WARNING)
        warnings.warn("outside", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["outside"]
    assert logger.level == level


def test_threads_that_are_quiet_together_leave_everything_as_it_was():
    logger = rank_zero.log
    level, filters = logger.getEffectiveLevel(), list(warnings.filters)
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def first():
        with isolation.quiet():
            first_is_in.set()
            assert second_is_in.wait(30)

    thread = threading.Thread(target=first)
    thread.start()
    assert first_is_in.wait(30)
    with isolation.quiet():
        second_is_in.set()
        thread.join()
        assert not logger.isEnabledFor(logging.WARNING)
    assert logger.getEffectiveLevel() == level
    assert list(warnings.filters) == filters


def test_on_the_cpu_nothing_has_to_be_made_deterministic():
    before = torch.backends.cudnn.deterministic
    with isolation.deterministic("cpu"):
        assert torch.backends.cudnn.deterministic == before
    with isolation.deterministic("cuda"):
        assert torch.backends.cudnn.deterministic is True
    assert torch.backends.cudnn.deterministic == before
