"""Benchmark engines: rows, comparison, tables, plots and errors."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bnn_keras.benchmark import (
    ENGINES,
    BenchmarkRow,
    Entrant,
    benchmark,
    cells,
    columns,
    comparing,
    draw,
    engines,
    measuring,
    tables,
)
from bnn_keras.counts import count
from bnn_keras.errors import BnnError
from bnn_keras.export import export_run
from bnn_keras.export.job import ExportJob
from bnn_keras.models import load_run

QUICK = {"threads": [1], "rounds": 2, "seconds": 0.0}


@pytest.fixture(scope="module")
def lines():
    return []


@pytest.fixture(scope="module")
def rows(trained, lines):
    """The rows of all engines for a run."""
    return benchmark([trained], batch_sizes=[1, 3], log=lines.append, **QUICK)


def make_entrant(network, engine, **arguments):
    defaults = {
        "source": network,
        "weights": "random",
        "runtime": "openvino",
        "file": "f",
        "floats": "float32",
        "bytes": 12_345,
        "shape": (28, 28, 1),
        **{"binary_layers": 2, "packed_layers": 2, "computed_layers": 1},
    }
    return Entrant(network=network, engine=engine, **{**defaults, **arguments})


def make_row(network, engine, milliseconds, threads=1, **arguments):
    rounds = [[value / 1000 for value in turn] for turn in milliseconds]
    defaults = {"speedups": {"keras": 1.0}, "throughput": {1: 2000.0, 32: None}, "load": 0.02}
    defaults |= {"memory": None, "binary_share": None}
    entrant = make_entrant(network, engine)
    return BenchmarkRow(entrant=entrant, threads=threads, rounds=rounds, **{**defaults, **arguments})


@pytest.mark.slow
def test_every_engine_is_measured(rows, trained, lines):
    documents = {row.entrant.engine: row.to_document() for row in rows}
    assert list(documents) == list(ENGINES)
    for engine, row in documents.items():
        assert (row["source"], row["network"], row["weights"], row["threads"]) == (str(trained), "lenet5", "last", 1)
        assert 0 < row["latency_median_ms"] <= row["latency_p95_ms"]
        assert (row["inferences"], row["rounds"]) == (2, 2)
        assert list(row["times_as_fast_as"]) == list(ENGINES)
        assert row["times_as_fast_as"][engine] == 1
        assert min(row["times_as_fast_as"].values()) > 0
        assert row["images_per_second"]["1"] > 0
        assert row["bytes"] > 0
        assert row["memory_bytes"] is None or row["memory_bytes"] > 0
        assert row["binary_layers"] == 2
        assert row["load_ms"] > 0
    binary = {"keras": 0, "tflite_float": 0, "tflite_lce": 2, "openvino_float": 0, "openvino_binary": 2, "c": 2}
    for key in ("packed_layers", "computed_layers"):
        assert {engine: row[key] for engine, row in documents.items()} == binary
    one_image_at_a_time = {name for name, row in documents.items() if row["images_per_second"]["3"] is None}
    assert one_image_at_a_time == {"tflite_lce", "c"}
    for engine, row in documents.items():
        assert (row["binary_share"] is not None) == engine.startswith("openvino")
        assert row["binary_share"] is None or 0 < row["binary_share"] < 1
    for engine in ("openvino_binary", "c"):
        assert documents[engine]["bytes"] < documents["openvino_float"]["bytes"] / 4
    assert documents["keras"]["bytes"] == count(load_run(trained)[1])["bytes_float32"]
    assert lines[0] == f"{trained}: preparing"
    assert "lenet5: latency with 1 thread(s)" in lines


@pytest.mark.slow
def test_exported_file_and_network_are_compared_with_each_other(trained, tmp_path):
    file = tmp_path / "m.xml"
    export_run(trained, "openvino", file, batch_size=4, verify_images=8)
    rows = benchmark(
        [file, "lenet5"], engines=["openvino_float"], output=tmp_path / "o.json", plot=tmp_path / "p.svg", **QUICK
    )
    assert [(row.entrant.engine, row.entrant.weights) for row in rows] == [
        ("openvino", "file"),
        ("openvino_float", "random"),
    ]
    assert set(rows[0].speedups) == {"openvino", "openvino_float"}
    assert rows[0].throughput.keys() == {1, 32}  # although the file has a fixed batch size of 4
    assert rows[0].entrant.bytes == file.stat().st_size + file.with_suffix(".bin").stat().st_size
    assert json.loads((tmp_path / "o.json").read_text()) == [row.to_document() for row in rows]
    assert "openvino_float" in (tmp_path / "p.svg").read_text()


@pytest.mark.parametrize("name", ["lenet5", pytest.param("birealnet18", marks=pytest.mark.slow)])
def test_network_without_a_run_has_kernels_of_both_signs(name):
    source = comparing._source_of_network(name)
    for kernel in source.kernels.values():
        assert 0.1 < np.mean(kernel.signs > 0) < 0.9
    assert len(source.labels) == source.model.output_shape[-1]


def test_speedup_is_the_ratio_of_the_latencies_shown():
    """Also under load: here the second file was slowed in two short rounds of three."""
    fast, slow = [[1.0] * 9, [1.0] * 9, [9.0]], [[0.5] * 90, [50.0], [60.0]]
    assert comparing._speedup(fast, slow) == 50
    medians = [make_row("lenet5", engine, times).median for engine, times in (("keras", fast), ("tflite_lce", slow))]
    assert comparing._speedup(fast, slow) == pytest.approx(medians[1] / medians[0])
    assert comparing._throughput([[0.1, 0.2], [0.4], [0.1]], 8) == pytest.approx(8 / 0.15)
    assert comparing._throughput(None, 8) is None


def test_rounds_that_disagree_are_reported():
    steady, loaded = [[1.0, 1.1], [1.2], [1.4]], [[1.0], [1.0, 3.2, 3.4], [1.1]]
    rows = [make_row("lenet5", "keras", steady), make_row("lenet5", "tflite_lce", loaded)]
    assert [row.to_document()["spread_of_rounds"] for row in rows] == [1.333, 3.2]
    assert tables.disagreement(rows[:1]) is None
    assert tables.disagreement(rows).startswith(
        "rounds disagree, tflite_lce of lenet5 with 1 thread(s) by 3.2 times: something else used the machine"
    )


def test_files_take_turns(monkeypatch):
    order = []

    def open_file(file, floats, threads, batch_size):
        return lambda images: order.append((file, images.shape))

    monkeypatch.setitem(engines.RUNTIMES, "one", engines.Runtime("json", open_file))
    monkeypatch.setitem(engines.RUNTIMES, "two", engines.Runtime("json", open_file, batches=False))
    monkeypatch.setattr(measuring, "_prepare", lambda threads: None)
    group = [make_entrant("n", name, runtime=name, file=name, shape=(4, 4, 1)) for name in ("one", "two")]
    times = measuring.measure_in_turns(group, 1, 1, 3, 0.0)
    assert [[len(turn) for turn in rounds] for rounds in times] == [[1, 1, 1], [1, 1, 1]]
    assert [name for name, _ in order] == ["one", "one", "two", "two", *["one", "two"] * 3]
    order.clear()
    times = measuring.measure_in_turns(group, 1, 5, 2, 0.0)
    assert ([len(turn) for turn in times[0]], times[1]) == ([1, 1], None)
    assert set(order) == {("one", (5, 4, 4, 1))}


def test_memory_is_none_if_the_system_does_not_report_it(monkeypatch):
    assert measuring._kilobytes("VmRSS") > 1000
    monkeypatch.setattr(measuring, "Path", lambda name: Path(f"/nowhere{name}"))
    assert measuring._kilobytes("VmRSS") is None


def test_tables_hold_every_measurement(tmp_path):
    rows = [
        make_row("lenet5", "keras", [[1.0, 3.0], [2.0]], memory=2_000_000, binary_share=0.256),
        make_row("lenet5", "tflite_lce", [[0.25]], speedups={"keras": 8.0, "tflite_lce": 1.0}),
    ]
    first, second = cells(rows)
    assert first == [
        *("lenet5 (random weights)", "keras", "1", "2.00", "2.90", "1.00", "2,000", None),
        *("2, 1 of 2", "0.0123", "20.0", "2.00", "26 %"),
    ]
    assert second[5] == "8.00"
    assert len(first) == len(columns(rows))
    table = list(csv.DictReader(tables._csv(rows).splitlines()))
    assert table[0]["latency_median_ms"] == "2.0"
    assert (table[0]["times_as_fast_as_tflite_lce"], table[1]["times_as_fast_as_keras"]) == ("", "8.0")
    assert (table[0]["images_per_second_1"], table[0]["images_per_second_32"]) == ("2000.0", "")
    lines = tables._markdown(rows).splitlines()
    assert lines[-1].count("|") == lines[-3].count("|") == len(first) + 1
    assert " – |" in lines[-1]


@pytest.mark.parametrize(("networks", "threads"), [(1, (1,)), (5, (1, 2))])
def test_plot_is_a_png(tmp_path, networks, threads):
    rows = [
        make_row(f"n{number}", engine, [[1.0 + number, 4.0]], count)
        for number in range(networks)
        for count in threads
        for engine in (ENGINES if networks > 1 else ["keras"])
    ]
    draw(rows, tmp_path / "p.PNG")
    assert (tmp_path / "p.PNG").read_bytes().startswith(b"\x89PNG")


def test_invalid_arguments_are_refused_before_measuring(trained, tmp_path):
    for match, sources, options in (
        ("unknown engine 'openvino_binry'; did you mean 'openvino_binary'", [trained], {"engines": ["openvino_binry"]}),
        ("no run or file 'lenet6', and unknown network or model 'lenet6'; did you mean 'lenet5'", ["lenet6"], {}),
        (r"cannot write 'o.txt': unknown table format 'txt'; .*known: csv, json, md", [trained], {"output": "o.txt"}),
        ("cannot write 'o': unknown table format ''", [trained], {"output": "o"}),
        ("cannot write 'p.csv': unknown picture format 'csv'", [trained], {"plot": "p.csv"}),
        ("no packed file|cannot read", [__file__], {}),
        ("has one set of weights; leave --best out", [__file__], {"best": True}),
    ):
        with pytest.raises(BnnError, match=match):
            benchmark(sources, **options)


def test_missing_package_is_one_clear_error(trained, tmp_path, monkeypatch):
    experiment, model = load_run(trained)
    monkeypatch.delitem(sys.modules, "bnn_keras.export.openvino", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BnnError, match=r"needs 'openvino', which is not installed.*bnn-keras\[openvino\]"):
        comparing._write_entrants(
            ExportJob(model, experiment, []), "last", "r", ["openvino_binary"], tmp_path / "f", print
        )


def test_without_names_engines_that_cannot_have_the_network_are_left_out(trained, tmp_path, monkeypatch, lines):
    experiment, model = load_run(trained)
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(comparing, "ENGINES", {name: ENGINES[name] for name in ("keras", "c")})
    arguments = (ExportJob(model, experiment, []), "last", "r")
    entrants = comparing._write_entrants(*arguments, [], tmp_path / "f", lines.append)
    assert [entrant.engine for entrant in entrants] == ["keras"]
    assert lines[-1].startswith("r: without c: format 'c' is verified by compiling it, and there is no C compiler")
    with pytest.raises(BnnError, match="there is no C compiler"):
        comparing._write_entrants(*arguments, ["c"], tmp_path / "g", print)
