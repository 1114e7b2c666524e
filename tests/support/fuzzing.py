"""Fuzzing: damage files at random, run `bnnk` on them in this process, and judge what it does.

A part is a function that yields cases without end; case N of a part is the same in every process. `fuzz` runs the cases
of a part in a second process, so that a crash of a native parser counts as a failure of its case. To repeat one:

    python tests/support/fuzzing.py FOLDER PART N

FOLDER is made if it does not exist.
"""

import copy
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from helpers import EXPORTED, free_memory, read_weights, run_bnnk

from bnn_keras import files as files_of_runs

STATES = ("finished", "killed")  # of a run: after its three epochs, or stopped while it wrote the last checkpoint
OTHER = "other"  # a finished run with another seed
LONGEST_MESSAGE = 1000
LONGEST_CASE = 60  # seconds


@dataclasses.dataclass
class Case:
    """A `bnnk` command on damaged files.

    Attributes:
        about: What is damaged, and how.
        arguments: Arguments of the command.
        folder: Files that an error must not change.
        result: Returns what the command made of the files, from its standard output; None if any result is right.
        expected: What `result` returns for undamaged files.
        lines: Whether an error is one line on standard error. Otherwise it is part of the output.
    """

    about: str
    arguments: list
    folder: Path
    result: object = None
    expected: object = None
    lines: bool = True


# Damage to files


def flip(random, data):
    """Flip one to eight bits."""
    data = bytearray(data)
    for _ in range(random.integers(1, 9) if data else 0):
        data[random.integers(len(data))] ^= 1 << random.integers(8)
    return bytes(data)


def truncate(random, data):
    """Remove the end."""
    return data[: random.integers(len(data))] if data else data


def overwrite(random, data):
    """Replace up to 16 bytes near the start by zeros, ones, or random bytes."""
    at, length = random.integers(min(len(data), 512)), random.integers(1, 17)
    new = random.choice([b"\0" * length, b"\xff" * length, random.bytes(length)])
    return data[:at] + bytes(new) + data[at + length :]


def move(random, data):
    """Remove a part, and insert it elsewhere."""
    start, end, at = sorted(random.integers(len(data), size=3))
    return data[:start] + data[end:at] + data[start:end] + data[at:]


BYTES = (flip, truncate, overwrite, move)
BAD_VALUES = (
    *(None, True, -1, 0, 1e308, 10**400, 2**63, float("nan"), float("inf"), "", "x" * 100_000, "\x1b[2J\0\ud800"),
    *([], {}, [[]], {"": None}, "/dev/urandom", "../../etc/passwd", "0", [1, "a"]),
)


def change_json(random, data):
    """Remove, replace, or deeply nest a random value of a JSON document."""
    document = json.loads(data)
    places = []

    def walk(value):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(document)
    parent, key = places[random.integers(len(places))]
    kind = random.integers(5)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        value = parent.pop(key)
        parent[str(value)[:100]] = value
    elif kind == 2:
        parent[key] = "DEEP"
    elif kind == 3:
        other, other_key = places[random.integers(len(places))]
        parent[key] = copy.deepcopy(other[other_key])
    else:
        parent[key] = BAD_VALUES[random.integers(len(BAD_VALUES))]
    depth = int(random.choice([10, 1000, 100_000]))
    text = json.dumps(document).replace('"DEEP"', "[" * depth + "]" * depth)
    return text.encode(errors="surrogatepass")


# Files to damage


