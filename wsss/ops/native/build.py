"""Compile the native kernels: `python -m wsss.ops.native.build`; without a compiler slower ones take their place.

`make` compiles them beside their sources. An installation without them, such as from a wheel, compiles them into the
user's cache when they are first needed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

SOURCES = Path(__file__).parent
BASELINE = "baseline"
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi")
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def sources() -> list[Path]:
    """What is compiled into one library."""
    return sorted(SOURCES.glob("*.cpp"))


def library(target: str, folder: Path = SOURCES) -> Path:
    """Where the library for a target lies; the name holds a hash of the sources, so that an old one is never loaded."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for part in sorted(SOURCES.glob("*.h")) + sources():
        digest.update(part.read_bytes())
    return folder / f"wsss-{digest.hexdigest()[:12]}-{target}.so"


def targets() -> dict[str, tuple[str, ...]]:
    """The compiler's options for every target that this kind of processor has."""
    if platform.machine() in ("x86_64", "AMD64"):
        return {BASELINE: ("-march=x86-64",), "x86-64-v3": ("-march=x86-64-v3",)}
    return {BASELINE: ()}


def compile_library(target: str, folder: Path = SOURCES, extra: tuple[str, ...] = ()) -> Path:
    """Compile one target into a folder, unless it is there.

    Raises:
        FileNotFoundError: no C++ compiler, neither $CXX nor c++.
        subprocess.CalledProcessError: the compiler failed; its words are in `stderr`.
        OSError: the folder can't be written.
    """
    compiler = find_compiler()
    place = library(target, folder)
    if place.exists():
        return place
    with tempfile.TemporaryDirectory(dir=folder, prefix=".wsss-") as scratch:
        made = Path(scratch) / place.name
        options = (*FLAGS, *targets()[target], *extra, "-shared", "-fPIC")
        command = [*compiler.split(), *options, *map(str, sources()), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace")
        os.replace(made, place)
    return place


def compile_for_user() -> Path:
    """Compile what is missing of the user's own libraries, while other processes wait; the folder they lie in.

    Raises:
        FileNotFoundError, subprocess.CalledProcessError, OSError: see `compile_library`.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "wsss" / "native"
    if all(library(target, folder).exists() for target in targets()):
        return folder
    find_compiler()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        print("compiling the native kernels, once for this user (about ten seconds)", file=sys.stderr)
        for target in targets():
            compile_library(target, folder)
    return folder


def find_compiler() -> str:
    """The command of the C++ compiler.

    Raises:
        FileNotFoundError: there is none, neither $CXX nor c++, g++ or clang++.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise FileNotFoundError("no C++ compiler: neither $CXX nor c++, g++ or clang++ is there")
    return compiler


def main() -> int:
    """Compile every target and remove what older sources left; 1 if that failed, which nothing else depends on."""
    try:
        made = [compile_library(target) for target in targets()]
    except (OSError, subprocess.CalledProcessError) as problem:
        words = problem.stderr.strip().splitlines()[-1:] if isinstance(problem, subprocess.CalledProcessError) else []
        reason = words[0] if words else str(problem)
        print(f"The native kernels are not built ({reason}); slower ones take their place.", file=sys.stderr)
        return 1
    for old in set(SOURCES.glob("*.so")) - set(made):
        old.unlink(missing_ok=True)
    print(f"The native kernels are built: {', '.join(path.name for path in made)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
