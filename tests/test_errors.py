"""Error messages."""

from bnn_keras.errors import BnnError, nearest, unknown


def test_bnn_error_message_is_one_line():
    assert str(BnnError("a\n  b\tc")) == "a b c"


def test_nearest_returns_the_most_similar_name():
    assert nearest("mnst", ["mnist", "cifar10"]) == "mnist"
    assert nearest("zzz", ["mnist", "cifar10"]) is None


def test_unknown_contains_value_guess_and_all_names():
    assert unknown("dataset", "mnst", ["mnist", "cifar10"]) == (
        "unknown dataset 'mnst'; did you mean 'mnist'? known: cifar10, mnist"
    )