def make_files(folder):
    """Fill a folder with runs, exports, images and arrays, which cases copy."""
    from trainings import small_experiment, train_with_copies

    from bnn_keras import export_run, train
    from bnn_keras.runs import default_directory

    experiment = small_experiment(examples=32, epochs=3)
    train_with_copies(experiment, folder / "runs")
    (folder / "runs" / "whole").rename(folder / "runs" / "finished")
    (folder / "runs" / "killed-2").rename(folder / "runs" / "killed")
    (folder / "experiment.toml").write_text(experiment.to_toml())
    (folder / "name").write_text(default_directory(experiment).name)
    train(small_experiment(examples=32, epochs=3, seed=2), folder / "runs" / OTHER, plain=True)
    for run in ("finished", OTHER):
        (folder / "exports" / run).mkdir(parents=True)
        for to, name in EXPORTED.items():
            export_run(folder / "runs" / run, to, folder / "exports" / run / name, verify_images=8)
    random = np.random.default_rng(0)
    np.save(folder / "images.npy", random.integers(0, 256, (3, 28, 28, 1), np.uint8))
    (folder / "images").mkdir()
    (folder / "arrays").mkdir()
    make_images(random, folder / "images")
    for name, dtype in (("uint8", np.uint8), ("float16", np.float16), ("float32", np.float32), ("float64", float)):
        np.save(folder / "arrays" / f"{name}.npy", random.integers(0, 256, (3, 28, 28, 1)).astype(dtype))
    np.save(folder / "arrays" / "fortran.npy", np.asfortranarray(random.random((2, 28, 28, 1), np.float32)))


def make_images(random, folder):
    """Write an image in each format and mode."""
    from PIL import Image

    colour = Image.fromarray(random.integers(0, 256, (30, 33, 3), np.uint8))
    for suffix, modes in {
        "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "jpg": ("L", "RGB", "CMYK"),
        "bmp": ("1", "L", "P", "RGB"),
        "gif": ("L", "P"),
        "webp": ("RGB", "RGBA"),
        "tiff": ("1", "L", "RGB", "RGBA", "CMYK", "F"),
    }.items():
        for mode in modes:
            image = colour.convert("I").convert(mode) if mode == "I;16" else colour.convert(mode)
            image.save(folder / f"{mode.replace(';', '-')}.{suffix}")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    colour.save(folder / "rotated.jpg", exif=exif)
    colour.save(folder / "progressive.jpg", progressive=True)
    colour.save(folder / "deflate.tiff", compression="tiff_deflate")
    frames = [colour.convert("P"), colour.rotate(90).convert("P")]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])


# Parts


def named(damage):
    return damage if isinstance(damage, str) else damage.__name__


