"""Data sets by name: prepared by TFDS once, found in its folder from then on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import sys
import threading
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import tensorflow_datasets as tfds

from bnn_keras import catalog
from bnn_keras.errors import BnnError

SECONDS_TO_REACH = 4.0


@dataclasses.dataclass(frozen=True)
class Images:
    """An image classification data set.

    Attributes:
        row: What the catalog says about it.
        builder: TFDS's builder.
    """

    row: catalog.Dataset
    builder: tfds.core.DatasetBuilder

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return list(self.builder.info.features["label"].names)

    @property
    def encoded(self) -> bool:
        """Whether images differ in size, and are read one by one instead of held in memory."""
        return self.row.input_shape[0] is None

    def examples(self, split: str) -> int:
        """Number of images in a split; what is known of it where it is not prepared."""
        prepared = self.builder.info.splits
        known = {self.row.train: self.row.train_examples, self.row.test: self.row.test_examples}
        return prepared[split].num_examples if prepared else known[split]


def find_dataset(name: str, data_dir: str | None = None) -> Images:
    """A data set as TFDS describes it, prepared or not.

    Args:
        name: A data set of the catalog.
        data_dir: Where prepared data sets are; TFDS's own folder where absent.

    Raises:
        BnnError: The name is unknown.
    """
    row = catalog.find("data set", name)
    if row.module:
        importlib.import_module(row.module)
    return Images(row, tfds.builder(name, data_dir=data_dir))


def open_dataset(name: str, data_dir: str | None = None, manual_dir: str | None = None) -> Images:
    """A data set ready to read; it is downloaded and prepared where that was not done before.

    Args:
        name: A data set of the catalog.
        data_dir: Where prepared data sets are; TFDS's own folder where absent.
        manual_dir: A folder with the files that TFDS would download, under the same names.

    Raises:
        BnnError: The name is unknown, the files can neither be downloaded nor found in `manual_dir`, or TFDS fails on
            them. Nothing half-prepared stays behind.
    """
    images = find_dataset(name, data_dir)
    if not images.builder.info.splits:
        _prepare(images.builder, Path(manual_dir).expanduser() if manual_dir else None)
    return images


def _prepare(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> None:
    if manual_dir and not manual_dir.is_dir():
        raise BnnError(f"--manual-dir {str(manual_dir)!r} is no folder; give the one that holds the downloaded files")
    missing = _missing_files(builder, manual_dir)
    if missing and not _reachable(next(iter(missing))):
        files = ", ".join(sorted(missing.values()))
        where = "; ".join(sorted({url.rsplit("/", 1)[0] for url in missing}))
        raise BnnError(
            f"data set {builder.name!r} is not prepared in {str(builder.data_path)!r} and cannot be downloaded "
            f"(no answer from {where}); put {files} into a folder and give it with --manual-dir DIR, "
            "or give the folder where it is prepared with --data-dir DIR"
        )
    _warn_of_other_files(builder, manual_dir)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(download_config=config)
    except Exception as error:  # TFDS lets through whatever its builders, decompressors and file systems raise
        reason = f"{type(error).__name__}: {error}".strip()[:300]
        raise BnnError(
            f"cannot prepare data set {builder.name!r} in {str(builder.data_path)!r} ({reason}); "
            "check the files and the free space there, or choose another folder with --data-dir DIR"
        ) from error


def _warn_of_other_files(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> None:
    """TFDS takes any file of `manual_dir` that has the right name: Fashion-MNIST's are named as MNIST's."""
    paths = {info.filename: manual_dir / info.filename for info in (builder.url_infos or {}).values() if manual_dir}
    checksums = {info.filename: info.checksum for info in (builder.url_infos or {}).values()}
    others = [
        name
        for name, path in paths.items()
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != checksums[name]
    ]
    if others:
        warnings.warn(
            f"in {str(manual_dir)!r}, {', '.join(sorted(others))} differ from the files that TFDS downloads for "
            f"{builder.name!r}; taken as they are, check that they hold this data set",
            stacklevel=2,
        )


def _missing_files(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> dict[str, str]:
    """The files that would be downloaded, {URL: file name}."""
    downloads = Path(str(builder.data_path)).parents[1] / "downloads"
    present = [*(manual_dir.iterdir() if manual_dir else ()), *(downloads.glob("*") if downloads.is_dir() else ())]
    names = {path.name for path in present}
    return {
        url: info.filename
        for url, info in (builder.url_infos or {}).items()
        if not {info.filename, tfds.core.download.resource.get_dl_fname(url, info.checksum)} & names
    }


def _reachable(url: str) -> bool:
    """Whether the server of a URL answers at all, within seconds: TFDS itself tries for minutes."""
    answered = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS_TO_REACH):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except OSError:
            return

    # In a thread: a name server that is silent blocks for longer than any time-out of a socket.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_REACH)
    return answered.is_set()
