"""Compile written networks with the system's C compiler."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from bnn_keras import files
from bnn_keras.errors import BnnError

STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror")
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FAST = ("-O3", "-march=native")  # GCC 12 vectorizes loops at -O3 only; -march=native: the processor's own popcount
_OPTIONAL = ("-fsanitize", "-fno-sanitize", "-march")  # not every compiler has them

_COMPILERS = ("cc", "gcc", "clang")


def find_compiler() -> list[str]:
    """Return the command of the C compiler: `$CC`, or the first of cc, gcc and clang.

    Raises:
        BnnError: None is installed.
    """
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in [chosen] if chosen else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return command
    expected = f"the command {chosen[0]!r} of $CC" if chosen else f"one of {', '.join(_COMPILERS)}"
    raise BnnError(
        f"format 'c' is verified by compiling it, and there is no C compiler: expected {expected}; install one (the "
        "package gcc), or name it in $CC"
    )


class Compilation:
    """Copies of the files of a network in a temporary folder, and what is compiled from them there.

    The copies have plain names, whatever the user's files are called. The folder is removed with this object.

    Args:
        file: The `.c` file; its `.h` file is beside it.

    Raises:
        OSError: The files cannot be read.
    """

    def __init__(self, file: Path):
        self._file = file
        with files.writing_temporary():
            self._folder = Path(tempfile.mkdtemp(prefix="bnn-keras-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        for suffix in (".c", ".h"):
            shutil.copy(file.with_suffix(suffix), self._folder / f"network{suffix}")

    def program(self, options: Sequence[str] = SANITIZED) -> Path:
        """Return the network with the program that reads images and writes logits (`program.c`), compiled once.

        Raises:
            BnnError: There is no compiler, or it fails.
        """
        target = self._folder / f"program{abs(hash(tuple(options)))}"
        if not target.exists():
            with resources.as_file(resources.files(__package__).joinpath("program.c")) as main:
                self._compile(target, [*options, str(main)])
        return target

    def library(self) -> Path:
        """Return the network as a shared library, for speed.

        Raises:
            BnnError: There is no compiler, or it fails.
        """
        target = self._folder / "network.so"
        self._compile(target, [*FAST, "-fPIC", "-shared"])
        return target

    def _compile(self, target: Path, options: Sequence[str]) -> None:
        command = find_compiler()
        optional = tuple(option for option in options if option.startswith(_OPTIONAL))
        if not _accepts(tuple(command), optional):
            options = [option for option in options if option not in optional]
        names = [f"-I{self._folder}", '-DBNN_HEADER="network.h"', str(self._folder / "network.c")]
        result = _run([*command, *STRICT, *options, *names, "-o", str(target)])
        if result.returncode:
            lines = [line for line in result.stderr.splitlines() if re.search(r"error|warning", line)]
            reason = (lines or result.stderr.splitlines() or ["no message"])[0]
            raise BnnError(
                f"{command[0]} cannot compile {str(self._file)!r} ({reason.strip():.200}); export again, or name "
                "another compiler in $CC"
            )


@functools.lru_cache
def _accepts(command: tuple[str, ...], options: tuple[str, ...]) -> bool:
    """Return whether a compiler makes programs with some options; sanitizers need libraries of their own."""
    with tempfile.TemporaryDirectory(prefix="bnn-keras-") as folder:
        source = Path(folder, "empty.c")
        source.write_text("int main(void) { return 0; }\n")
        return not _run([*command, *options, str(source), "-o", str(Path(folder, "empty"))]).returncode


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
