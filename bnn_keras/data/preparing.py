"""TFDS downloads and prepares a dataset; what it would fail on late or obscurely is found out first."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import tensorflow_datasets as tfds

from bnn_keras.errors import BnnError

SECONDS_TO_REACH = 4.0
LARGE = 2**30  # bytes of a file that is judged by its size alone

# Archives that nobody but the user can get, by dataset.
BY_HAND = {"imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")}
_WHERE = {"imagenet2012": "https://image-net.org/download-images, after registering there"}


def prepare(builder: tfds.core.DatasetBuilder, manual_dir: str | None) -> None:
    """Downloads and prepares a dataset, or prepares it from the files in `manual_dir`.

    Raises:
        BnnError: The files can neither be downloaded nor found in `manual_dir`, or TFDS fails on them. Nothing
            half-prepared stays behind.
    """
    folder = Path(manual_dir).expanduser() if manual_dir else None
    if folder and not folder.is_dir():
        raise BnnError(f"--manual-dir {str(folder)!r} is no folder; give the one that holds the downloaded files")
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        _require_by_hand(builder, folder)
    else:
        _require_downloads(builder, folder)
    _warn_of_other_files(builder, folder)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(manual_dir=folder, try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(download_config=config)
    except Exception as error:  # TFDS lets through whatever its builders, decompressors and file systems raise
        reason = f"{type(error).__name__}: {error}".strip()[:300]
        raise BnnError(
            f"cannot prepare dataset {builder.name!r} in {str(builder.data_path)!r} ({reason}); "
            "check the files and the free space there, or choose another folder with --data-dir DIR"
        ) from error


def _require_by_hand(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> None:
    """TFDS itself looks after it has made folders, and prepares one split of ImageNet where the other is missing."""
    folder = manual_dir or _downloads(builder) / "manual"
    files = BY_HAND.get(builder.name, ())
    missing = [name for name in files if not (folder / name).is_file()]
    if missing or not folder.is_dir():
        source = f" (from {_WHERE[builder.name]})" if builder.name in _WHERE else ""
        needed = " and ".join(files) + source if files else " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())[:300]
        absent = (
            f"{' and '.join(missing)} missing in {str(folder)!r}" if manual_dir else "nobody may download it for you"
        )
        raise BnnError(
            f"dataset {builder.name!r} is not prepared in {str(builder.data_path)!r} ({absent}); "
            f"put {needed} into a folder and give it with --manual-dir DIR"
        )


def _require_downloads(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> None:
    missing = _missing_files(builder, manual_dir)
    if missing and not _reachable(next(iter(missing))):
        files = ", ".join(sorted(missing.values()))
        where = "; ".join(sorted({url.rsplit("/", 1)[0] for url in missing}))
        raise BnnError(
            f"dataset {builder.name!r} is not prepared in {str(builder.data_path)!r} and cannot be downloaded "
            f"(no answer from {where}); put {files} into a folder and give it with --manual-dir DIR, "
            "or give the folder where it is prepared with --data-dir DIR"
        )


def _downloads(builder: tfds.core.DatasetBuilder) -> Path:
    """Where TFDS keeps what it downloads: beside the datasets, of which each has a folder of versions."""
    root = Path(str(builder.data_path))
    while root.name != builder.name and root != root.parent:
        root = root.parent
    return root.parent / "downloads"


def _file_name(url: str, info: tfds.core.download.checksums.UrlInfo) -> str:
    return info.filename or url.rsplit("/", 1)[-1]


def _warn_of_other_files(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> None:
    """TFDS takes any file of `manual_dir` that has the right name: Fashion-MNIST's are named as MNIST's."""
    known = {_file_name(url, info): info for url, info in (builder.url_infos or {}).items()}
    paths = {name: manual_dir / name for name in known if manual_dir and (manual_dir / name).is_file()}
    others = [name for name, path in paths.items() if _differs(path, known[name])]
    if others:
        warnings.warn(
            f"in {str(manual_dir)!r}, {', '.join(sorted(others))} differ from the files that TFDS downloads for "
            f"{builder.name!r}; taken as they are, check that they hold this dataset",
            stacklevel=3,
        )


def _differs(path: Path, info: tfds.core.download.checksums.UrlInfo) -> bool:
    """Whether a file is another one: by its size, and by its digest where that takes seconds."""
    size = path.stat().st_size
    if info.size and size != info.size:
        return True
    return size < LARGE and hashlib.sha256(path.read_bytes()).hexdigest() != info.checksum


def _missing_files(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> dict[str, str]:
    """The files that would be downloaded, {URL: file name}."""
    downloads = _downloads(builder)
    present = [*(manual_dir.iterdir() if manual_dir else ()), *(downloads.glob("*") if downloads.is_dir() else ())]
    names = {path.name for path in present}
    return {
        url: _file_name(url, info)
        for url, info in (builder.url_infos or {}).items()
        if not {_file_name(url, info), tfds.core.download.resource.get_dl_fname(url, info.checksum)} & names
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
