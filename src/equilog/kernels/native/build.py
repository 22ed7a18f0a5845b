"""The C++ kernels as a library of functions: compiled once for this processor, kept in the user's cache, loaded.

They call nothing of Python or torch and take addresses of numbers, so that a few seconds of compiling are enough, with
whatever torch and Python there are; torch's own extensions include its headers, which take most of a minute.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread"]
if platform.machine() in ("x86_64", "AMD64"):  # others have their vectors without being asked
    _FLAGS.append("-march=native")

log = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the kernels, or None where there is no compiler or EQUILOG_NATIVE=0 asks to do without.

    The compiler is $CXX, or the first of c++, g++ and clang++. What it makes is kept in $XDG_CACHE_HOME/equilog or
    ~/.cache/equilog under a name that stands for the sources, the compiler and what this processor can do.
    """
    compiler = _compiler()
    if compiler is None or os.environ.get("EQUILOG_NATIVE") == "0":
        return None
    try:
        kept = _folder() / f"kernels-{_fingerprint(compiler)}.so"
        if not kept.exists():
            _compile(compiler, kept)
        return ctypes.CDLL(str(kept))
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error)
        log.warning("equilog does without its compiled CPU kernels: %s", said.strip()[-2000:])
        return None


def _compiler() -> list[str] | None:
    if "CXX" in os.environ:
        return shlex.split(os.environ["CXX"])
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return None if found is None else [found]


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(cache) if cache else Path.home() / ".cache") / "equilog"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _fingerprint(compiler: list[str]) -> str:
    # The macros that are there from the beginning tell the compiler's version and each instruction set it may use.
    macros = _run([*compiler, *_FLAGS, "-dM", "-E", "-x", "c++", os.devnull])
    sources = [path.read_bytes() for path in sorted(_SOURCES.glob("*.h")) + sorted(_SOURCES.glob("*.cpp"))]
    return hashlib.sha256(b"\0".join([*sources, shlex.join(_FLAGS).encode(), macros.encode()])).hexdigest()[:24]


def _compile(compiler: list[str], kept: Path) -> None:
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:  # several processes may do so at once
        made = Path(folder) / kept.name
        _run([*compiler, *_FLAGS, str(_SOURCES / "kernels.cpp"), "-o", str(made)])
        made.replace(kept)


def _run(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300
    ).stdout
