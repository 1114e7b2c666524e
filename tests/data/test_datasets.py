import fcntl
import gzip
import hashlib
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bnn_keras.data import (
    available_data,
    describe,
    evaluation_batches,
    hold_out,
    open_data,
    open_dataset,
    open_test_data,
    preparing,
)
from bnn_keras.data.mnist_5k import FILE
from bnn_keras.errors import BnnError
from bnn_keras.experiment import resolve
from bnn_keras.location import DataLocation


def write_idx(path, array):
    """Write an array in MNIST's format: big-endian magic number and shape, then bytes, compressed with gzip."""
    header = np.array([0x800 + array.ndim, *array.shape], ">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """A folder of files in Fashion-MNIST's format, with a hundredth of the images; each image has one grey value."""
    folder = tmp_path / "manual"
    folder.mkdir()
    for prefix, split, number in (("train", "TRAIN", 600), ("t10k", "TEST", 100)):
        monkeypatch.setattr(f"tensorflow_datasets.image_classification.mnist._{split}_EXAMPLES", number)
        labels = (np.arange(number) % 10).astype(np.uint8)
        images = np.repeat(labels, 28 * 28).reshape(number, 28, 28)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder


def test_shipped_digits_match_readme():
    with np.load(FILE) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert (images.shape, images.dtype, labels.dtype) == ((5000, 28, 28), np.uint8, np.uint8)
    assert np.bincount(labels).tolist() == [500] * 10
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert digest in (FILE.parent / "README.md").read_text()


def test_every_fifth_row_of_mnist_5k_is_test(data_dir):
    dataset = open_dataset("mnist_5k", DataLocation(data_dir))
    assert dataset.labels == [str(digit) for digit in range(10)]
    assert dataset.version == "1.0.0"
    with np.load(FILE) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    for split, selected in (("train", np.arange(5000) % 5 != 4), ("test", np.arange(5000) % 5 == 4)):
        assert dataset.examples(split) == selected.sum()
        pairs = [(image.tobytes(), int(label)) for image, label in dataset.pairs(split).as_numpy_iterator()]
        assert sorted(pairs) == sorted(
            zip((image.tobytes() for image in images[selected]), labels[selected].tolist(), strict=True)
        )


def contents_of(dataset, split):
    return [(image.tobytes(), int(label)) for image, label in dataset.pairs(split).as_numpy_iterator()]


@pytest.mark.parametrize(("validation", "number"), [(0.1, 40), (1, 1), (399, 399)])
def test_held_out_images_are_a_part_of_the_training_images(few_digits, validation, number):
    """The same for a seed; no image is in both parts, none is missing, and the test images are not touched."""
    dataset = open_dataset("mnist_5k", DataLocation(few_digits))

    def parts(seed):
        experiment = resolve("lenet5", seed=seed, overrides=[f"data.validation={validation}"]).experiment
        held_out = hold_out(dataset, experiment)
        return [contents_of(held_out, split) for split in (held_out.info.train, held_out.info.test)]

    train, validated = parts(seed=1)
    assert len(validated) == number
    assert sorted(train + validated) == sorted(contents_of(dataset, "train"))
    assert parts(seed=1) == [train, validated]
    assert any(parts(seed)[1] != validated for seed in range(2, 8))  # of 399 images there are two ranges only


def test_held_out_images_are_those_of_all_classes(data_dir):
    experiment = resolve("lenet5", overrides=["data.validation=0.1"]).experiment
    held_out = hold_out(open_dataset("mnist_5k", DataLocation(data_dir)), experiment)
    counts = np.bincount([label for _, label in contents_of(held_out, held_out.info.test)])
    assert len(counts) == 10
    assert counts.min() >= 20


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ("4000", r"data.validation = 4000 holds out 4000 of 4000 training images of 'mnist_5k'; expected fewer"),
        ("0.9999", r"holds out 4000 of 4000"),
        ("nothing", r"data.validation = 'nothing' is no split of the dataset; 'mnist_5k' has these other splits: none"),
        ("test", r"data.validation = 'test' is its test images"),
        ("train", r"data.validation = 'train' is its training images"),
    ],
)
def test_held_out_images_that_do_not_exist(data_dir, validation, message):
    experiment = resolve("lenet5", overrides=[f"data.validation={validation}"]).experiment
    with pytest.raises(BnnError, match=message):
        hold_out(open_dataset("mnist_5k", DataLocation(data_dir)), experiment)


