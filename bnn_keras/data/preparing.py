"""Download and prepare datasets with TFDS.

Missing files and unreachable servers are detected before TFDS starts, because TFDS reports them late or unclearly.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import hashlib
import os
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from bnn_keras import files
from bnn_keras.errors import BnnError

CONNECT_TIMEOUT = 4.0  # seconds
MAX_HASHED_BYTES = 2**30  # larger files are compared by size only

# Archives that users must download themselves, and where to get them, by dataset.
_MANUAL_ARCHIVES = {"imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")}
_MANUAL_SOURCES = {"imagenet2012": "https://image-net.org/download-images, after registering there"}


def prepare(builder: tfds.core.DatasetBuilder, manual_dir: str | None) -> None:
    """Prepare a dataset, from the files in `manual_dir` or from downloaded files.

    If another process is preparing it, wait for that process and use what it prepared.

    Args:
        builder: TFDS's builder of the dataset. Its information is read again.
        manual_dir: Folder of manually downloaded files; None to download them.

    Raises:
        BnnError: The files can neither be downloaded nor found in `manual_dir`, or TFDS cannot prepare them. No partly
            prepared dataset is left behind.
    """
    folder = Path(manual_dir).expanduser() if manual_dir else None
    if folder and not folder.is_dir():
        raise BnnError(f"--manual-dir {str(folder)!r} is not a folder; set it to the folder of the downloaded files")
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        _require_manual_archives(builder, folder)
    else:
        _require_downloads(builder, folder)
    _warn_about_other_files(builder, folder)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(manual_dir=folder, try_download_gcs=False)
    try:
        with _locked(data_dir_of(builder) / f".{builder.name}.lock", builder.name):
            if builder.data_path.exists():  # another process prepared it
                builder.info.read_from_directory(builder.data_path)
                return
            with contextlib.redirect_stdout(sys.stderr):
                builder.download_and_prepare(download_config=config)
    except Exception as error:  # TFDS passes on every exception of its builders, decompressors and file systems
        reason = f"{type(error).__name__}: {error}".strip()[:300]
        raise BnnError(
            f"cannot prepare dataset {builder.name!r} in {str(builder.data_path)!r} ({reason}); "
            "check the files and the free disk space, or choose another folder with --data-dir DIR"
        ) from error


def is_writable(folder: Path) -> bool:
    """Return whether files can be created in a folder. A missing folder is created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def temporary_data_dir() -> str:
    """Return a temporary folder for datasets, the same one each time. It is removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="bnnk-")
    atexit.register(folder.cleanup)
    return folder.name


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Hold a lock file while in the context. If another process holds it, print which one, and wait.

    The file remains: removing it could give two processes a lock each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(descriptor, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for {files.owner(lock)}, which prepares dataset {name!r}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _require_manual_archives(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> None:
    """Raise a `BnnError` if manually downloaded archives are missing.

    TFDS checks this after creating folders, and prepares one split of ImageNet if the archive of the other is missing.
    """
    folder = manual_dir or _downloads(builder) / "manual"
    archives = _MANUAL_ARCHIVES.get(builder.name, ())
    missing = [name for name in archives if not (folder / name).is_file()]
    if not missing and folder.is_dir():
        return
    if archives:
        needed = f"{' and '.join(archives)} (from {_MANUAL_SOURCES[builder.name]})"
    else:
        needed = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())[:300]
    reason = (
        f"{' and '.join(missing)} missing in {str(folder)!r}" if manual_dir else "its files must be downloaded manually"
    )
    raise BnnError(
        f"dataset {builder.name!r} is not prepared in {str(builder.data_path)!r} ({reason}); "
        f"put {needed} into a folder and set --manual-dir DIR"
    )


def _require_downloads(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> None:
    """Raise a `BnnError` if files are missing and their server does not answer."""
    missing = _missing_files(builder, manual_dir)
    if missing and not _reachable(next(iter(missing))):
        files = ", ".join(sorted(missing.values()))
        servers = "; ".join(sorted({url.rsplit("/", 1)[0] for url in missing}))
        raise BnnError(
            f"dataset {builder.name!r} is not prepared in {str(builder.data_path)!r} and cannot be downloaded "
            f"(no answer from {servers}); put {files} into a folder and set --manual-dir DIR, "
            "or set --data-dir DIR to the folder where the dataset is prepared"
        )


def data_dir_of(builder: tfds.core.DatasetBuilder) -> Path:
    """Return the folder of datasets: data_dir, where `builder.data_path` is data_dir/NAME/…/VERSION."""
    folder = Path(str(builder.data_path))
    while folder.name != builder.name and folder != folder.parent:
        folder = folder.parent
    return folder.parent


def _downloads(builder: tfds.core.DatasetBuilder) -> Path:
    """Return TFDS's folder of downloads."""
    return data_dir_of(builder) / "downloads"


def _file_name(url: str, info: tfds.core.download.checksums.UrlInfo) -> str:
    return info.filename or url.rsplit("/", 1)[-1]


def _warn_about_other_files(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> None:
    """Warn about files of `manual_dir` that differ from those that TFDS downloads.

    TFDS identifies these files by name only, and the files of MNIST and Fashion-MNIST have the same names.
    """
    known = {_file_name(url, info): info for url, info in (builder.url_infos or {}).items()}
    paths = {name: manual_dir / name for name in known if manual_dir and (manual_dir / name).is_file()}
    others = [name for name, path in paths.items() if _differs(path, known[name])]
    if others:
        warnings.warn(
            f"in {str(manual_dir)!r}, {', '.join(sorted(others))} differ from the files that TFDS downloads for "
            f"{builder.name!r}; they are used anyway; verify that they belong to this dataset",
            stacklevel=3,
        )


def _differs(path: Path, info: tfds.core.download.checksums.UrlInfo) -> bool:
    """Return whether a file differs from the expected one, by size and (up to `MAX_HASHED_BYTES`) by checksum."""
    size = path.stat().st_size
    if info.size and size != info.size:
        return True
    return size < MAX_HASHED_BYTES and hashlib.sha256(path.read_bytes()).hexdigest() != info.checksum


def _missing_files(builder: tfds.core.DatasetBuilder, manual_dir: Path | None) -> dict[str, str]:
    """Return the files that TFDS would download, {URL: file name}."""
    downloads = _downloads(builder)
    present = [*(manual_dir.iterdir() if manual_dir else ()), *(downloads.glob("*") if downloads.is_dir() else ())]
    names = {path.name for path in present}
    return {
        url: _file_name(url, info)
        for url, info in (builder.url_infos or {}).items()
        if not {_file_name(url, info), tfds.core.download.resource.get_dl_fname(url, info.checksum)} & names
    }


def _reachable(url: str) -> bool:
    """Return whether the server of a URL answers within `CONNECT_TIMEOUT`. TFDS itself retries for minutes."""
    answered = threading.Event()

    def request_head() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_TIMEOUT):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except OSError:
            return

    # The socket's timeout does not cover the name lookup, which can block for longer. Hence the thread.
    thread = threading.Thread(target=request_head, daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT)
    return answered.is_set()
