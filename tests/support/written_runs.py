"""Run directories without a training, for what reads only their text files."""

import bnn_keras
from bnn_keras import files, runs
from bnn_keras.runs import Run

KEYS = {"stage": 0, "step": 1, "first": False, "seconds": 2.0, "images_per_second": 500.0}


def write_run(directory, top1=90.0, *, seed=1, epochs=3, finished=True, labels=None, **options):
    """Write the text files of a run of lenet5 on mnist_5k that reaches a top-1 accuracy on its last epoch."""
    experiment = bnn_keras.resolve("lenet5", seed=seed, epochs=epochs, **options).experiment
    directory.mkdir(parents=True)
    run = Run(directory)
    (run / runs.EXPERIMENT).write_text(experiment.to_toml())
    dataset = {"name": "mnist_5k", "version": "1.0.0", "test_examples": 1000}
    dataset["labels"] = labels or list("0123456789")
    files.write_json(
        run / runs.ENVIRONMENT, {"dataset": dataset, "hardware": "2 × CPU", "command": ["bnnk", "train", "lenet5"]}
    )
    for epoch in range(1, epochs + finished):
        accuracy = top1 - (epochs - epoch)
        row = {"epoch": epoch, "top1": accuracy, "val_top1": accuracy, "val_top5": 99.0, "loss": 1 / epoch}
        run.append_metrics({**KEYS, **row, "val_loss": 1 / epoch, "flip_ratio/conv": 0.1 / epoch})
    if finished:
        run.write_result({"top1": top1, "top5": 99.0, "best_top1": top1, "parameters": 1000})
    return directory
