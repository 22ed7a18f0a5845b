"""The C++ kernels as a library of functions: compiled once for this processor, kept in the user's cache, loaded.

They call nothing of Python or torch and take addresses of numbers, so that some seconds of compiling are enough, with
whatever torch and Python there are; torch's own extensions include its headers, which take most of a minute.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread"]
if platform.machine() in ("x86_64", "AMD64"):  # others have their vectors without being asked
    _FLAGS.append("-march=native")
_SECONDS_UNUSED = 30 * 24 * 60 * 60
"""After which a library in the cache is deleted."""

# All that it says is a WARNING, the lowest level that Python shows by default, and never a Python warning, which would
# be an error where warnings are errors.
log = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the kernels, or None where there is no compiler or EQUILOG_NATIVE=0 asks to do without.

    The compiler is $CXX, or the first of c++, g++ and clang++. What it makes is kept in $XDG_CACHE_HOME/equilog or
    ~/.cache/equilog under a name that stands for the sources, the compiler, what this processor can do, and its own
    bytes. What is there is loaded only if it is whole and no other user can have written it, and only from a folder
    of which the same is true. Where nothing can be kept, each process compiles its own.
    """
    if os.environ.get("EQUILOG_NATIVE") == "0":
        return None
    try:
        compiler = _compiler()
        return None if compiler is None else _load_or_build(compiler)
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # ValueError: a quote in CXX that is not closed
        reason = str(getattr(error, "stderr", None) or error).strip()[-2000:]
        log.warning(
            "equilog does without its compiled CPU kernels: %s\n"
            "CXX=... names another C++17 compiler; with EQUILOG_NATIVE=0 nothing is compiled, and this is not said.",
            reason,
        )
        return None


def _compiler() -> list[str] | None:
    command = shlex.split(os.environ.get("CXX", ""))
    if command:
        return command
    path = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return None if path is None else [path]


def _load_or_build(compiler: list[str]) -> ctypes.CDLL:
    name = f"kernels-{_fingerprint(compiler)}"
    folder = _cache_folder()
    kept = None if folder is None else _load(folder, name)
    return _build(compiler, folder, name) if kept is None else kept


def _fingerprint(compiler: list[str]) -> str:
    # The macros that are there from the beginning tell the compiler's version and each instruction set it may use.
    command = [*compiler, *_FLAGS]
    macros = _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
    sources = [path.read_bytes() for path in sorted(_SOURCES.glob("*.h")) + sorted(_SOURCES.glob("*.cpp"))]
    return _digest(b"\0".join([*sources, shlex.join(command).encode(), macros.encode()]))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _cache_folder() -> Path | None:
    try:
        parent = os.environ.get("XDG_CACHE_HOME", "")
        # A relative one is to be ignored, says the XDG Base Directory Specification.
        folder = (Path(parent) if os.path.isabs(parent) else Path.home() / ".cache") / "equilog"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()
        _check_nobody_else_writes(folder)
        return folder
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        _say_not_kept(error)
        return None


def _say_not_kept(error: Exception) -> None:
    log.warning(
        "equilog cannot keep its compiled CPU kernels, so that each process compiles its own: %s\n"
        "XDG_CACHE_HOME=... names another folder to keep them in, which no other user may write to.",
        error,
    )


def _check_nobody_else_writes(path: Path) -> None:
    """Raise PermissionError unless this is ours or root's and nobody else may write to it, which ssh asks of its keys.

    The folders above are not asked: who writes to those can take ours away, but cannot put a file of ours in its place.
    """
    if sys.platform == "win32":  # where neither owner nor mode is known
        return
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise PermissionError(f"{path} belongs to another user, with the number {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"other users may write to {path}, until chmod go-w")


def _load(folder: Path, name: str) -> ctypes.CDLL | None:
    for path in sorted(folder.glob(f"{name}-*.so")):
        try:
            _check_nobody_else_writes(path)
            if path.stem != f"{name}-{_digest(path.read_bytes())}":  # loaded, it would end Python by a bus error
                raise OSError(f"{path} is not what was written there")
            kept = ctypes.CDLL(str(path))
        except OSError as error:
            log.warning("equilog does not load its kept CPU kernels: %s", error)
            continue
        with contextlib.suppress(OSError):  # root's, which all may read
            path.touch()  # used today
        return kept
    return None


def _build(compiler: list[str], folder: Path | None, name: str) -> ctypes.CDLL:
    log.warning(
        "equilog compiles its CPU kernels with %s, which takes some seconds%s.",
        shlex.join(compiler),
        "" if folder is None else f", once, and keeps them in {folder}",
    )
    with tempfile.TemporaryDirectory(prefix="equilog-", ignore_cleanup_errors=True) as private:
        built = Path(private) / "kernels.so"
        _run([*compiler, *_FLAGS, str(_SOURCES / "kernels.cpp"), "-o", str(built)])
        kept = None if folder is None else _keep(built.read_bytes(), folder, name)
        return ctypes.CDLL(str(kept or built))  # loaded, it needs its file no more


def _keep(content: bytes, folder: Path, name: str) -> Path | None:
    path = folder / f"{name}-{_digest(content)}.so"
    try:
        # A name of its own until it is whole, for other processes may do the same; and a mode that is not the umask's.
        handle, unfinished = tempfile.mkstemp(prefix="kernels-", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(unfinished, path)
        finally:
            Path(unfinished).unlink(missing_ok=True)
    except OSError as error:
        _say_not_kept(error)
        return None
    _delete_unused(folder)
    return path


def _delete_unused(folder: Path) -> None:
    for path in folder.glob("kernels-*"):
        with contextlib.suppress(OSError):  # another process deletes it too
            if path.stat().st_mtime < time.time() - _SECONDS_UNUSED:
                path.unlink()


def _run(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=300
    ).stdout
