"""Compile the native CRF: `python -m wsss.ops.native.build`; without a compiler the torch backend is used."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("crf.cpp")
BASELINE = "baseline"
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi")
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def library(target: str, folder: Path = SOURCE.parent) -> Path:
    """Where the library for a target lies; the name holds a hash of the source, so that an old one is never loaded."""
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:12]
    return folder / f"crf-{digest}-{target}.so"


def targets() -> dict[str, tuple[str, ...]]:
    """The compiler's options for every target that this kind of processor has."""
    if platform.machine() in ("x86_64", "AMD64"):
        return {BASELINE: ("-march=x86-64",), "x86-64-v3": ("-march=x86-64-v3",)}
    return {BASELINE: ()}


def compile_library(target: str, folder: Path = SOURCE.parent, extra: tuple[str, ...] = ()) -> Path:
    """Compile one target into a folder, unless it is there.

    Raises:
        FileNotFoundError: no C++ compiler, neither $CXX nor c++.
        subprocess.CalledProcessError: the compiler failed; its words are in `stderr`.
        OSError: the folder can't be written.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise FileNotFoundError("no C++ compiler: neither $CXX nor c++, g++ or clang++ is there")
    place = library(target, folder)
    if place.exists():
        return place
    with tempfile.TemporaryDirectory(dir=folder, prefix=".crf-") as scratch:
        made = Path(scratch) / place.name
        options = (*FLAGS, *targets()[target], *extra, "-shared", "-fPIC")
        subprocess.run(
            [*compiler.split(), *options, str(SOURCE), "-o", str(made)], check=True, capture_output=True, text=True
        )
        os.replace(made, place)
    return place


def main() -> int:
    """Compile every target and remove what older sources left; 1 if that failed, which nothing else depends on."""
    try:
        made = [compile_library(target) for target in targets()]
    except (OSError, subprocess.CalledProcessError) as problem:
        words = problem.stderr.strip().splitlines()[-1:] if isinstance(problem, subprocess.CalledProcessError) else []
        reason = words[0] if words else str(problem)
        print(f"The native CRF is not built ({reason}); the torch backend is used instead.", file=sys.stderr)
        return 1
    for old in set(SOURCE.parent.glob("crf-*.so")) - set(made):
        old.unlink(missing_ok=True)
    print(f"The native CRF is built: {', '.join(path.name for path in made)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