def parts_of_run(folder):
    """Return the names of the files and folders that hold the state of a run, without logs and the lock."""
    names = (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    return [name for name in names if not name.startswith("tensorboard") and name != ".lock"]


def damage_run(random, path, damage, other):
    """Damage a file or a folder of a run. `other` is the same file or folder of another run."""
    data = path.read_bytes() if path.is_file() else b""
    was_folder = path.is_dir()
    shutil.rmtree(path) if was_folder else path.unlink()
    if damage == "of another run":
        shutil.copytree(other, path) if was_folder else shutil.copy(other, path)
    elif damage == "replaced":
        path.write_bytes(b"a file") if was_folder else path.mkdir()
    elif damage == "empty":
        path.mkdir() if was_folder else path.touch()
    elif damage != "missing":
        path.write_bytes(damage(random, data))


RUN_DAMAGE = ("missing", "empty", "replaced", "of another run", flip, truncate)


def runs(files, work):
    """Yield each kind of damage to each file of a run, under each command: in a random order, then anew."""
    name = (files / "name").read_text()
    commands = run_commands(files, work, name)
    combinations = [
        (state, part, damage, command)
        for state in STATES
        for part in parts_of_run(files / "runs" / state)
        for damage in RUN_DAMAGE
        for command in commands
        if isinstance(damage, str) or (files / "runs" / state / part).is_file()
    ]
    order = np.random.default_rng(0).permutation(len(combinations))

    @functools.cache
    def undamaged(state, command):
        copy_run(files, work, name, state)
        arguments, result, _ = commands[command]
        outcome = run_bnnk(*arguments)
        assert outcome.exit_code == 0, outcome.output
        return result(outcome.stdout) if result else None

    def make(state, part, damage, command, random):
        expected = undamaged(state, command)
        run = copy_run(files, work, name, state)
        damage_run(random, run / part, damage, files / "runs" / OTHER / part.replace("epoch-00001", "epoch-00002"))
        arguments, result, lines = commands[command]
        return Case(f"{command}: {part} of a {state} run: {named(damage)}", arguments, run, result, expected, lines)

    for index in itertools.cycle(order):
        yield functools.partial(make, *combinations[index])


def copy_run(files, work, name, state):
    shutil.rmtree(work, ignore_errors=True)
    return shutil.copytree(files / "runs" / state, work / "runs" / name)


def run_commands(files, work, name):
    """Return the arguments of each command, how to read its result, and whether its errors are lines."""
    run, output = work / "runs" / name, work / "output"
    experiment = files / "experiment.toml"

    def logits(_):
        return np.load(f"{output}.npy").tobytes()

    def evaluation(stdout):
        return {key: value for key, value in json.loads(stdout).items() if key != "run"}

    def exported(_):
        from bnn_keras.packed_reader import read_packed

        content = read_packed(f"{output}.safetensors")
        arrays = [array for kernel in content.kernels.values() for array in (kernel.signs, kernel.scales)]
        return [
            content.experiment,
            content.labels,
            *(array.tobytes() for array in (*arrays, *content.tensors.values())),
        ]

    def trained(stdout):
        weights = [digest_of_weights(run / name) for name in ("weights.h5", "weights_best.h5")]
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        metrics = [(row["epoch"], row["loss"], row["val_top1"]) for row in rows]
        return [
            *weights,
            metrics,
            *(json.loads(stdout)[key] for key in ("top1", "top5", "best_top1", "epochs", "seed")),
        ]

    def reproduced(stdout):
        (row,) = json.loads(stdout)
        return [row["measured"], row["seeds"], row["experiment"], digest_of_weights(run / "weights.h5")]

    reproduce = ["reproduce", experiment, "--runs", work / "runs", "-o", output, "--json", "--quiet"]
    return {
        "predict": (["predict", run, files / "images.npy", "--logits", f"{output}.npy"], logits, True),
        "predict --best": (["predict", run, files / "images.npy", "--best", "--logits", f"{output}.npy"], logits, True),
        "evaluate": (["evaluate", run, "--json"], evaluation, True),
        "export": (["export", run, "--to", "packed", "-o", f"{output}.safetensors"], exported, True),
        "train": (["train", "lenet5", "--experiment", experiment, "--run", run, "--json", "--quiet"], trained, True),
        "reproduce": (reproduce, reproduced, False),
        "check": (["check", run / "experiment.toml"], None, False),
    }


def digest_of_weights(file):
    values = read_weights(file)
    return hashlib.sha256(b"".join(name.encode() + values[name].tobytes() for name in sorted(values))).hexdigest()


def sidecars(files, work):
    """Yield damaged sidecars of exported files of every format, and sidecars of other files."""
    others = [path for run in ("finished", OTHER) for path in sorted((files / "exports" / run).glob("*.json"))]
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(files / "exports" / "finished", work / "exports")

    def predict(to):
        return ["predict", "--model", work / "exports" / EXPORTED[to], files / "images.npy", "--logits", work / "x.npy"]

    def logits(_):
        return np.load(work / "x.npy").tobytes()

    @functools.cache
    def undamaged(to):
        outcome = run_bnnk(*predict(to))
        assert outcome.exit_code == 0, outcome.output
        return logits(outcome.stdout)

    def make(random):
        to = str(random.choice(list(EXPORTED)))
        file = work / "exports" / f"{EXPORTED[to]}.json"
        original = files / "exports" / "finished" / file.name
        shutil.copy(original, file)
        expected = undamaged(to)
        damage = random.choice([*BYTES, *[change_json] * 6, "missing", "empty", "of another file"])
        if damage == "missing":
            file.unlink()
        elif damage == "of another file":
            shutil.copy(random.choice(others), file)
        else:
            file.write_bytes(b"" if damage == "empty" else damage(random, original.read_bytes()))
        return Case(f"sidecar of {to}: {named(damage)}", predict(to), work / "exports", logits, expected)

    return itertools.repeat(make)


def with_one_model(files):
    """Make `bnnk predict` open the run once."""
    from bnn_keras import evaluation

    evaluation.open_classifier = functools.cache(evaluation.open_classifier)
    return files / "runs" / "finished"


def images(files, work):
    """Yield damaged images of every format."""
    run, originals = with_one_model(files), sorted((files / "images").iterdir())
    work.mkdir(parents=True, exist_ok=True)

    def make(random):
        original = originals[random.integers(len(originals))]
        damage = random.choice([*BYTES, change_size])
        shutil.rmtree(work)
        work.mkdir()
        file = work / original.name
        file.write_bytes(damage(random, original.read_bytes()))
        return Case(f"{original.name}: {damage.__name__}", ["predict", run, file, "--json"], work, finite)

    return itertools.repeat(make)


def change_size(random, data):
    """Write another size into a PNG, JPEG, BMP or GIF. The checksum of a PNG remains valid."""
    width, height = (int(random.choice([0, 1, 5_000, 20_000, 65_535, 2**31 - 1])) for _ in range(2))
    if data.startswith(b"\x89PNG"):
        header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]
        return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
    size = [(value & 0xFFFF).to_bytes(2, "big") for value in (height, width)]
    frame = re.search(rb"\xff[\xc0\xc2]..\x08", data, re.DOTALL)
    if data.startswith(b"\xff\xd8") and frame:
        return data[: frame.end()] + b"".join(size) + data[frame.end() + 4 :]
    if data.startswith(b"BM"):
        return data[:18] + width.to_bytes(4, "little") + height.to_bytes(4, "little") + data[26:]
    if data.startswith(b"GIF"):
        return data[:6] + b"".join(value[::-1] for value in reversed(size)) + data[10:]
    return flip(random, data)


