import gzip
import io
import socket
import warnings
from email.message import Message
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import sklearn.datasets._openml as sklearn_openml
import torch

from batchnorm.errors import DataError
from batchnorm.lab import data, openml
from tests.lab.openml_server import Server

# A small set of the same make: the first 30 rows train, the other 10 test.
SOURCE = openml.Source(77, (3, 2, 4), 30, 40, ("cat", "dog"))
RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (40, 24)).astype(np.uint8)
LABELS = np.arange(40) % 2


@pytest.fixture
def serve(monkeypatch, tmp_path):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    monkeypatch.setattr(sklearn_openml.time, "sleep", lambda seconds: pytest.fail("waited for the network"))

    def serve(server):
        monkeypatch.setattr(sklearn_openml, "urlopen", server)
        return server

    return serve


def unreachable(request):
    raise URLError(socket.gaierror(-2, "Name or service not known"))


def refused(*said):
    with pytest.raises(DataError) as caught:
        openml.load("small", SOURCE)
    message = str(caught.value)
    assert "\n" not in message
    for words in ("'small'", *said):
        assert words in message
    return message


def cached(tmp_path, end):
    (path,) = tmp_path.rglob(end)
    return path


def test_first_rows_train_and_the_rest_tests(serve):
    serve(Server(PIXELS, LABELS))
    loaded = openml.load("small", SOURCE)
    assert [len(part.y) for part in (loaded.train, loaded.validation, loaded.test)] == [27, 3, 10]
    assert loaded.class_names == ("cat", "dog")
    assert loaded.input_shape == (3, 2, 4)
    assert loaded.test.y.tolist() == LABELS[30:].tolist()
    np.testing.assert_allclose(
        loaded.scaling.undo(loaded.test.x), PIXELS[30:].reshape(-1, 3, 2, 4) / 255, atol=1e-6
    )
    torch.testing.assert_close(loaded.train.x.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    rest = np.concatenate([loaded.scaling.undo(part.x) for part in (loaded.train, loaded.validation)])
    seen = np.sort(np.round(rest * 255).reshape(30, -1), axis=0)
    assert np.array_equal(seen, np.sort(PIXELS[:30], axis=0))


def test_the_second_time_comes_from_the_cache(serve):
    server = serve(Server(PIXELS, LABELS))
    digest = openml.load("small", SOURCE).digest
    assert sorted(server.asked) == sorted(server.answers)
    serve(unreachable)
    assert openml.load("small", SOURCE).digest == digest


def test_labels_may_be_quoted(serve):
    serve(Server(PIXELS, [f"'{label}'" for label in LABELS]))
    assert openml.load("small", SOURCE).test.y.tolist() == LABELS[30:].tolist()


@pytest.mark.parametrize("name", openml.SOURCES)
def test_no_network_says_so_at_once(serve, tmp_path, name):
    serve(unreachable)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError) as caught:
            data.load(name)
    message = str(caught.value)
    assert "\n" not in message
    for words in (repr(name), str(tmp_path), "Name or service not known", ".npz", "x_train"):
        assert words in message


@pytest.mark.parametrize(
    "problem",
    [TimeoutError("timed out"), ConnectionResetError(104, "Connection reset by peer")],
    ids=["timeout", "reset"],
)
def test_a_connection_that_breaks(serve, problem):
    def breaks(request):
        raise problem

    serve(breaks)
    refused("cannot be reached", str(problem.args[-1]))


def test_a_server_that_refuses(serve):
    def refuses(request):
        raise HTTPError(request.full_url, 503, "Service Unavailable", Message(), io.BytesIO())

    serve(refuses)
    refused("cannot be reached", "Service Unavailable")


def test_a_damaged_copy_is_fetched_again(serve, tmp_path):
    digest = serve(Server(PIXELS, LABELS)) and openml.load("small", SOURCE).digest
    path = cached(tmp_path, "small.arff.gz")
    path.write_bytes(path.read_bytes()[:50])
    assert openml.load("small", SOURCE).digest == digest


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:50], lambda raw: b"no gzip", lambda raw: gzip.compress(b"@DATA\n")]
)
@pytest.mark.parametrize("end", ["small.arff.gz", "features/77.gz"])
def test_a_damaged_copy_without_network(serve, tmp_path, damage, end):
    serve(Server(PIXELS, LABELS))
    openml.load("small", SOURCE)
    serve(unreachable)
    path = cached(tmp_path, end)
    path.write_bytes(damage(path.read_bytes()))
    refused("was damaged", "cannot be reached", str(tmp_path))


def test_damage_that_stays(serve, tmp_path):
    server = serve(Server(PIXELS, LABELS))
    server.answers["/data/v1/download/77/small.arff"] = server.arff[:-40]
    refused("is damaged", "md5", str(tmp_path))


@pytest.mark.parametrize(
    "server", [Server(PIXELS[:39], LABELS[:39]), Server(PIXELS[:, :23], LABELS)], ids=["rows", "pixels"]
)
def test_a_table_of_another_size(serve, server):
    serve(server)
    refused("expected 40 rows of 24")


def test_values_out_of_range(serve):
    serve(Server(PIXELS.astype(int) + 1, LABELS))
    refused("out of range")


def test_a_cache_that_cannot_be_written(serve, monkeypatch, tmp_path):
    serve(Server(PIXELS, LABELS))
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(blocker / "cache"))
    refused("cannot be cached", "SCIKIT_LEARN_DATA")


def test_process_state_is_put_back(serve):
    serve(Server(PIXELS, LABELS))
    socket.setdefaulttimeout(7.5)
    filters = list(warnings.filters)
    try:
        openml.load("small", SOURCE)
        assert socket.getdefaulttimeout() == 7.5
    finally:
        socket.setdefaulttimeout(None)
    assert list(warnings.filters) == filters


def test_the_published_sets():
    sizes = {
        name: (source.data_id, source.shape, source.train, source.rows)
        for name, source in openml.SOURCES.items()
    }
    assert sizes == {
        "mnist": (554, (1, 28, 28), 60_000, 70_000),
        "fashion-mnist": (40996, (1, 28, 28), 60_000, 70_000),
        "cifar10": (40927, (3, 32, 32), 50_000, 60_000),
    }
    assert all(len(source.class_names) == 10 for source in openml.SOURCES.values())
