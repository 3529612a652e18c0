import pytest

from tests.distributed.world import World


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Four ranks, for all tests of this folder that one process of pytest runs."""
    group = World(4, tmp_path_factory.mktemp("world"))
    yield group
    group.close()