def finite(stdout):
    """Verify the probabilities of `bnnk predict --json`."""
    rows = json.loads(stdout)
    assert rows
    for row in rows:
        assert abs(sum(row["classes"].values()) - 1) < 1e-3, row


def arrays(files, work):
    """Yield `.npy` files with damaged or absurd headers, and damaged content."""
    run, originals = with_one_model(files), sorted((files / "arrays").iterdir())
    work.mkdir(parents=True, exist_ok=True)

    def make(random):
        original = originals[random.integers(len(originals))]
        damage = random.choice([*BYTES, *[change_header] * 4])
        shutil.rmtree(work)
        work.mkdir()
        file = work / original.name
        file.write_bytes(damage(random, original.read_bytes()))
        return Case(f"{original.name}: {damage.__name__}", ["predict", run, file, "--json"], work, finite)

    return itertools.repeat(make)


ABSURD_HEADERS = {
    "descr": ("|O", "<U5", "<f2", "<c16", "|V1000000000", "<M8[s]", "wrong", "", [("a", "<f4")], 5, ">f4", "|b1"),
    "fortran_order": (True, 1, None, "x"),
    "shape": (
        *((10**9, 28, 28, 1), (2**62, 28, 28, 1), (10**400,), (-1, 28, 28, 1), (0, 28, 28, 1), (), (3,), "x", None),
        *((3.0, 28, 28, 1), (3, 28, 28, 1, *[1] * 60), (1,) * 5000, (28, 28, 1), (True, 28, 28, 1)),
    ),
}


