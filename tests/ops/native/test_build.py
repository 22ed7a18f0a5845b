"""The library of C++ kernels: when it is built, where it is kept, what is loaded, and what happens where it cannot be.

Most tests run the real build.py and a real compiler in a new process, but on a source of one line, to be quick.
"""

import ast
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from equilog.ops.native import build

COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "")
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C++ compiler here")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, give files away or mount")
STRANGER = 54321
"""The number of a user of whom nothing is known."""

SOURCE = """
#ifndef ANSWER
#define ANSWER 42
#endif
extern "C" long equilog_answer() { return ANSWER; }
"""
LOAD = """
import os, resource, runpy, sys
library = runpy.run_path(sys.argv[1])["library"]
{before}
library = library()
print((None, None) if library is None else (library.equilog_answer(), library._name))
"""
STEP = """
import torch, equilog
from equilog.ops.native.build import library
logits = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
loss = equilog.log_balanced_cross_entropy(logits, torch.arange(64) % 5)
loss.backward()
print(library() is not None, round(loss.item(), 4), round(logits.grad.abs().sum().item(), 4))
"""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("CXX", "EQUILOG_NATIVE")}


class Package:
    """build.py beside a source of one line, with a folder to keep what is built and one for temporary files."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.cache = self.home / "equilog"
        self.temporary = folder / "temporary"
        self.sources = folder / "native"
        for directory in (self.home, self.temporary, self.sources):
            directory.mkdir()
        self.temporary.chmod(0o777)
        shutil.copy(build.__file__, self.sources / "build.py")
        (self.sources / "kernels.cpp").write_text(SOURCE)

    def start(
        self, *, before: str = "", prefix: Sequence[str | Path] = (), **environment: str | None
    ) -> "subprocess.Popen[str]":
        """Start a process that loads the kernels, with warnings as errors; a variable of None is not there."""
        variables = {**ENVIRONMENT, "XDG_CACHE_HOME": str(self.home), "TMPDIR": str(self.temporary), **environment}
        code = LOAD.format(before=before)
        return subprocess.Popen(
            [*prefix, sys.executable, "-W", "error", "-c", code, self.sources / "build.py"],
            env={name: value for name, value in variables.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def load(self, **options: Any) -> tuple[int | None, Path | None, str]:
        """Return what the kernels of a new process answer, the file they came from, and what was logged."""
        process = self.start(**options)
        output, logged = process.communicate()
        assert process.returncode == 0, logged
        assert not list(self.temporary.iterdir())
        answer, path = ast.literal_eval(output)
        return answer, path and Path(path), logged

    def kept(self) -> Path:
        """Return the one file in the cache."""
        [path] = self.cache.iterdir()
        return path

    def plant(self, content: bytes) -> Path:
        """Put a file in place of the one that is kept, under the name that is right for it."""
        fingerprint = self.kept().stem.rpartition("-")[0]
        self.kept().unlink()
        path = self.cache / f"{fingerprint}-{hashlib.sha256(content).hexdigest()[:24]}.so"
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path


@pytest.fixture
def package() -> Iterator[Package]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users, whom some tests become
        os.chmod(folder, 0o755)
        yield Package(Path(folder))


@pytest.fixture(scope="module")
def planted() -> bytes:
    """A library of another's, which answers 13."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "planted.cpp", Path(folder) / "planted.so"
        source.write_text(SOURCE)
        subprocess.run([COMPILER, "-shared", "-fPIC", "-DANSWER=13", source, "-o", library], check=True)
        return library.read_bytes()


