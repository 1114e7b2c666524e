"""Missing and damaged files of a run: found before a training, and restored from its checkpoints."""

import json
import re
import shutil

import pytest
from helpers import contents, flip_bit, run_bnnk, same_weights
from trainings import (
    assert_same_training,
    make_earlier_version,
    small_experiment,
    stepping,
    train_with_copies,
)

from bnn_keras import evaluate, load_run, predict, repair, train
from bnn_keras.errors import BnnError
from bnn_keras.runs import Run

pytestmark = pytest.mark.usefixtures("tiny")

TEXTS = ("experiment.toml", "environment.json", "metrics.jsonl")
WEIGHTS = ("weights.h5", "weights_best.h5")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_object(path):
    path.write_text("{}")


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "truncated": truncate,
    "flipped": flip_bit,
    "{}": replace_by_object,
    "folder": replace_by_folder,
}


@pytest.fixture
def run(stepped, tmp_path):
    return shutil.copytree(stepped / "whole", tmp_path / "run")


@pytest.fixture
def unfinished(stepped, tmp_path):
    """The run, killed before the last checkpoint was written."""
    return shutil.copytree(stepped / "killed-3", tmp_path / "run")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*TEXTS, *WEIGHTS])
def test_damaged_file_is_restored(stepped, run, name, damage):
    """A training names the file before it writes anything, and `repair` restores it."""
    DAMAGES[damage](run / name)
    before = contents(run)
    best_is_missing = (name, damage) == ("weights_best.h5", "missing")
    offer = rf"is damaged: {name} .*; run `bnnk repair {re.escape(str(run))}`, or restore it from a backup"
    with pytest.warns(UserWarning, match=offer) if best_is_missing else pytest.raises(BnnError, match=offer):
        train(stepping(), run)
    assert contents(run) == before
    [repaired] = repair(run)
    assert (repaired.name, repaired.lost) == (name, False)
    assert (repaired.kept is None) == (damage == "missing")
    if name in TEXTS:
        assert (run / name).read_bytes() == (stepped / "whole" / name).read_bytes()
    assert_same_training(Run(run), stepped / "whole")
    assert repair(run) == []
    assert train(stepping(), run) == Run(stepped / "whole").result


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "missing"])
def test_damaged_result_is_written_again(stepped, run, damage):
    DAMAGES[damage](run / "result.json")
    with pytest.raises(BnnError, match=r"result.json (cannot be read|is of another training); run `bnnk repair"):
        train(stepping(), run)
    [repaired] = repair(run)
    assert (repaired.outcome, repaired.kept) == (
        "renamed; the next `bnnk train` writes it",
        "result.json.damaged-1",
    )
    assert train(stepping(), run) == Run(stepped / "whole").result


def test_deleted_weights_of_a_finished_run_are_restored(stepped, run):
    for name in WEIGHTS:
        (run / name).unlink()
    with pytest.raises(BnnError, match=r"has no weights.h5: .*; run `bnnk repair"):
        load_run(run)
    assert [(repaired.name, repaired.outcome) for repaired in repair(run)] == [
        ("weights.h5", "written from checkpoint epoch-00004"),
        ("weights_best.h5", f"written from checkpoint {best_checkpoint(run)}"),
    ]
    assert_same_training(Run(run), stepped / "whole")
    load_run(run)


def best_checkpoint(run):
    rows = Run(run).metrics
    return f"epoch-{max(rows, key=lambda row: row['val_top1'])['epoch']:05d}"


def test_best_weights_that_are_older_than_the_checkpoints_are_lost(run):
    """The training goes on without them."""
    shutil.rmtree(run / "checkpoints" / best_checkpoint(run))
    (run / "weights_best.h5").write_bytes(b"")
    (repaired,) = repair(run)
    assert repaired.lost
    assert repaired.outcome == "lost: no undamaged checkpoint is of the best epoch; use weights.h5"
    with pytest.warns(UserWarning, match="weights_best.h5 is missing"):
        train(stepping(), run)


def test_weights_of_an_earlier_epoch_are_trained_further(stepped, run):
    """The newest checkpoint is damaged too: the last epoch is trained again."""
    flip_bit(run / "weights.h5")
    flip_bit(run / "checkpoints" / "epoch-00004" / "state.json")
    checkpoint, weights = repair(run)
    assert checkpoint.name.startswith("checkpoints/epoch-00004 (")
    assert checkpoint.outcome == "epoch-00003 is used instead"
    assert weights.outcome == (
        "written from checkpoint epoch-00003, of epoch 3 of 4; `bnnk train` trains the others again"
    )
    with pytest.warns(UserWarning, match="damaged checkpoint: epoch-00004"):
        train(stepping(), run)
    assert_same_training(Run(run), stepped / "whole")


@pytest.mark.parametrize(
    "name",
    [name if name == "weights.h5" else pytest.param(name, marks=pytest.mark.slow) for name in (*TEXTS, *WEIGHTS)],
)
def test_unfinished_run_is_repaired_and_resumed(stepped, unfinished, name):
    flip_bit(unfinished / name)
    with pytest.raises(BnnError, match=f"is damaged: {name} "):
        train(stepping(), unfinished)
    repair(unfinished)
    train(stepping(), unfinished)
    assert_same_training(Run(unfinished), stepped / "whole")


