"""Imports with epoch, best accuracy and the optimizer's state: the training goes on where the reference's stopped."""

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest

from bnn_keras import BnnError, checkpoints, export_run, import_checkpoint, resolve, train
from bnn_keras.build import build_model, build_optimizer, build_schedules
from bnn_keras.interop import from_reference, state_dict, tensors_of, to_reference
from bnn_keras.optimizers import set_hyperparameter
from bnn_keras.runs import Run
from bnn_keras.training import repair

torch = pytest.importorskip("torch")
SMALL = {"dataset": "fake", "overrides": ["data.examples=16", "stages.0.batch_size=8", "stages.0.epochs=4"]}
CHOICES = {"wrn_20_1": {**SMALL, "overrides": [*SMALL["overrides"], "network.depth=8"]}, "birealnet18": SMALL}


def random_like(tensors, seed):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(value.shape, np.float32) for name, value in tensors.items()}


def is_parameter(name):
    return "running_" not in name


@dataclasses.dataclass
class Trainer:
    """Parameters and an optimizer of PyTorch, as a reference's trainer has them."""

    tensors: dict
    optimizer_of: object

    def __post_init__(self):
        self.parameters = {
            name: torch.nn.Parameter(torch.from_numpy(value.copy()))
            for name, value in self.tensors.items()
            if is_parameter(name)
        }
        self.optimizer = self.optimizer_of(self.parameters)

    def step(self, seed):
        """Take a step with random gradients, and return them."""
        gradients = random_like(self.parameters, seed)
        for name, parameter in self.parameters.items():
            parameter.grad = torch.from_numpy(gradients[name].copy())
        self.optimizer.step()
        return gradients

    def save(self, file, **entries):
        state = OrderedDict((f"module.{name}", torch.from_numpy(value.copy())) for name, value in self.tensors.items())
        state |= {f"module.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        torch.save({**entries, "state_dict": state, "optimizer": self.optimizer.state_dict()}, file)


def of_wide_resnet(parameters):
    return torch.optim.SGD(parameters.values(), 0.1, momentum=0.9, weight_decay=5e-4)


def of_bireal(parameters):
    kernels = [parameter for parameter in parameters.values() if parameter.ndim == 4]
    others = [parameter for parameter in parameters.values() if parameter.ndim != 4]
    return torch.optim.Adam([{"params": others}, {"params": kernels, "weight_decay": 0.0}], 0.001)


def trainer_of(network, optimizer_of):
    """Return a trainer with the weights of a new network, in PyTorch's order."""
    return Trainer(state_dict(build_model(resolve(network, **CHOICES[network]).experiment)), optimizer_of)


@pytest.fixture
def wide(tmp_path):
    """Return a trainer after two steps, and the file that it saved after its second epoch."""
    trainer = trainer_of("wrn_20_1", of_wide_resnet)
    trainer.step(1), trainer.step(2)
    trainer.save(tmp_path / "checkpoint.pth.tar", epoch=1, scheduler={"last_epoch": 1})
    return trainer, tmp_path / "checkpoint.pth.tar"


@pytest.mark.parametrize(
    ("network", "optimizer_of", "rate"),
    [("wrn_20_1", of_wide_resnet, 0.1), pytest.param("birealnet18", of_bireal, 0.001, marks=pytest.mark.slow)],
)
def test_next_step_is_that_of_pytorch(tmp_path, network, optimizer_of, rate):
    """Both optimizers continue from the same file with the same gradients."""
    trainer = trainer_of(network, optimizer_of)
    trainer.step(1), trainer.step(2)
    trainer.save(tmp_path / "x.pth.tar", epoch=1)
    import_checkpoint(tmp_path / "x.pth.tar", tmp_path / "run", network, **CHOICES[network])

    experiment = Run(tmp_path / "run").experiment
    model = build_model(experiment)
    stage = experiment.stages[0]
    optimizer = build_optimizer(stage.optimizer, stage.epochs)
    checkpoints.latest(Run(tmp_path / "run")).restore(model, optimizer)
    set_hyperparameter(optimizer, "learning_rate", rate)
    variables = {tensor.name: tensor.variable for tensor in tensors_of(model)}
    gradients = from_reference(model, {**trainer.tensors, **trainer.step(3)})
    optimizer.apply_gradients(
        [(gradients[name], variables[name]) for name in trainer.parameters if variables[name].trainable]
    )

    ours = to_reference(model)
    for name, parameter in trainer.parameters.items():
        expected = parameter.detach().numpy()
        step = np.abs(expected - trainer.tensors[name]).max()
        np.testing.assert_allclose(ours[name], expected, rtol=1e-6, atol=1e-3 * step, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_training_goes_on(wide, tmp_path):
    """Epochs 3 and 4 of 4 are trained, at their rates of learning."""
    file = wide[1]
    resolution = import_checkpoint(file, tmp_path / "run", "wrn_20_1", **CHOICES["wrn_20_1"])
    run = Run(tmp_path / "run")
    state = checkpoints.latest(run).state
    assert (state.epoch, state.step, state.imported, state.metrics_length) == (2, 4, 2, 0)
    assert run.environment["imported"] | {"sha256": ""} == {
        "file": str(file),
        "sha256": "",
        "epochs": 2,
        "best_top1": None,
        "optimizer_state": True,
    }
    assert repair(run.directory) == []
    result = train(resolution.experiment, run.directory, plain=True)
    assert [row["epoch"] for row in run.metrics] == [3, 4]
    stage = resolution.experiment.stages[0]
    rate = build_schedules(stage.optimizer, stage.epochs)["learning_rate"]
    assert [row["learning_rate"] for row in run.metrics] == [rate(2), rate(3)]
    assert (result["epochs"], result["best_top1"]) == (4, max(row["val_top1"] for row in run.metrics))
    assert checkpoints.latest(run).state.step == 8
    assert repair(run.directory) == []


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_resumed_import_equals_one_without_interruption(wide, tmp_path):
    weights = []
    for name, stops in (("whole", 0), ("interrupted", 1)):
        resolution = import_checkpoint(wide[1], tmp_path / name, "wrn_20_1", **CHOICES["wrn_20_1"])
        for _ in range(stops):
            with pytest.raises(KeyboardInterrupt):
                train(resolution.experiment, tmp_path / name, plain=True, after_epoch=interrupt)
        train(resolution.experiment, tmp_path / name, plain=True)
        weights.append(Run(tmp_path / name).metrics[-1]["val_loss"])
    assert weights[0] == weights[1]


def interrupt(row):
    raise KeyboardInterrupt


def test_weights_only(wide, tmp_path):
    import_checkpoint(wide[1], tmp_path / "run", "wrn_20_1", weights_only=True, **CHOICES["wrn_20_1"])
    run = Run(tmp_path / "run")
    assert checkpoints.latest(run).state == checkpoints.State()
    assert run.environment["imported"]["optimizer_state"] is False


def test_finished_training_has_no_epochs_left(wide, tmp_path):
    wide[0].save(wide[1], epoch=299)
    resolution = import_checkpoint(wide[1], tmp_path / "run", "wrn_20_1", **CHOICES["wrn_20_1"])
    assert checkpoints.latest(Run(tmp_path / "run")).state.epoch == 4
    with pytest.raises(BnnError, match="was imported with all of its 4 epochs finished; to train it further, import"):
        train(resolution.experiment, tmp_path / "run", plain=True)


@pytest.mark.slow
def test_best_accuracy_is_kept_without_an_epoch(tmp_path, data_dir):
    """XNOR-Net-PyTorch's LeNet-5: the best weights are those of the file until an epoch is better."""
    keys = ["stages.0.epochs=1", "stages.0.batch_size=1000", "stages.0.optimizer.learning_rate=1e-9"]
    experiment = resolve("lenet5", overrides=keys).experiment
    state = {name: torch.from_numpy(value.copy()) for name, value in to_reference(build_model(experiment)).items()}
    torch.save({"acc": 99.2, "state_dict": state}, tmp_path / "LeNet_5.best.pth.tar")
    import_checkpoint(tmp_path / "LeNet_5.best.pth.tar", tmp_path / "run", "lenet5", overrides=keys)
    result = train(experiment, tmp_path / "run", data_dir=data_dir, plain=True)
    assert result["best_top1"] == 99.2 > result["top1"]
    assert Run(tmp_path / "run").environment["imported"]["best_top1"] == 99.2


# --- what is refused ---


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"epoch": "two"}, "the checkpoint has epoch = two; expected a number from 0 to 1e.06: .* with --weights-only"),
        ({"epoch": -3}, "the checkpoint has epoch = -3"),
        ({"optimizer": [1]}, "the entry 'optimizer' of the checkpoint is no state of an optimizer"),
    ],
)
def test_entries_of_another_trainer(wide, tmp_path, entries, message):
    content = torch.load(wide[1], weights_only=True)
    torch.save({**content, **entries}, wide[1])
    with pytest.raises(BnnError, match=message):
        import_checkpoint(wide[1], tmp_path / "run", "wrn_20_1", **CHOICES["wrn_20_1"])
    assert not (tmp_path / "run").exists()


