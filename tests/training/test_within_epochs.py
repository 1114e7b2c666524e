"""Checkpoints within an epoch: when they are written, resuming from them, and signals."""

import errno
import io
import signal

import pytest
from rich.console import Console
from trainings import assert_same_training, build_tiny_model, small_experiment, tiny_networks

from bnn_keras import checkpoints, train
from bnn_keras.errors import BnnError
from bnn_keras.runs import Run
from bnn_keras.training import trainer
from bnn_keras.training.callbacks import MeasureEpoch, SaveRun
from bnn_keras.training.within_epochs import Interval, Signals


class Killed(BaseException):
    """Raised in the place of a `kill -9`."""


@pytest.fixture
def tiny():
    with tiny_networks(dropout=0.5):
        yield


def kill_after(monkeypatch, epoch, steps):
    """Kill a training after a checkpoint within an epoch, counted from 0."""
    write = SaveRun.within_epoch

    def write_and_die(self, done, *args):
        write(self, done, *args)
        if (self.state.epoch, done) == (epoch, steps):
            self.wait()
            raise Killed

    monkeypatch.setattr(SaveRun, "within_epoch", write_and_die)


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.usefixtures("tiny")
def test_kept_checkpoints(tmp_path):
    """The last ones, that of the last finished epoch, and that of the best epoch; those of a later past are removed."""
    run, model = Run(tmp_path), build_tiny_model(small_experiment())
    optimizer = trainer.build_optimizer(small_experiment().stages[0].optimizer, 4)
    (tmp_path / "checkpoints" / "epoch-00003-step-0000002").mkdir(parents=True)  # damaged
    for epoch, steps in ((1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3)):
        state = checkpoints.State(epoch=epoch, steps_of_epoch=steps, best_epoch=1)
        checkpoints.save(run, state, model, optimizer, {}, keep=1)
        if steps == 1:
            assert names(tmp_path) == ["epoch-00001", "epoch-00003", "epoch-00003-step-0000001"]
    assert names(tmp_path) == ["epoch-00001", "epoch-00003", "epoch-00003-step-0000003"]
    assert checkpoints.latest(run).state.steps_of_epoch == 3
    assert checkpoints.latest(run, lambda state: not state.steps_of_epoch).state.epoch == 3


@pytest.mark.parametrize("text", ["", "15", "0m", "-1s", "5 days", "1.5steps"])
def test_intervals_that_are_none(text, tmp_path):
    with pytest.raises(BnnError, match=f"cannot save every '{text}'; expected a time such as 15m, 90s or 2h, or steps"):
        train(small_experiment(), tmp_path / "run", save_every=text)
    assert not (tmp_path / "run").exists()


def test_interval():
    assert [Interval.parse(text).seconds for text in ("90s", "1.5m", "2h")] == [90, 90, 7200]


@pytest.fixture
def usual_handlers():
    """The process that runs the tests may ignore SIGINT."""
    before = {number: signal.signal(number, handler) for number, handler in USUAL.items()}
    yield
    assert {number: signal.getsignal(number) for number in USUAL} == USUAL
    for number, handler in before.items():
        signal.signal(number, handler)


USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


IRNET = ({"scheme": "irnet"}, ["data.augmentation={flip=true}"])
BOP = ({"optimizer": "bop"}, ["stages.0.optimizer.gamma={schedule='geometric', initial=1e-3, final=1e-5}"])
EVALUATION = (signal.SIGTERM, "on_test_batch_begin", 0, "step 4 of 4 in epoch 1", 4)
STEP = (signal.SIGINT, "on_train_batch_begin", 2, "step 3 of 4 in epoch 1", 3)
WRITING = (signal.SIGTERM, "on_epoch_end", 0, "epoch 1", 4)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny", "usual_handlers")
@pytest.mark.parametrize(("options", "overrides", "signals"), [(*IRNET, [EVALUATION]), (*BOP, [STEP, WRITING])])
def test_interrupted_training(tmp_path, monkeypatch, options, overrides, signals):
    """Signals in a step, in evaluation and while files are written, and a kill: the result is the same, bit for bit."""
    experiment = small_experiment(examples=120, epochs=2, overrides=overrides, **options)
    train(experiment, tmp_path / "whole")
    for number, hook, call, place, steps in signals:
        shown = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(MeasureEpoch, hook, signalling(number, getattr(MeasureEpoch, hook), call))
            with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
                train(experiment, tmp_path / "run", console=Console(file=shown, width=200))
        line = f"stopped by {number.name} after {place}, saved; run the same command again to continue"
        if number == signal.SIGINT:
            assert str(stopped.value) == line
        else:
            assert (stopped.value.code, shown.getvalue().splitlines()[-1]) == (143, line)
        assert checkpoints.latest(Run(tmp_path / "run")).state.step == steps
    with monkeypatch.context() as patch:
        kill_after(patch, 1, 3)
        with pytest.raises(Killed):
            train(experiment, tmp_path / "run", save_every="1steps", keep=3)
    state = checkpoints.latest(Run(tmp_path / "run")).state
    assert (state.epoch, state.steps_of_epoch, state.step) == (1, 3, 7)
    train(experiment, tmp_path / "run")
    assert_same_training(Run(tmp_path / "run"), tmp_path / "whole")


def signalling(number, hook, at):
    """Return a method of a callback that sends a signal in its call with the index `at`, once."""
    sent = []

    def method(self, index, logs=None):
        if index == at and not sent:
            sent.append(True)
            signal.raise_signal(number)
        return hook(self, index, logs)

    return method


@pytest.mark.usefixtures("usual_handlers")
def test_second_signal_ends_at_once():
    signals = Signals()
    signals.install()
    signal.raise_signal(signal.SIGINT)
    assert signals.received == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("tiny")
def test_full_disk_within_an_epoch(tmp_path, monkeypatch):
    """What a thread cannot write is an error in the training; the checkpoint before is kept."""
    write = checkpoints._digest
    monkeypatch.setattr(
        checkpoints, "_digest", lambda path: full(path) if path.name.startswith("epoch") else write(path)
    )

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BnnError, match=r"cannot write .*epoch-00000-step-0000001' \(No space left on device\); free"):
        train(small_experiment(epochs=2), tmp_path / "run", save_every="1steps")
