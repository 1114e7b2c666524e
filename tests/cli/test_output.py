"""Output of commands: JSON values, tables and messages."""

import json
import tempfile

import pytest
from helpers import error_line

from bnn_keras.cli.output import print_json, print_line, print_message, print_table


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_has_null_for_numbers_that_are_not_finite(capsys, number):
    print_json({"loss": number, "epochs": [{"loss": 0.5}, {"loss": number}], "top1": 98.5})
    printed = capsys.readouterr()
    assert json.loads(printed.out, parse_constant=pytest.fail) == {
        "loss": None,
        "epochs": [{"loss": 0.5}, {"loss": None}],
        "top1": 98.5,
    }
    assert printed.err == "Warning: JSON has no NaN or infinity; null stands for loss, epochs[1].loss\n"


def test_finite_json_has_no_warning(capsys):
    print_json([{"a": 1.5, "b": None, "c": (1, True, "x")}])
    printed = capsys.readouterr()
    assert json.loads(printed.out) == [{"a": 1.5, "b": None, "c": [1, True, "x"]}]
    assert printed.err == ""


def test_control_characters_do_not_reach_the_terminal(capsys):
    name = "\x1b]0;title\x07\x1b[2J\r\udcff.png"
    print_table(["image"], [[name]])
    print_line(name)
    print_message(name)
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert text.count("\\x1b]0;title\\x07\\x1b[2J\\r\\udcff.png") == 3
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "run", "x.png"),
        ("train", "lenet5", "--run", "run"),
        ("export", "run", "--to", "onnx", "-o", "x.onnx"),
    ],
)
def test_no_temporary_folder_is_one_clear_error(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    line = error_line(*words)
    assert line == (
        "cannot write temporary files (No usable temporary directory found in ['/nowhere']); free disk space, or set "
        "TMPDIR to another folder"
    )