@needs_compiler
def test_a_step_with_the_kernels_gives_what_one_without_gives() -> None:
    def step(**environment: str) -> list[str]:
        environment = {**os.environ, **environment}
        return subprocess.run(
            [sys.executable, "-c", STEP], env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()

    with_kernels, without = step(), step(EQUILOG_NATIVE="0")
    assert [with_kernels[0], without[0]] == ["True", "False"]
    assert with_kernels[1:] == without[1:]


@needs_compiler
def test_the_first_process_builds_and_says_so_and_the_next_load(package: Package) -> None:
    answer, path, logged = package.load(before="os.umask(0)")
    status = package.kept().stat()
    assert (answer, path) == (42, package.kept())
    assert logged == (
        f"equilog compiles its CPU kernels with {COMPILER}, which takes some seconds, once, "
        f"and keeps them in {package.cache}.\n"
    )
    assert package.load() == (answer, path, "")
    assert package.kept().stat().st_ino == status.st_ino
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE(package.cache.stat().st_mode) == 0o700


@needs_compiler
def test_other_sources_have_a_library_of_their_own(package: Package) -> None:
    package.load()
    (package.sources / "more.h").write_text("")
    package.load()
    assert len(list(package.cache.iterdir())) == 2


@needs_compiler
def test_processes_that_build_at_once_do_not_disturb_each_other(package: Package) -> None:
    processes = [package.start() for _ in range(4)]
    assert [ast.literal_eval(process.communicate()[0])[0] for process in processes] == [42] * 4
    assert package.load() == (42, package.kept(), "")  # of one name, whoever was last


@needs_compiler
@pytest.mark.parametrize("compiler", ["", "  "])
def test_an_empty_name_of_a_compiler_is_none(package: Package, compiler: str) -> None:
    assert package.load(CXX=compiler)[0] == 42


@needs_compiler
def test_a_compiler_may_have_flags(package: Package) -> None:
    package.load()
    assert package.load(CXX=f"{COMPILER} -DANSWER=43 -g")[0] == 43
    assert len(list(package.cache.iterdir())) == 2


@needs_compiler
def test_flags_and_what_the_processor_can_do_are_in_the_name(tmp_path: Path) -> None:
    fingerprint = build._fingerprint([COMPILER])
    assert fingerprint == build._fingerprint([COMPILER])
    assert fingerprint != build._fingerprint([COMPILER, "-g"])
    compiler = tmp_path / "c++"
    fingerprints = set()
    for macro in ("__AVX2__=1", "__AVX2__=2"):  # the same command, on two processors
        compiler.write_text(f'#!/bin/sh\nexec {COMPILER} "$@" -U__AVX2__ -D{macro}\n')
        compiler.chmod(0o755)
        fingerprints.add(build._fingerprint([str(compiler)]))
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler -O3", "No such file or directory: 'no-such-compiler'"),
        ("c++ 'of -O3", "No closing quotation"),
        (f"{sys.executable} -c \"raise SystemExit('out of registers')\"", "out of registers"),
    ],
)
def test_a_compiler_that_fails_is_told_of_and_done_without(package: Package, compiler: str, reason: str) -> None:
    answer, _, logged = package.load(CXX=compiler)
    assert answer is None
    assert f"equilog does without its compiled CPU kernels: {reason}" in logged.replace("[Errno 2] ", "")
    assert "CXX=... names another" in logged
    assert not package.cache.exists() or not list(package.cache.iterdir())


def test_nothing_is_said_where_there_is_no_compiler_or_none_is_wanted(package: Package) -> None:
    assert package.load(PATH=str(package.home)) == (None, None, "")
    assert package.load(EQUILOG_NATIVE="0", CXX="no-such-compiler") == (None, None, "")
    assert not package.cache.exists()


@needs_compiler
def test_a_cache_is_in_the_home_unless_another_place_is_named_in_full(package: Package) -> None:
    for place in (None, "", "relative"):
        _, path, _ = package.load(XDG_CACHE_HOME=place, HOME=str(package.home))
        assert path is not None
        assert path.parent == package.home / ".cache" / "equilog"


@needs_compiler
@needs_root
def test_a_user_without_home_and_name_has_kernels_for_one_process(package: Package) -> None:
    answer, path, logged = package.load(before=f"os.setuid({STRANGER})", XDG_CACHE_HOME=None, HOME=None)
    assert (answer, path and path.exists()) == (42, False)
    assert "each process compiles its own: Could not determine home directory." in logged
    assert "XDG_CACHE_HOME=... names another folder" in logged
    assert not package.cache.exists()


@needs_compiler
@needs_root
def test_a_library_of_root_that_all_may_read_is_loaded(package: Package) -> None:
    package.load()
    package.cache.chmod(0o755)
    package.kept().chmod(0o644)
    package.temporary.chmod(0o755)
    assert package.load(before=f"os.setuid({STRANGER})") == (42, package.kept(), "")


def open_to_all(path: Path) -> None:
    path.chmod(0o702)


def open_to_the_group(path: Path) -> None:
    path.chmod(0o720)


def of_a_stranger(path: Path) -> None:
    os.chown(path, STRANGER, -1)


untrusted = pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (open_to_all, "other users may write to"),
        (open_to_the_group, "other users may write to"),
        pytest.param(of_a_stranger, f"belongs to another user, with the number {STRANGER}", marks=needs_root),
    ],
)


@needs_compiler
def test_a_planted_library_would_be_loaded_if_owner_and_mode_were_right(package: Package, planted: bytes) -> None:
    package.load()
    package.plant(planted)
    assert package.load() == (13, package.kept(), "")


