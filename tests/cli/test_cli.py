"""The command line: output, error messages and exit codes."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import tensorflow as tf
from helpers import error_line, run_bnnk, same_weights

from bnn_keras.cli import experiments
from bnn_keras.runs import Run

PROMISED = {
    *("top1", "top5", "best_top1", "images_per_second", "seconds", "epochs"),
    *("parameters", "binary_parameters", "experiment", "seed"),
}
BNNK = [sys.executable, "-c", "from bnn_keras.cli import main; main()"]


@pytest.fixture
def quick(few_digits, tmp_path):
    """Arguments of a training run of a few seconds."""
    return ["train", "lenet5", "--epochs", 1, "--batch-size", 200, "--data-dir", few_digits, "--run", tmp_path / "run"]


# --- lists, show, check, summary, doctor ---


def test_help_lists_commands_in_order_of_use():
    result = run_bnnk("--help")
    assert result.exit_code == 0
    commands = [line.split()[0] for line in result.stdout.split("Commands:")[1].splitlines() if line.strip()]
    about_runs = [
        "train",
        "launch",
        "evaluate",
        "predict",
        "import",
        "repair",
        "export",
        "benchmark",
        "report",
        "compare",
        "reproduce",
        "sweep",
        "plot",
    ]
    assert commands == [*about_runs, "summary", "list", "show", "check", "doctor", "datasets", "plugin", "completion"]


@pytest.mark.parametrize("what", ["networks", "schemes", "optimizers", "datasets", "experiments"])
def test_list(what):
    rows = json.loads(run_bnnk("list", what, "--json").stdout)
    assert all(row["name"] for row in rows)
    table = run_bnnk("list", what)
    assert table.exit_code == 0
    for row in rows:
        assert row["name"] in table.stdout


def test_list_of_experiments_has_documented_fields():
    rows = {row["name"]: row for row in json.loads(run_bnnk("list", "experiments", "--json").stdout)}
    row = rows["xnor_net/lenet5_mnist"]
    assert (row["network"], row["dataset"], row["scheme"], row["optimizer"]) == (
        "lenet5",
        "mnist",
        "xnor",
        "adam_torch",
    )
    assert row["published"] == {"of": "best", "top1": 99.23, "float_top1": 99.34}
    assert rows["xnor_net/lenet5_mnist_5k"]["published"] is None


def test_output_of_show_is_a_valid_experiment_file(tmp_path):
    shown = run_bnnk("show", "xnor_net/lenet5_mnist_5k", "--set", "stages.0.epochs=3")
    (tmp_path / "mine.toml").write_text(shown.stdout)
    again = json.loads(run_bnnk("show", tmp_path / "mine.toml", "--json").stdout)
    assert (again["name"], again["stages"][0]["epochs"]) == ("mine", 3)
    assert run_bnnk("check", tmp_path / "mine.toml").stdout == f"{tmp_path / 'mine.toml'}: ok\n"


def test_check_prints_all_errors_of_all_files(tmp_path):
    good = run_bnnk("show", "lenet5_mnist").stdout
    (tmp_path / "good.toml").write_text(good)
    (tmp_path / "bad.toml").write_text(good.replace("epochs = 60", "epoch = 60").replace('"adam_torch"', '"adamm"'))
    (tmp_path / "broken.toml").write_text("stages = [")
    result = run_bnnk("check", *(tmp_path / f"{name}.toml" for name in ("bad", "none", "good", "broken")))
    assert result.exit_code == 1
    lines = sorted(line.removeprefix(str(tmp_path)) for line in result.stderr.splitlines())
    assert [line.split(";")[0] for line in lines] == [
        "/bad.toml: stages.0.epoch: unknown key",
        "/bad.toml: stages.0.epochs: missing",
        "/bad.toml: stages.0.optimizer.name: unknown optimizer 'adamm'",
        "/broken.toml: not TOML: invalid value (at end of document)",
        f"/none.toml: no experiment file '{tmp_path / 'none.toml'}'",
    ]
    assert result.stdout == f"{tmp_path / 'good.toml'}: ok\n"


def test_summary():
    result = run_bnnk("summary", "lenet5")
    assert result.exit_code == 0
    for part in ("lenet5 stats", "bin_conv2.conv", "Ratio of MACs that are binarized", "binary parameters", "425,000"):
        assert part in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "431,220 parameters (98.6 % with 1 bit) · 0.324 M OPs = 0.293 M FLOPs + 2.00 M BOPs / 64 · "
        "80.9 kB (float: 1.7 MB)"
    )


def test_summary_as_json():
    counts = json.loads(run_bnnk("summary", "lenet5", "--json").stdout)
    assert (counts["parameters"], counts["binary_parameters"]) == (431_220, 425_000)
    assert (counts["macs"], counts["binary_macs"], counts["operations"]) == (2_293_000, 2_000_000, 324_250)


def test_doctor(data_dir):
    result = run_bnnk("doctor", "--no-self-test", "--data-dir", data_dir)
    assert result.exit_code == 0, result.output
    if not importlib.util.find_spec("openvino"):
        assert "pip install 'bnn-keras[openvino]'" in result.stdout
    findings = {
        finding["name"]: finding
        for finding in json.loads(run_bnnk("doctor", "--no-self-test", "--data-dir", data_dir, "--json").stdout)
    }
    assert findings["Keras behind TensorFlow"]["found"].startswith("tf_keras")
    assert data_dir in findings["dataset mnist_5k"]["found"]
    assert findings["dataset mnist"]["cure"].endswith("--manual-dir DIR")


# --- runs ---


@pytest.mark.usefixtures("eager")
def test_train_evaluate_predict(quick, tmp_path):
    trained = run_bnnk(*quick, "--json")
    assert trained.exit_code == 0, trained.output
    result = json.loads(trained.stdout)
    assert set(result) >= PROMISED
    assert "epoch 1/1" in trained.stderr
    assert Run(tmp_path / "run").environment["command"][0] == "bnnk"

    again = run_bnnk(*quick)
    assert again.exit_code == 0
    assert f"{result['top1']:.2f} %" in again.stdout
    assert "epoch 1/1" not in again.stderr

    evaluated = run_bnnk("evaluate", tmp_path / "run", "--data-dir", quick[quick.index("--data-dir") + 1], "--json")
    assert json.loads(evaluated.stdout)["top1"] == result["top1"]
    words = ("evaluate", tmp_path / "run", "--data-dir", quick[quick.index("--data-dir") + 1], "--per-class")
    table = run_bnnk(*words, "--confusion", tmp_path / "confusion.png").stdout
    rows = json.loads(run_bnnk(*words, "--json").stdout)["per_class"]
    assert [row["label"] for row in rows] == [str(digit) for digit in range(10)]
    assert all(f"{row['top1']:.2f} %" in line for row, line in zip(rows, table.splitlines()[-10:], strict=True))
    assert (tmp_path / "confusion.png").is_file()

    image = np.zeros((28, 28, 1), np.uint8)
    tf.io.write_file(str(tmp_path / "image.png"), tf.io.encode_png(image))
    logits = tmp_path / "logits.npy"
    predicted = run_bnnk("predict", tmp_path / "run", tmp_path / "image.png", "--logits", logits, "--json")
    (row,) = json.loads(predicted.stdout)
    assert row["input"].endswith("image.png")
    assert sum(row["classes"].values()) == pytest.approx(1)
    assert np.load(logits).shape == (1, 10)
    assert str(np.load(logits).argmax()) == row["label"] == max(row["classes"], key=row["classes"].get)
    table = run_bnnk("predict", tmp_path / "run", tmp_path / "image.png", "--top", 2).stdout
    assert f"{row['label']} {100 * row['classes'][row['label']]:.1f} %" in table
    assert table.count("%") == 2


def test_note_for_an_experiment_that_differs_from_its_recipe(tmp_path):
    result = run_bnnk("train", "lenet5", "--dataset", "mnist", "--optimizer", "adam", "--manual-dir", "/nowhere")
    assert result.exit_code == 1
    assert "Note: no recipe for lenet5 with mnist, adam; based on xnor_net/lenet5_mnist_5k with" in result.stderr


@pytest.mark.filterwarnings("default")
def test_predict_reports_a_damaged_file_and_predicts_the_others(trained, tmp_path):
    folder = tmp_path / "images" / "more"
    folder.mkdir(parents=True)
    for name in ("0.png", "more/1.png", "more/3.png"):
        tf.io.write_file(str(folder.parent / name), tf.io.encode_png(np.zeros((28, 28, 1), np.uint8)))
    (folder / "2.png").write_text("no image")
    np.save(tmp_path / "two.npy", np.zeros((2, 28, 28, 1), np.uint8))
    words = ("predict", trained, folder.parent, tmp_path / "two.npy", "--logits", tmp_path / "logits.npy")
    result = run_bnnk(*words)
    assert result.exit_code == 1
    warning, error = result.stderr.splitlines()
    assert warning.startswith(f"Warning: cannot read '{folder / '2.png'}' as an image (")
    assert error == "Error: 1 input(s) could not be read, see above; all others are predicted"
    names = ["0.png", "1.png", "3.png", "two.npy[0]", "two.npy[1]"]
    assert [Path(line.split()[0]).name for line in result.stdout.splitlines()[2:]] == names
    assert np.load(tmp_path / "logits.npy").shape == (5, 10)
    result = run_bnnk(*words, "--json")
    assert result.exit_code == 1
    *rows, failed = json.loads(result.stdout)
    assert [Path(row["input"]).name for row in rows] == names
    assert failed == {"input": str(folder / "2.png"), "error": warning.removeprefix("Warning: ")}


def test_predict_recognises_swapped_arguments(trained):
    assert f"write it first: `bnnk predict {trained} image.png`" in error_line("predict", "image.png", trained)


@pytest.mark.parametrize(
    "words", [("train", "lenet5"), ("evaluate", "run"), ("predict", "run", "x"), ("benchmark", "x")]
)
def test_batch_size_that_no_machine_can_hold(words):
    line = error_line(*words, "--batch-size", 99999999999, code=2)
    assert line == "Invalid value for '--batch-size': 99999999999 is not in the range 1<=x<=65536."


def test_lack_of_memory_is_one_clear_error(monkeypatch):
    def allocate(**_):
        raise MemoryError("Unable to allocate 35.0 GiB")

    monkeypatch.setattr(experiments, "resolve", allocate)
    line = error_line("show", "lenet5_mnist")
    assert line == "not enough memory (Unable to allocate 35.0 GiB); use fewer images or a smaller --batch-size"


def test_text_that_is_not_utf_8_is_escaped(tmp_path):
    name = os.fsdecode(b"\xff.toml")
    (tmp_path / name).write_text(run_bnnk("show", "lenet5_mnist").stdout)
    assert run_bnnk("check", tmp_path / name).stdout.endswith("\\udcff.toml: ok\n")


INTERRUPTED = "Error: interrupted; finished work is kept, run the same command again to continue"


def test_interrupted_command_exits_with_130_and_one_line(monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "resolve", interrupted)
    result = run_bnnk("show", "lenet5_mnist")
    assert (result.exit_code, result.stderr.splitlines()) == (130, [INTERRUPTED])


@pytest.mark.slow
def test_ctrl_c_during_training_keeps_finished_epochs(quick, tmp_path):
    # A test runner may ignore SIGINT, and its child processes inherit that.
    script = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {BNNK[-1]}"
    arguments = [*map(str, quick), "--epochs", "500"]
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not Run(tmp_path / "run").metrics and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    line = stderr.splitlines()[-1]
    assert re.fullmatch(r"Error: stopped by SIGINT .*epoch \d+, saved; run the same command again to continue", line)
    assert "Traceback" not in stderr


# --- errors: one line with the value, what was expected, how to fix it ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "lenet"], "unknown network 'lenet'; did you mean 'lenet5'? known: "),
        (["train", "lenet5", "--dataset", "mnst"], "unknown dataset 'mnst'; did you mean 'mnist'?"),
        (["train", "lenet5", "--scheme", "xnr"], "unknown scheme 'xnr'; did you mean 'xnor'?"),
        (
            ["train", "lenet5", "--optimizer", "bp"],
            "unknown optimizer 'bp'; did you mean 'bop'? known: adam, adam_torch, adamw, bop, sgd",
        ),
        (
            ["train", "lenet5", "--bits", "2/2"],
            "experiment xnor_net/lenet5_mnist_5k: scheme.bits: got '2/2'; scheme 'xnor' has",
        ),
        (
            ["train", "lenet5", "--set", "stages.0.epoch=1"],
            "experiment xnor_net/lenet5_mnist_5k: stages.0.epoch: unknown key",
        ),
        (
            ["train", "lenet5", "--set", "seed=x"],
            "experiment xnor_net/lenet5_mnist_5k: seed: got 'x'; expected a valid integer",
        ),
        (["train", "lenet5", "--experiment", "none"], "unknown experiment 'none'"),
        (["train", "lenet5", "--experiment", "none.toml"], "no experiment file 'none.toml'"),
        (["show", "nothing"], "unknown experiment 'nothing'"),
        (["evaluate", "nowhere"], "no run in 'nowhere'"),
        (["predict", "nowhere", "image.png"], "no run in 'nowhere'"),
        (["evaluate", "--model", "nowhere.onnx"], "no run in 'nowhere.onnx', and no exported file; give the folder"),
        (["train", "lenet5", "--run", "/proc/run"], "cannot write '/proc/run'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_error_is_one_line(arguments, message):
    assert error_line(*arguments).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "lenet5"], "No such command 'trian'; did you mean 'train'?"),
        (["zzzz"], "No such command 'zzzz'; known: train, launch, evaluate"),
        (["train"], "Missing argument 'NETWORK', or --continue RUN."),
        (["train", "lenet5", "--epochs", "many"], "Invalid value for '--epochs': 'many' is not a valid integer range."),
        (["train", "lenet5", "--epochs", "0"], "Invalid value for '--epochs': 0 is not in the range x>=1."),
        (["list", "things"], "Invalid value for '{networks|schemes|optimizers|datasets|experiments|models}': 'things'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_error_exits_with_2(arguments, message):
    assert error_line(*arguments, code=2).startswith(message)


def test_run_in_use_by_another_process(quick, tmp_path):
    with Run(tmp_path / "run").owned():
        assert f"is in use by process {os.getpid()}" in error_line(*quick)


def test_run_directory_with_other_files(quick, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    assert "holds other files (thesis.tex) and no run" in error_line(*quick)
    assert (tmp_path / "run" / "thesis.tex").exists()


def test_run_directory_of_another_experiment(trained, data_dir):
    message = error_line("train", "lenet5", "--epochs", "3", "--run", trained, "--data-dir", data_dir)
    assert "stages.0.epochs: 3 / 2; train it further with --continue" in message
    assert message.endswith("start over with --fresh")


def test_file_that_is_not_an_image(trained, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    assert "cannot read" in error_line("predict", trained, tmp_path / "text.png")


def test_damaged_weights(trained, tmp_path):
    """The command in the message restores them."""
    copy = shutil.copytree(trained, tmp_path / "a copy")
    (copy / "weights.h5").write_bytes(b"nothing")
    message = error_line("evaluate", copy)
    assert "weights.h5' does not match its digest; run `bnnk repair" in message
    result = run_bnnk(*shlex.split(message.split("`")[1])[1:])
    assert result.exit_code == 0, result.output
    assert same_weights(copy / "weights.h5", trained / "weights.h5")


def test_debug_raises_the_original_error():
    for arguments in (["--debug", "show", "nothing"], ["show", "nothing", "--debug"]):
        result = run_bnnk(*arguments)
        assert result.exit_code == 1
        assert "unknown experiment 'nothing'" in str(result.exception)


def test_unexpected_error_is_one_line(monkeypatch):
    monkeypatch.setitem(experiments._LISTS, "networks", lambda: 1 / 0)
    message = error_line("list", "networks")
    assert message == (
        "unexpected ZeroDivisionError: division by zero; this is a bug in bnnk, see the traceback with `bnnk --debug …`"
    )


def test_closed_pipe_is_not_an_error():
    command = " ".join([f"'{part}'" for part in BNNK])
    result = subprocess.run(
        ["bash", "-c", f"{command} list experiments | true"], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""


def test_warnings_of_this_package_are_one_line_and_others_hidden(monkeypatch):
    from bnn_keras.cli.main import _show_warning

    lines = []
    monkeypatch.setattr(click, "echo", lambda text, **_: lines.append(text))
    _show_warning("damaged", UserWarning, "/x/bnn_keras/training/checkpoints.py", 1)
    _show_warning("old", DeprecationWarning, "/x/bnn_keras/a.py", 1)
    _show_warning("loud", UserWarning, "/x/tensorflow/a.py", 1)
    assert lines == ["Warning: damaged"]
