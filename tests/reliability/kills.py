"""Kill trainings at random moments, resume them, and compare their ends with that of an uninterrupted training.

    python tests/reliability/kills.py                      # 20 trainings, kill -9, up to three times each
    python tests/reliability/kills.py --signal TERM
    python tests/reliability/kills.py --processes 2        # one of two processes is killed

A checkpoint is written every two steps. Moments are drawn between checkpoints, whatever the speed of the machine, and
half of the kills then wait for a temporary file of the run, so that many hit a file that is being written. Weights and
metrics must be equal bit for bit, and no temporary file may be left. Prints a line per training with the phase that
each kill hit, then how often each phase was hit, and exits with 1 if a training differs.

All trainings are forked from one process that has imported TensorFlow, which saves a third of the time.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path

import h5py
import numpy as np

import bnn_keras.training.trainer  # noqa: F401  imported before the fork
from bnn_keras.cli import main as bnnk
from bnn_keras.launching import LOST, free_addresses

JOB = ["train", "lenet5", "--batch-size", "500", "--save-every", "2steps", "--quiet"]
KEYS = ("epoch", "step", "loss", "cross_entropy", "top1", "val_loss", "val_top1", "flip_ratio", "learning_rate")
STEPS = 8  # of an epoch
LIMIT = 3600  # seconds for one command
POLL = 0.002  # seconds
START = 10.0  # seconds at most between the start of a training and a signal that waits for no checkpoint
PAUSE = 1.0  # seconds at most between a checkpoint and a signal
# What the stacks of a process contain in each phase; the last match counts.
PHASES = {
    "start": ("",),
    "training": (" in fit",),
    "end of an epoch": (" in on_epoch_end",),
    "evaluation": (" in evaluate",),
    "files": (" in append_metrics", " in save_weights", " in write_result", " in write_text"),
    "checkpoint": ('bnn_keras/checkpoints.py", line', " in save\n"),
}


def main() -> None:
    """Run the comparison with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3, help="most kills of one training")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments")
    arguments = parser.parse_args()
    faulthandler.register(signal.SIGUSR1)  # the processes inherit it
    with tempfile.TemporaryDirectory() as folder:
        different = compare(Path(folder), **vars(arguments))
    sys.exit(1 if different else 0)


def compare(folder: Path, runs: int, kills: int, epochs: int, signal: str, processes: int, seed: int) -> int:
    """Train `runs` times with interruptions, and return how many trainings ended differently."""
    moments = random.Random(seed)
    while not has_ended(start_training(folder / "whole", epochs, processes)):
        shutil.rmtree(folder / "whole")
    different, number, hit = 0, 0, collections.Counter[str]()
    while number < runs:
        directory, places = folder / f"run-{number}", []
        for _ in range(moments.randint(1, kills)):
            last = progress(directory)
            target = moments.randrange(min(last, epochs * STEPS - 1), epochs * STEPS)
            training = start_training(directory, epochs, processes)
            phase = interrupt(training, directory, moments, target if target > last else None, signal)
            if not phase:
                break
            hit[phase] += 1
            places.append(f"{phase} ({newest_checkpoint(directory) or 'no checkpoint'})")
        while not has_ended(start_training(directory, epochs, processes)):
            pass
        if not places:  # it ended before the signal
            shutil.rmtree(directory)
            continue
        problems = differences(folder / "whole", directory)
        different += bool(problems)
        print(f"{number}: {signal} in {', '.join(places)}: {'; '.join(problems) or 'equal'}", flush=True)
        number += 1
    print(f"{hit.total()} interruptions: " + ", ".join(f"{phase} {hit[phase]}" for phase in PHASES))
    print(f"{runs - different} of {runs} interrupted trainings are equal bit for bit", flush=True)
    return different