def test_several_defects_are_listed_together(unfinished):
    (unfinished / "metrics.jsonl").unlink()
    flip_bit(unfinished / "weights.h5")
    with pytest.raises(BnnError, match=r"metrics.jsonl is missing, weights.h5 does not match its digest; run"):
        train(stepping(), unfinished)


def test_run_without_checkpoints_is_lost(unfinished):
    shutil.rmtree(unfinished / "checkpoints")
    before = contents(unfinished)
    with pytest.raises(BnnError, match="checkpoints has no undamaged checkpoint after epoch 0, but metrics of 4 epoch"):
        train(stepping(), unfinished)
    (repaired,) = repair(unfinished)
    assert (repaired.name, repaired.lost) == ("checkpoints", True)
    assert repaired.outcome == "lost: the training cannot be resumed; its weights can be evaluated and exported"
    assert contents(unfinished) == before


def test_finished_run_needs_no_checkpoints(stepped, run):
    shutil.rmtree(run / "checkpoints")
    assert repair(run) == []
    assert train(stepping(), run) == Run(stepped / "whole").result
    flip_bit(run / "weights.h5")
    before = contents(run)
    (repaired,) = repair(run)
    assert (repaired.outcome, repaired.lost) == ("lost: there is no undamaged checkpoint of a finished epoch", True)
    assert contents(run) == before


@pytest.mark.parametrize("name", ["experiment.toml", "environment.json"])
def test_file_of_another_run_is_found(stepped, run, name, tmp_path):
    """A reader of the weights notices it, because they begin with the digests of these files."""
    text = (run / name).read_text()
    (run / name).write_text(text.replace("seed = 1", "seed = 2").replace('"seed": 1', '"seed": 2'))
    assert (run / name).read_text() != text
    with pytest.raises(BnnError, match=f"weights.h5' was trained with another {name} than that of the run; run `bnnk"):
        load_run(run)
    (repaired,) = repair(run)
    assert (repaired.name, repaired.defect) == (name, "differs from its copy in epoch-00004")
    assert (run / name).read_text() == text


def test_result_of_another_training_is_found(run):
    result = Run(run).result
    Run(run).write_result({**result, "seed": 2})
    (repaired,) = repair(run)
    assert (repaired.name, repaired.defect) == ("result.json", "is of another training")


def test_readers_offer_the_repair(run):
    """Every reader of a file of the run, with an environment that is JSON but not an environment."""
    replace_by_object(run / "environment.json")
    for read in (lambda: evaluate(run), lambda: predict(run, "x.npy"), lambda: Run(run).environment):
        with pytest.raises(BnnError, match=r"(environment.json|another environment.json).*; run `bnnk repair"):
            read()


def test_run_of_an_earlier_version(stepped, unfinished):
    """Its weights have no digests, and its checkpoints no copies: it is resumed, and what is lost is named."""
    make_earlier_version(unfinished)
    assert repair(unfinished) == []
    load_run(unfinished)
    (unfinished / "metrics.jsonl").rename(unfinished / "hidden")
    (repaired,) = repair(unfinished)
    assert (repaired.defect, repaired.outcome) == ("is missing", "lost: no undamaged checkpoint has a copy")
    (unfinished / "hidden").rename(unfinished / "metrics.jsonl")
    train(stepping(), unfinished)
    assert_same_training(Run(unfinished), stepped / "whole")


@pytest.mark.parametrize("part", ["start", "end"])
def test_digest_that_is_damaged(run, part):
    content = (run / "weights.h5").read_bytes()
    zeros = bytes(512)
    (run / "weights.h5").write_bytes(zeros + content[512:] if part == "start" else content[:-512] + zeros)
    with pytest.raises(BnnError, match="does not match its digest"):
        load_run(run)


@pytest.mark.usefixtures("eager")
def test_weights_of_a_stage_are_those_of_its_network(tmp_path):
    """The network of the checkpoint's stage is built, with its annealed values."""
    irnet = small_experiment(scheme="irnet", epochs=1)
    stage = irnet.stages[0].model_copy(update={"scheme": small_experiment(scheme="bireal").scheme})
    train_with_copies(irnet.model_copy(update={"stages": [*irnet.stages, stage, stage]}), tmp_path)
    for epoch in (2, 1):
        damaged, intact = tmp_path / f"killed-{epoch}", tmp_path / f"killed-{epoch - 1}"
        (damaged / "weights.h5").unlink()
        (repaired,) = repair(damaged)
        assert repaired.outcome == f"written from checkpoint epoch-{epoch:05d}"
        assert same_weights(damaged / "weights.h5", intact / "weights.h5")


def test_not_a_run(tmp_path):
    with pytest.raises(BnnError, match="no run in"):
        repair(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_command_prints_each_defect(run):
    assert run_bnnk("repair", run).stdout == f"{run}: all files are intact\n"
    flip_bit(run / "weights.h5")
    result = run_bnnk("repair", run, "--json")
    assert json.loads(result.stdout) == [
        {
            "name": "weights.h5",
            "defect": "does not match its digest",
            "outcome": "written from checkpoint epoch-00004",
            "lost": False,
            "kept": "weights.h5.damaged-1",
        }
    ]
    assert result.exit_code == 0
    shutil.rmtree(run / "checkpoints")
    (run / "experiment.toml").unlink()
    result = run_bnnk("repair", run)
    assert result.exit_code == 1
    assert "lost: no undamaged checkpoint has a copy" in " ".join(result.stdout.split())
