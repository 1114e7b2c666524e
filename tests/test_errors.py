from bnn_keras.errors import BnnError, nearest, unknown


def test_message_is_one_line():
    assert str(BnnError("a\n  b\tc")) == "a b c"


def test_nearest():
    assert nearest("mnst", ["mnist", "cifar10"]) == "mnist"
    assert nearest("zzz", ["mnist", "cifar10"]) is None


def test_unknown_names_value_guess_and_all():
    assert unknown("dataset", "mnst", ["mnist", "cifar10"]) == (
        "unknown dataset 'mnst'; did you mean 'mnist'? known: cifar10, mnist"
    )