def test_validation_split_of_a_folder(tmp_path):
    """It is taken if there is also a test split, else a tenth of the training images is held out."""
    for split, number in (("train", 20), ("validation", 5), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(number):
                (tmp_path / split / name / f"{index}.png").write_bytes(f"{split}/{name}/{index}".encode())
    row = describe("image_folder", DataLocation(tmp_path))
    experiment = resolve("resnet18", dataset=row).experiment
    assert experiment.data.validation == "validation"
    held_out = hold_out(open_dataset("image_folder", DataLocation(tmp_path)), experiment)
    assert [held_out.examples(split) for split in (held_out.info.train, held_out.info.test)] == [40, 10]
    shutil.rmtree(tmp_path / "test")
    row = describe("image_folder", DataLocation(tmp_path))
    experiment = resolve("resnet18", dataset=row).experiment
    assert (row.test, experiment.data.validation) == ("validation", 0.1)
    dataset = open_dataset("image_folder", DataLocation(tmp_path))
    held_out = hold_out(dataset, experiment)
    files = [
        [image for image, _ in held_out.pairs(split).as_numpy_iterator()]
        for split in (held_out.info.train, held_out.info.test)
    ]
    assert [len(part) for part in files] == [36, 4]
    assert len(set(files[0] + files[1])) == 40


def test_first_test_images_are_scored(data_dir):
    """Also by an evaluation, unless a dataset is named."""
    experiment = resolve("lenet5", dataset="mnist_5k", overrides=["data.test_examples=130"]).experiment
    location = DataLocation(data_dir)
    dataset = open_data(experiment, location)
    (all_images, _), (images, labels) = (
        next(iter(data.pairs(data.info.test).batch(130))) for data in (open_dataset("mnist_5k", location), dataset)
    )
    np.testing.assert_array_equal(images, all_images)
    assert dataset.examples(dataset.info.test) == len(labels) == 130
    assert [len(batch) for _, batch in evaluation_batches(dataset, experiment)] == [128, 2]
    assert open_test_data(experiment, "mnist_5k", location).info.test == "test"
    found = [resolve("resnet20", dataset=name).experiment.data.test_examples for name in ("cifar10", "cifar100")]
    assert found == [9984, None]


def test_more_test_images_than_there_are(data_dir):
    experiment = resolve("lenet5", dataset="mnist_5k", overrides=["data.test_examples=1001"]).experiment
    with pytest.raises(BnnError, match=r"data.test_examples = 1001, but 'mnist_5k' has 1000 test images; expected at"):
        open_data(experiment, DataLocation(data_dir))


def test_unknown_name():
    with pytest.raises(BnnError, match=r"unknown dataset 'mnst'; did you mean 'mnist'\?"):
        open_dataset("mnst")


def test_error_without_network_names_files_and_option(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "_reachable", lambda url: False)
    with pytest.raises(BnnError) as error:
        open_dataset("mnist", DataLocation(str(tmp_path)))
    assert "cannot be downloaded (no answer from https://storage.googleapis.com/cvdf-datasets/mnist)" in str(
        error.value
    )
    assert "put t10k-images-idx3-ubyte.gz, " in str(error.value)
    assert "--manual-dir DIR" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/file", "http://no-such-host.invalid/file"])
def test_unreachable_server_is_detected_within_timeout(address):
    started = time.monotonic()
    assert not preparing._reachable(address)
    assert time.monotonic() - started < 2 * preparing.CONNECT_TIMEOUT


def test_manual_dir_must_exist(tmp_path):
    with pytest.raises(
        BnnError, match=r"--manual-dir '.*nowhere' is not a folder; set it to the folder of the downloaded files"
    ):
        open_dataset("mnist", DataLocation(str(tmp_path), str(tmp_path / "nowhere")))


def test_manual_dir_without_one_file(tmp_path, fashion, monkeypatch):
    monkeypatch.setattr(preparing, "_reachable", lambda url: False)
    (fashion / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(BnnError, match=r"put t10k-labels-idx1-ubyte.gz into a folder"):
        open_dataset("fashion_mnist", DataLocation(str(tmp_path / "data"), str(fashion)))


def test_damaged_file_leaves_no_partly_prepared_dataset(tmp_path, fashion):
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    with (
        pytest.warns(UserWarning, match="differ from the files that TFDS downloads"),
        pytest.raises(BnnError, match=r"cannot prepare dataset 'fashion_mnist' .* check the files"),
    ):
        open_dataset("fashion_mnist", DataLocation(str(tmp_path / "data"), str(fashion)))
    files = [path for path in (tmp_path / "data" / "fashion_mnist").rglob("*") if path.is_file()]
    assert files == []


def test_prepare_from_manual_dir(tmp_path, fashion):
    with pytest.warns(UserWarning, match="differ from the files that TFDS downloads for 'fashion_mnist'"):
        dataset = open_dataset("fashion_mnist", DataLocation(str(tmp_path / "data"), str(fashion)))
    assert (dataset.examples("train"), dataset.examples("test")) == (600, 100)
    assert dataset.labels[0] == "T-shirt/top"
    image, label = next(iter(dataset.pairs("test")))
    assert np.all(image.numpy() == label.numpy())


@pytest.mark.slow
def test_two_processes_prepare_at_once(tmp_path):
    """Both open the dataset, which one of them prepares."""
    code = f"""
        import sys
        from bnn_keras.data import open_dataset
        from bnn_keras.location import DataLocation
        print("ready", flush=True)
        sys.stdin.readline()
        dataset = open_dataset("mnist_5k", DataLocation({str(tmp_path)!r}))
        print(dataset.examples("train"), len(list(dataset.pairs("test"))))
    """
    command = [sys.executable, "-c", "if True:" + code]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen(command, **pipes, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in processes]
    assert [printed for printed, _ in outputs] == ["4000 1000\n"] * 2, outputs
    waits = [line for _, messages in outputs for line in messages.splitlines() if line.startswith("waiting for ")]
    assert len(waits) == 1
    owners = [*(f"process {process.pid}" for process in processes), "another process"]
    assert waits[0] in [f"waiting for {owner}, which prepares dataset 'mnist_5k'" for owner in owners]
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) in (
        ["mnist_5k"],
        ["downloads", "mnist_5k"],
    )


def test_waits_for_the_process_that_prepares(tmp_path, capsys):
    file = tmp_path / ".digits.lock"
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711\n")
        lock.flush()
        entered = threading.Event()

        def enter():
            with preparing._locked(file, "digits"):
                entered.set()

        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.1)
    thread.join(timeout=2)
    assert entered.is_set()
    assert capsys.readouterr().err == "waiting for process 4711, which prepares dataset 'digits'\n"