@needs_compiler
@untrusted
def test_a_folder_that_others_can_write_is_not_used(
    package: Package, planted: bytes, spoil: Callable[[Path], None], reason: str
) -> None:
    package.load()
    package.plant(planted)
    spoil(package.cache)
    answer, path, logged = package.load()
    assert (answer, path and path.exists()) == (42, False)
    assert f"each process compiles its own: {package.cache} {reason}" in logged or f"{reason} {package.cache}" in logged
    assert package.kept().read_bytes() == planted


@needs_compiler
@untrusted
def test_a_library_that_others_can_write_is_replaced(
    package: Package, planted: bytes, spoil: Callable[[Path], None], reason: str
) -> None:
    package.load()
    original = package.kept()
    spoil(package.plant(planted))
    answer, path, logged = package.load()
    assert (answer, path) == (42, original)
    assert "equilog does not load" in logged
    assert reason in logged


@needs_compiler
def test_a_link_to_a_folder_is_judged_by_the_folder(package: Package) -> None:
    elsewhere = package.sources / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    package.cache.symlink_to(elsewhere)
    _, path, _ = package.load()
    assert path is not None
    assert path.parent == elsewhere
    elsewhere.chmod(0o777)
    _, path, logged = package.load()
    assert path is not None
    assert path.is_relative_to(package.temporary)
    assert f"other users may write to {elsewhere}" in logged


@needs_compiler
@pytest.mark.parametrize("size", [0, 100, -4096, -1])
def test_a_library_that_was_cut_short_is_built_anew(package: Package, size: int) -> None:
    package.load()
    whole = package.kept().read_bytes()
    package.kept().write_bytes(whole[:size])
    answer, path, logged = package.load()
    assert (answer, path) == (42, package.kept())
    assert f"{path} is not what was written there" in logged
    assert package.kept().read_bytes() == whole
    assert package.load() == (42, path, "")


@needs_compiler
def test_a_whole_file_that_cannot_be_loaded_is_no_hindrance(package: Package) -> None:
    """As what a newer system has left in a home that several systems share."""
    package.load()
    package.plant(b"a library of another system")
    answer, _, logged = package.load()
    assert answer == 42
    assert "equilog does not load its kept CPU kernels" in logged


@needs_compiler
def test_a_cache_that_cannot_be_made_is_told_of_and_done_without(package: Package) -> None:
    package.cache.write_text("in the way")
    answer, path, logged = package.load()
    assert (answer, path and path.exists()) == (42, False)
    assert f"each process compiles its own: [Errno 17] File exists: '{package.cache}'" in logged


@needs_compiler
@needs_root
def test_a_read_only_file_system_is_told_of_and_done_without(package: Package) -> None:
    mount = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro none "$1" && shift && exec "$@"', "sh", package.home]
    if subprocess.run([*mount, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("nothing can be mounted here")
    answer, path, logged = package.load(prefix=mount)
    assert (answer, path and path.exists()) == (42, False)
    assert f"each process compiles its own: [Errno 30] Read-only file system: '{package.cache}'" in logged


@needs_compiler
def test_a_full_disk_is_told_of_and_keeps_nothing_half_written(package: Package) -> None:
    """No file may grow beyond 4 KiB, except for the compiler's."""
    compiler = package.sources / "c++"
    compiler.write_text(f'#!/bin/sh\nulimit -S -f unlimited\nexec {COMPILER} "$@"\n')
    compiler.chmod(0o755)
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))"
    answer, path, logged = package.load(before=limit, CXX=str(compiler))
    assert (answer, path and path.exists()) == (42, False)
    assert "each process compiles its own: [Errno 27] File too large" in logged
    assert not list(package.cache.iterdir())


@needs_compiler
def test_libraries_that_nobody_has_loaded_for_a_month_are_deleted(package: Package) -> None:
    package.load()
    kept = package.kept()
    days_ago = {"kernels-of-last-month.so": 31, "kernels-of-this-month.so": 29, "another.so": 31}
    for name, days in days_ago.items():
        path = package.cache / name
        path.touch()
        os.utime(path, (time.time() - days * 86400,) * 2)
    os.utime(kept, (0, 0))
    package.load()  # which makes it one that was used today
    assert len(list(package.cache.iterdir())) == 4
    package.load(CXX=f"{COMPILER} -DANSWER=43")
    names = {path.name for path in package.cache.iterdir()}
    assert names > {kept.name, "kernels-of-this-month.so", "another.so"}
    assert len(names) == 4
