"""Kill trainings at random moments, resume them, and compare their ends with that of an uninterrupted training.

    python tests/reliability/kills.py                      # 20 trainings, kill -9, up to three times each
    python tests/reliability/kills.py --signal TERM
    python tests/reliability/kills.py --processes 2        # one of two processes is killed

A checkpoint is written every two steps, so that many kills hit one. Weights and metrics must be equal bit for bit, and
no temporary file may be left. Prints a line per training, and exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from bnn_keras.launching import free_addresses

COMMAND = [sys.executable, "-c", "from bnn_keras.cli import main; main()", "train", "lenet5"]
JOB = ["--batch-size", "500", "--save-every", "2steps", "--quiet"]
KEYS = ("epoch", "step", "loss", "cross_entropy", "top1", "val_loss", "val_top1", "flip_ratio", "learning_rate")
LIMIT = 900  # seconds for one command


def main() -> None:
    """Run the comparison with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3, help="most kills of one training")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        different = compare(Path(folder), **vars(arguments))
    sys.exit(1 if different else 0)


def compare(folder: Path, runs: int, kills: int, epochs: int, signal: str, processes: int, seed: int) -> int:
    """Train `runs` times with interruptions, and return how many trainings ended differently."""
    moments = random.Random(seed)
    start = time.monotonic()
    finish(start_training(folder / "whole", epochs, processes))
    seconds = time.monotonic() - start
    print(f"uninterrupted: {seconds:.0f} s", flush=True)
    different = 0
    for number in range(runs):
        directory, places = folder / f"run-{number}", []
        for _ in range(moments.randint(1, kills)):
            if not interrupt(start_training(directory, epochs, processes), moments, seconds, signal):
                places.append("the end")
                break
            places.append(place_of(directory))
        finish(start_training(directory, epochs, processes))
        problems = differences(folder / "whole", directory)
        different += bool(problems)
        print(f"{number}: {signal} after {', '.join(places)}: {'; '.join(problems) or 'equal'}", flush=True)
    print(f"{runs - different} of {runs} trainings are equal bit for bit", flush=True)
    return different


def start_training(directory: Path, epochs: int, processes: int) -> list[subprocess.Popen[str]]:
    """Start the processes of a training."""
    command = [*COMMAND, *JOB, "--epochs", str(epochs), "--run", str(directory)]
    addresses = free_addresses(processes)
    started = []
    for index in range(processes):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        config = {"TF_CONFIG": json.dumps(task)} if processes > 1 else {}
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **config}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes))
    return started


def finish(processes: list[subprocess.Popen[str]]) -> None:
    """Wait for a training, which must succeed."""
    outputs = [process.communicate(timeout=LIMIT)[1] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a training failed:\n" + "\n".join(output[-3000:] for output in outputs))


def interrupt(processes: list[subprocess.Popen[str]], moments: random.Random, seconds: float, name: str) -> bool:
    """Send a signal to one of the processes at a random moment; return whether it ended the training."""
    chosen = moments.choice(processes)
    try:
        chosen.wait(moments.uniform(0.2, 0.9) * seconds)
    except subprocess.TimeoutExpired:
        chosen.send_signal(getattr(signal, f"SIG{name}"))
    for process in processes:
        process.communicate(timeout=LIMIT)
    return any(process.returncode for process in processes)


def place_of(directory: Path) -> str:
    """Return the name of the newest checkpoint of a run."""
    names = sorted(path.name for path in directory.glob("checkpoints/epoch-*"))
    return names[-1] if names else "the start"


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