def test_data_folder_that_cannot_be_written():
    message = (
        r"cannot prepare dataset 'mnist_5k' in '/dev/null/data/.*' \(NotADirectoryError.*choose another folder with"
    )
    with pytest.raises(BnnError, match=message):
        open_dataset("mnist_5k", DataLocation("/dev/null/data"))


def test_shipped_digits_without_a_writable_home(monkeypatch):
    """The default folder of TFDS is below it."""
    monkeypatch.setenv("TFDS_DATA_DIR", "/dev/null/home/tensorflow_datasets")
    message = r"'/dev/null/home/tensorflow_datasets' cannot be written; dataset 'mnist_5k' is prepared in a temporary"
    with pytest.warns(UserWarning, match=message):
        dataset = open_dataset("mnist_5k")
    assert Path(dataset.reader.folder).is_relative_to(preparing.temporary_data_dir())
    assert len(list(dataset.pairs("test"))) == 1000
    monkeypatch.setattr(preparing, "_reachable", lambda url: False)
    with pytest.raises(BnnError, match=r"dataset 'mnist' is not prepared in '/dev/null/home/.*set --data-dir DIR"):
        open_dataset("mnist")


def test_datasets_that_cannot_be_read_or_prepared_are_not_available(data_dir, tmp_path):
    experiment = resolve("lenet5").experiment
    assert available_data(experiment, DataLocation(data_dir)).info.name == "mnist_5k"
    with pytest.warns(
        UserWarning, match=r"cannot read dataset 'mnist_5k': cannot prepare dataset 'mnist_5k' in '/dev/"
    ):
        assert available_data(experiment, DataLocation("/dev/null/data")) is None
    folder = shutil.copytree(Path(data_dir) / "mnist_5k", tmp_path / "mnist_5k")
    for file in folder.rglob("*test.tfrecord*"):
        file.unlink()
    with pytest.warns(UserWarning, match=r"cannot read dataset 'mnist_5k': .*No such file or directory"):
        assert available_data(experiment, DataLocation(str(tmp_path))) is None
