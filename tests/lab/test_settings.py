import pytest

from batchnorm.errors import UsageError
from batchnorm.lab import settings

REFUSED = [
    (settings.number, ("--x", "abc"), "--x 'abc' is not a number"),
    (settings.number, ("--x", "nan"), "--x 'nan' is not a finite number"),
    (settings.number, ("--x", "inf"), "--x 'inf' is not a finite number"),
    (settings.number, ("--x", None), "--x None is not a number"),
    (settings.positive, ("--x", "0"), "--x '0' must be above 0"),
    (settings.positive, ("--x", -1.5), "--x -1.5 must be above 0"),
    (settings.at_least_zero, ("--x", "-0.1"), "--x '-0.1' must be at least 0"),
    (settings.fraction, ("--x", "1"), "--x '1' must be at least 0 and below 1"),
    (settings.fraction, ("--x", "-0.1"), "--x '-0.1' must be at least 0 and below 1"),
    (settings.whole, ("--x", "2.5", 1), "--x '2.5' is not a whole number of at least 1"),
    (settings.whole, ("--x", "many", 2), "--x 'many' is not a whole number of at least 2"),
    (settings.whole, ("--x", "0", 1), "--x '0' must be at least 1"),
    (settings.whole, ("--x", True, 1), "--x True is not a whole number of at least 1"),
    (settings.switch, ("--x", "maybe"), "--x 'maybe' is neither true nor false"),
    (settings.known, ("--x", "c", ("a", "b")), "--x 'c' is unknown; choose from a, b"),
    (settings.list_of, ("--x", ""), "--x '' is empty; name at least one"),
    (settings.list_of, ("--x", []), "--x [] is empty; name at least one"),
    (settings.list_of, ("--x", "a,,b"), "--x 'a,,b' has an empty entry"),
    (settings.names, ("--x", "a,a", ("a", "b")), "--x 'a,a' has 'a' twice"),
    (settings.names, ("--x", "a,c", ("a", "b")), "--x 'c' is unknown; choose from a, b"),
]


@pytest.mark.parametrize(("read", "arguments", "message"), REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_line_that_quotes_it(read, arguments, message):
    with pytest.raises(UsageError) as caught:
        read(*arguments)
    assert str(caught.value) == message


def test_texts_and_values_read_alike():
    assert settings.whole("--x", "3", least=1) == settings.whole("--x", 3, least=1) == 3
    assert settings.number("--x", "1e-3") == settings.number("--x", 0.001) == 0.001
    assert settings.list_of("--x", "a, b") == settings.list_of("--x", ("a", "b")) == ["a", "b"]
    assert settings.switch("--x", "Yes") is settings.switch("--x", True) is True
    assert settings.switch("--x", "off") is settings.switch("--x", False) is False


FURTHER_REFUSED = [
    (["momentum"], "sgd", "--set 'momentum' is not of the form key=value"),
    (["=3"], "sgd", "--set '=3' is not of the form key=value"),
    (["momentum="], "sgd", "--set 'momentum=' is not of the form key=value"),
    (["momentum=0.9", "momentum=0.5"], "sgd", "--set 'momentum' is given twice"),
    (["momentum=1"], "sgd", "--set momentum '1' must be at least 0 and below 1"),
    (["momentum=0.9"], "adam", "--set 'momentum' means nothing to --optimizer adam"),
    (["beta1=0.9"], "sgd", "--set 'beta1' means nothing to --optimizer sgd"),
    (["nesterov=true"], "sgd", "--set 'nesterov' needs a momentum above 0, such as --set momentum=0.9"),
    (["weight_decay=-1"], "adamw", "--set weight_decay '-1' must be at least 0"),
    (["model.=3"], "sgd", "--set 'model.' is unknown"),
    (["model.a b=3"], "sgd", "--set 'model.a b' is unknown"),
]


@pytest.mark.parametrize(("pairs", "optimizer", "message"), FURTHER_REFUSED)
def test_bad_further_settings_are_refused(pairs, optimizer, message):
    with pytest.raises(UsageError) as caught:
        settings.further_settings(pairs, optimizer)
    assert str(caught.value).startswith(message)


def test_an_unknown_key_names_the_known_ones():
    with pytest.raises(UsageError) as caught:
        settings.further_settings(["speed=9"], "sgd")
    assert all(key in str(caught.value) for key in [*settings.FURTHER, "model.NAME"])


def test_further_settings_are_read_sorted_and_freed_of_defaults():
    found = settings.further_settings(
        ["nesterov=true", "momentum=0.9", "model.hidden=8,8", "label_smoothing=0"], "sgd"
    )
    assert list(found.items()) == [("model.hidden", "8,8"), ("momentum", 0.9), ("nesterov", True)]
    assert settings.further_settings({"momentum": 0.0}, "sgd") == {}


def test_the_weight_decay_of_an_optimizer_can_be_switched_off():
    assert settings.further_settings(["weight_decay=0"], "adamw") == {"weight_decay": 0.0}
