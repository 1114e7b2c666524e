"""The greeting of `bnnk` alone, and completion in shells."""

import pytest
from click.shell_completion import ShellComplete
from helpers import error_line, run_bnnk

from bnn_keras.cli import main


def completed(*words):
    """Return the completions of the last word."""
    *before, begin = words
    return [item.value for item in ShellComplete(main, {}, "bnnk", "_BNNK_COMPLETE").get_completions(before, begin)]


def test_bnnk_alone_greets_with_three_commands():
    result = run_bnnk()
    assert result.exit_code == 0
    tried = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("  bnnk ")]
    assert tried == ["train", "export", "show"]
    for command in tried:
        assert run_bnnk(command, "--help").exit_code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["summ"], ["summary"]),
        (["train", "lene"], ["lenet5"]),
        (["train", "lenet5", "--scheme", "ir"], ["irnet"]),
        (["summary", "lenet5", "--dataset", "mnist"], ["mnist_5k", "mnist"]),
        (["show", "xnor_net/lenet5_mnist_5"], ["xnor_net/lenet5_mnist_5k"]),
        (["train", "lenet5", "--epo"], ["--epochs"]),
        (["predict", "--model", "lenet5_mnist_5k_b"], ["lenet5_mnist_5k_bireal"]),
    ],
)
def test_commands_options_and_names_are_completed(words, expected):
    assert sorted(completed(*words)) == sorted(expected)


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", "data/bash-completion/completions/bnnk"),
        ("zsh", "zsh/.zfunc/_bnnk"),
        ("fish", "config/fish/completions/bnnk.fish"),
    ],
)
def test_install_writes_the_script_of_click(shell, file, tmp_path, monkeypatch):
    for variable, folder in (("XDG_DATA_HOME", "data"), ("ZDOTDIR", "zsh"), ("XDG_CONFIG_HOME", "config")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    result = run_bnnk("completion", "install")
    assert result.exit_code == 0, result.output
    assert f"_BNNK_COMPLETE={shell}_complete" in (tmp_path / file).read_text()
    assert run_bnnk("completion", "show").stdout.strip() == (tmp_path / file).read_text().strip()


def test_unknown_shell(monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert error_line("completion", "install").startswith("unknown shell 'tcsh'")
    assert "unknown shell 'csh'" in error_line("completion", "show", "csh")