def test_optimizer_with_other_parameters(wide, tmp_path):
    content = torch.load(wide[1], weights_only=True)
    content["optimizer"]["param_groups"][0]["params"].pop()
    torch.save(content, wide[1])
    with pytest.raises(
        BnnError, match=r"'optimizer' of the checkpoint has 9 parameters, expected 10; it is of another"
    ):
        import_checkpoint(wide[1], tmp_path / "run", "wrn_20_1", **CHOICES["wrn_20_1"])


def test_state_of_another_optimizer_is_left_out_with_a_note(wide, tmp_path):
    resolution = import_checkpoint(wide[1], tmp_path / "run", "wrn_20_1", optimizer="adam_torch", **CHOICES["wrn_20_1"])
    assert "the optimizer's state is not imported: adam_torch has none of momentum_buffer" in resolution.note
    assert checkpoints.latest(Run(tmp_path / "run")).state.epoch == 2


# --- and back ---


@pytest.mark.parametrize(
    ("network", "optimizer_of"),
    [("wrn_20_1", of_wide_resnet), pytest.param("birealnet18", of_bireal, marks=pytest.mark.slow)],
)
def test_exported_state_continues_in_pytorch(tmp_path, network, optimizer_of):
    """Reference file → run → reference file: PyTorch's optimizer loads its own state again, bit for bit."""
    trainer = trainer_of(network, optimizer_of)
    trainer.step(1), trainer.step(2)
    trainer.save(tmp_path / "given.pth.tar", epoch=1)
    import_checkpoint(tmp_path / "given.pth.tar", tmp_path / "run", network, **CHOICES[network])
    export_run(tmp_path / "run", "reference", tmp_path / "written.pth.tar")
    given, written = (torch.load(tmp_path / f"{name}.pth.tar", weights_only=True) for name in ("given", "written"))
    assert written["epoch"] == 1
    states = [content["optimizer"]["state"] for content in (given, written)]
    assert states[0].keys() == states[1].keys()
    for number, slots in states[0].items():
        assert slots.keys() == states[1][number].keys()
        assert all(np.array_equal(slots[name], states[1][number][name]) for name in slots)
    if network == "wrn_20_1":  # as its trainer stores after epochs 0 and 1 of the first cycle
        assert written["scheduler"]["last_epoch"] == 1 + written["epoch"]
        assert written["optimizer"]["param_groups"][0]["initial_lr"] == 0.1
    decays = [[group["weight_decay"] for group in content["optimizer"]["param_groups"]] for content in (given, written)]
    assert decays[0] == decays[1]

    again = Trainer(
        {name.removeprefix("module."): value.numpy() for name, value in written["state_dict"].items()}, optimizer_of
    )
    again.optimizer.load_state_dict(written["optimizer"])
    for optimizer in (trainer.optimizer, again.optimizer):
        for group in optimizer.param_groups:
            group["lr"] = 0.01
    trainer.step(3), again.step(3)
    for name, parameter in trainer.parameters.items():
        assert np.array_equal(parameter.detach(), again.parameters[name].detach()), name