def change_header(random, data):
    """Write another type, order or shape into the header of a `.npy` file."""
    header = np.lib.format.read_array_header_1_0(io.BytesIO(data[8:]))
    fields = {"descr": data[8:].split(b"'descr': '")[1].split(b"'")[0].decode(), "fortran_order": header[1]}
    fields["shape"] = header[0]
    other = ABSURD_HEADERS[name := str(random.choice(list(fields)))]
    fields[name] = other[random.integers(len(other))]
    if random.integers(8) == 0:
        del fields[name]
    text = repr(fields) if random.integers(10) else "(" * int(random.choice([50, 5000])) + repr(fields)
    encoded = text.encode().ljust(117) + b"\n"
    version = bytes(random.choice([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"], p=[0.7, 0.1, 0.1, 0.1]))
    length = (
        len(encoded).to_bytes(4 if version != b"\x01\x00" else 2, "little") if len(encoded) < 65536 else b"\xff\xff"
    )
    return b"\x93NUMPY" + version + length + encoded + data[128:]


def old_weights(files, work):
    """Yield damaged `weights.h5` without a digest, as earlier versions wrote: HDF5 reads them."""
    state = files / "runs" / "finished"
    original = (state / "weights.h5").read_bytes()[512:]
    assert original.startswith(b"\x89HDF")

    def make(random):
        shutil.rmtree(work, ignore_errors=True)
        run = shutil.copytree(state, work / "run", ignore=lambda *_: ["checkpoints", "tensorboard"])
        damage = random.choice([flip, truncate, overwrite, move, damage_structure])
        (run / "weights.h5").write_bytes(damage(random, original))
        about = f"weights.h5 without a digest: {damage.__name__}"
        return Case(about, ["predict", run, files / "images.npy", "--json"], run)

    return itertools.repeat(make)


def damage_structure(random, data):
    """Flip bits in the first 8 kB, where HDF5 keeps names and sizes."""
    return flip(random, data[:8192]) + data[8192:]


def resealed_checkpoints(files, work):
    """Yield damaged checkpoints whose digests are valid: TensorFlow reads them."""
    state, experiment = files / "runs" / "killed", files / "experiment.toml"

    def make(random):
        shutil.rmtree(work, ignore_errors=True)
        run = shutil.copytree(state, work / "run")
        folder = run / "checkpoints" / "epoch-00002"
        part = folder / str(random.choice(["variables.index", "variables.data-00000-of-00001"]))
        damage = random.choice(BYTES)
        part.write_bytes(damage(random, part.read_bytes()))
        document = files_of_runs.without_digest(json.loads((folder / "state.json").read_text()))
        document["files"][part.name] = hashlib.sha256(part.read_bytes()).hexdigest()
        (folder / "state.json").write_text(json.dumps(files_of_runs.with_digest(document)))
        arguments = ["train", "lenet5", "--experiment", experiment, "--run", run, "--quiet"]
        return Case(f"{part.name} of a checkpoint, with its digest: {damage.__name__}", arguments, run)

    return itertools.repeat(make)


PARTS = {part.__name__: part for part in (sidecars, runs, images, arrays, old_weights, resealed_checkpoints)}


# Judging


def contents(folder):
    """Return the content of each file in a folder, except for the lock, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest() for path in paths}


def judge(case):
    """Run a case. Return its outcome, which is "error", "same", "warned" or begins with "FAILED", and its message."""
    before = contents(case.folder)
    outcome = run_bnnk(*case.arguments)
    message = (outcome.stderr if case.lines else outcome.output).strip()
    last = message.splitlines()[-1] if message else ""
    if "this is a bug in bnnk" in outcome.output or "Traceback" in outcome.output:
        return "FAILED: traceback", last
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        return "FAILED: exception", repr(outcome.exception)
    after = contents(case.folder)
    if outcome.exit_code:
        if outcome.exit_code != 1 or not message or (case.lines and not last.startswith("Error: ")):
            return f"FAILED: exit code {outcome.exit_code} without a line", message
        if len(last) > LONGEST_MESSAGE:
            return "FAILED: a long message", last
        different = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        return (f"FAILED: an error changed {', '.join(different)}" if different else "error"), message
    if "Warning: " in message:
        return "warned", message
    try:
        result = case.result(outcome.stdout) if case.result else None
    except Exception as error:
        return "FAILED: success without a result", f"{error!r}; {message}"
    return "same" if result == case.expected else "FAILED: another result without a word", message


def peak_memory():
    """Return the peak memory of this process in bytes."""
    return 1024 * int(re.search(r"^VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def serve(files, part, first, last, seconds):
    """Run the cases of a part for a limited time. Write a line of JSON before and after each of them."""
    os.environ["COLUMNS"] = "200"
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries print, too
    end, start = time.monotonic() + seconds, None
    with tempfile.TemporaryDirectory() as work:
        makers = PARTS[part](Path(files), Path(work) / "work")
        for number, make in itertools.islice(enumerate(makers), first, last):
            if time.monotonic() > end:
                break
            signal.alarm(LONGEST_CASE)  # ends the process
            case = make(np.random.default_rng([zlib.crc32(part.encode()), number]))
            report.write(json.dumps({"number": number, "about": case.about}) + "\n")
            outcome, message = judge(case)
            start = start or peak_memory()  # TensorFlow is loaded
            row = {"outcome": outcome, "message": message, "memory": peak_memory() - start}
            report.write(json.dumps(row) + "\n")
            if number % 10 == 0:
                free_memory()


@dataclasses.dataclass
class Report:
    """What the cases of a part did.

    Attributes:
        outcomes: Number of cases by outcome.
        failures: Each failed case as text.
        memory: Largest growth of the peak memory of a process after its first case, in bytes.
        seconds: Time of all cases.
    """

    outcomes: Counter = dataclasses.field(default_factory=Counter)
    failures: list = dataclasses.field(default_factory=list)
    memory: int = 0
    seconds: float = 0

    def add(self, part, case, outcome, message):
        self.outcomes[outcome.partition(":")[0]] += 1
        if outcome.startswith("FAILED"):
            self.failures.append(f"{part} {case['number']}, {case['about']}: {outcome}: {message[-LONGEST_MESSAGE:]}")

    def __str__(self):
        tries = f"{self.outcomes.total()} tries in {self.seconds:.0f} s, {self.memory / 1e6:.0f} MB above the start"
        return f"{tries}: {', '.join(f'{count} {outcome}' for outcome, count in sorted(self.outcomes.items()))}"


def fuzz(files, part, count, seconds):
    """Run the first cases of a part for a limited time, in another process. A case that ends the process has failed."""
    report, begin, number = Report(), time.monotonic(), 0
    while number < count and report.seconds < seconds:
        case = None
        with start(files, part, number, count, seconds - report.seconds) as process:
            for row in map(json.loads, process.stdout):
                if "about" in row:
                    case = row
                    continue
                report.add(part, case, row["outcome"], row["message"])
                report.memory = max(report.memory, row["memory"])
                case, number = None, case["number"] + 1
        report.seconds = time.monotonic() - begin
        if case:
            report.add(part, case, "FAILED: the process ended", signal.Signals(-process.returncode).name)
            number = case["number"] + 1
        elif process.returncode:
            raise RuntimeError(f"{part} {number} cannot be made; see `python {__file__} {files} {part} {number}`")
        else:
            break
    return report


def start(files, part, first, last, seconds):
    """Start a process that runs cases of a part."""
    command = [sys.executable, __file__, *map(str, (files, part, first, last, seconds))]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


if __name__ == "__main__":
    _, files, part, first, *limits = sys.argv
    if not Path(files).exists():
        Path(files).mkdir()
        make_files(Path(files))
    last, seconds = limits or (int(first) + 1, LONGEST_CASE)
    serve(files, part, int(first), int(last), float(seconds))