def start_training(directory: Path, epochs: int, processes: int) -> list[BaseProcess]:
    """Start the processes of a training."""
    arguments = [*JOB, "--epochs", str(epochs), "--run", str(directory)]
    addresses = free_addresses(processes)
    started = []
    for index in range(processes):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        config = {"TF_CONFIG": json.dumps(task)} if processes > 1 else {}
        log = f"{directory}-{index}.log"
        Path(log).touch()
        started.append(multiprocessing.get_context("fork").Process(target=run, args=(arguments, config, log), name=log))
        started[-1].start()
    return started


def run(arguments: list[str], config: dict[str, str], log: str) -> None:
    """Run a command in a forked process. SIGUSR1 adds the stacks of its threads to the log (`faulthandler`)."""
    with open(log, "a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(config)
    bnnk(arguments)


def has_ended(processes: list[BaseProcess]) -> bool:
    """Wait for a training; return False if one of its processes lost another one, as on a very busy machine.

    Raises:
        SystemExit: It has failed.
    """
    for process in processes:
        process.join(LIMIT)
    codes = {process.exitcode for process in processes}
    if not codes <= {0, LOST}:
        raise SystemExit("a training failed:\n" + "\n".join(Path(each.name).read_text()[-3000:] for each in processes))
    return codes == {0}


def interrupt(
    processes: list[BaseProcess],
    directory: Path,
    moments: random.Random,
    target: int | None,
    name: str,
) -> str | None:
    """Send a signal to one of the processes at a random moment, and wait for all.

    Args:
        processes: The processes of a training.
        directory: Its run.
        moments: Draws the moment.
        target: Steps of the checkpoint to wait for; None for a moment before the next checkpoint.
        name: The signal.

    Returns:
        The phase that the process was in; None if the training had ended.
    """
    chosen = moments.choice(processes)
    if target is None:
        chosen.join(moments.uniform(0, START))
    else:
        while chosen.is_alive() and progress(directory) < target:
            chosen.join(POLL)
        chosen.join(moments.uniform(0, PAUSE))
    if moments.random() < 0.5:
        while chosen.is_alive() and not any(directory.rglob(".*.new*")):
            chosen.join(POLL)
    phase = phase_of(chosen)
    if chosen.is_alive():
        os.kill(chosen.pid or 0, getattr(signal, f"SIG{name}"))
    for process in processes:
        process.join(LIMIT)
    return phase if any(process.exitcode for process in processes) else None


def phase_of(process: BaseProcess) -> str:
    """Return the phase that a process is in, from the stacks of its threads."""
    log = Path(process.name)
    length = log.stat().st_size
    if process.is_alive():
        os.kill(process.pid or 0, signal.SIGUSR1)
        process.join(0.005)
    stacks = log.read_bytes()[length:].decode()
    return next(phase for phase in reversed(PHASES) if any(part in stacks for part in PHASES[phase]))


def newest_checkpoint(directory: Path) -> str:
    """Return the name of the newest checkpoint of a run; "" if it has none."""
    return max((path.name for path in directory.glob("checkpoints/epoch-*")), default="")


def progress(directory: Path) -> int:
    """Return the number of steps until the newest checkpoint of a run."""
    _, epoch, *within = newest_checkpoint(directory).split("-") if newest_checkpoint(directory) else ("", "0")
    return int(epoch) * STEPS + int((within or ["0"])[-1])


def differences(whole: Path, run: Path) -> list[str]:
    """Return what differs between the end of two runs."""
    found = [name for name in ("weights.h5", "weights_best.h5") if weights(whole / name) != weights(run / name)]
    rows = [[json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()] for each in (whole, run)]
    if [[row[key] for key in KEYS] for row in rows[0]] != [[row[key] for key in KEYS] for row in rows[1]]:
        found.append("metrics.jsonl")
    found += [f"{path.relative_to(run)} is left" for path in run.rglob(".*") if path.name != ".lock"]
    return found


def weights(file: Path) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Return shape and bytes of the arrays of a file of weights, by name."""
    arrays: dict[str, tuple[tuple[int, ...], bytes]] = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item.shape, np.asarray(item).tobytes()

    with h5py.File(file) as stream:
        stream.visititems(add)
    return arrays


if __name__ == "__main__":
    main()
