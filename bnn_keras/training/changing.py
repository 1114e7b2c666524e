"""Train a run further with more epochs or other hyper-parameters: what may change, and the files that say so."""

from __future__ import annotations

import re
from typing import Any

from bnn_keras import checkpoints, files, runs
from bnn_keras.build import depending_on_length
from bnn_keras.checkpoints import Checkpoint, State
from bnn_keras.errors import BnnError
from bnn_keras.experiment import Experiment
from bnn_keras.runs import Run

# Neither the network nor the optimizer's state depends on these keys.
_CHANGEABLE = re.compile(
    r"stages\.\d+\.(epochs|label_smoothing|distillation\.(temperature|weight)|optimizer\.(?!name).+)"
)


def require_changeable(run: Run, experiment: Experiment, checkpoint: Checkpoint | None) -> None:
    """Verify that a run can be trained further as another experiment.

    Args:
        run: The run.
        experiment: The experiment to go on with.
        checkpoint: The newest checkpoint of the run.

    Raises:
        BnnError: There is no run or checkpoint; a key differs that cannot change; a schedule depends on the number of
            epochs; or all epochs are finished.
    """
    before, where = Run.read(run.directory).experiment, repr(str(run.directory))
    changes = experiment.differences(before)
    fixed = [change for change in changes if not _CHANGEABLE.match(change)]
    if fixed:
        raise BnnError(
            f"cannot continue {where} with another {'; '.join(fixed)} (requested / existing); only epochs, label "
            "smoothing and hyper-parameters of the optimizer can change; start a new run from its weights with --from"
        )
    if checkpoint is None:
        raise BnnError(f"cannot continue {where}: it has no checkpoint; resume it without --continue")
    done = checkpoint.state.started_epochs
    if changes and (experiment.epochs < done or experiment.epochs == checkpoint.state.epoch):
        raise BnnError(
            f"cannot continue {where} to {experiment.epochs} epochs: it has trained {done}; give more epochs"
        )
    for index, (stage, old) in enumerate(zip(experiment.stages, before.stages, strict=True)):
        if stage.epochs != old.epochs:
            flat, flat_before = experiment.flat(), before.flat()
            same = [
                key for key in depending_on_length(experiment, index) if _below(flat, key) == _below(flat_before, key)
            ]
            if same:
                raise BnnError(
                    f"cannot continue {where} with {stage.epochs} instead of {old.epochs} epochs: {', '.join(same)} "
                    "depend on the number of epochs; give other schedules with --set, or start a new run from its "
                    "weights with --from"
                )


def _below(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name == key or name.startswith(f"{key}.")}


def change(run: Run, experiment: Experiment, state: State) -> None:
    """Let a run be one of another experiment, and note it in environment.json.

    The newest checkpoint is the first file that changes: after a kill, `repair` restores the others from it.

    Args:
        run: The run, owned by this process.
        experiment: The experiment, which `require_changeable` accepts.
        state: Where the training goes on.

    Raises:
        BnnError: A file cannot be written.
    """
    changes = experiment.differences(run.experiment)
    if not changes:
        return
    environment = run.environment
    note = {"epoch": state.epoch, "step": state.step, "requested / before": changes}
    environment["changes"] = [*environment.get("changes", []), note]
    texts = {runs.EXPERIMENT: experiment.to_toml(), runs.ENVIRONMENT: files.to_json(environment)}
    contents = {name: text.encode() for name, text in texts.items()}
    files.remove(run / runs.RESULT)
    for checkpoint in checkpoints.verified(run)[0]:
        checkpoints.replace_copies(checkpoint, contents)
    for name, text in texts.items():
        files.write_text(run / name, text)
    for name in (runs.WEIGHTS, runs.BEST_WEIGHTS):
        if (run / name).exists():
            runs.renew_digests(run / name, contents)
