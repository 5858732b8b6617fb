"""The native kernels: where they come from, what they do with nonsense, and that they touch no memory but their own."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from crf_references import beliefs, scene

from wsss.errors import UserError
from wsss.ops.crf import DenseCrf
from wsss.ops.native import build, library, mean_field

needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler")
needs_native = pytest.mark.skipif(library.load_library() is None, reason="the native kernels are not built")

FUZZ = """
import sys
import numpy as np
from wsss.ops.native.library import open_library
code = open_library(sys.argv[1])
draw = np.random.default_rng(0)
ran = 0
for _ in range(150):
    height, width = (int(draw.choice([-1, 0, 1, 2, 3, 7, 8, 9, 17, 40])) for _ in range(2))
    sxy, srgb = (float(draw.choice([np.nan, -1, 0, 1e-30, 1e-3, 0.1, 1, 5, 80, 1e9, np.inf])) for _ in range(2))
    count = max(height * width, 0)
    image = draw.integers(0, 256, (count, 3), dtype=np.uint8) * draw.integers(0, 2, dtype=np.uint8)
    most = int(draw.choice([0, 5, 2**31 - 1], p=[0.1, 0.1, 0.8]))
    grid = code.wsss_grid_lattice(height, width, float(draw.choice([sxy, 3])), 2**31 - 1)
    colour = code.wsss_colour_lattice(image.ctypes.data, height, width, sxy, srgb, most)
    labels = int(draw.choice([-1, 0, 1, 2, 4, 5, 8, 9, 12, 13, 16, 21, 24, 25, 40, 256, 257]))
    room = (min(max(labels, 0), 256), count)
    values = draw.choice([0, 1e-5, 0.3, 1, -1, 1e30, np.nan, np.inf], room).astype(np.float32)
    copies = draw.choice([1, 3, 0, np.nan], room[0], p=[0.7, 0.1, 0.1, 0.1]).astype(np.float32)
    marginals = np.empty(room, np.float32)
    weights = (float(draw.choice([0, 3, 1e30, np.nan])) for _ in range(2))
    status = code.wsss_mean_field(
        grid, next(weights), colour, next(weights), values.ctypes.data, copies.ctypes.data,
        labels, int(draw.choice([-1, 0, 1, 3])), marginals.ctypes.data,
    )
    ran += status == 0
    if grid and colour and labels > 0:
        assert code.wsss_mean_field_bytes(grid, colour, labels) > 0
    for lattice in (grid, colour):
        code.wsss_free_lattice(lattice)
for count in [*range(40), 1000, 4099]:
    first, second = (draw.integers(0, 256, count, dtype=np.uint8).repeat(9)[:count] for _ in range(2))
    histogram = np.zeros((256, 256), np.int64)
    code.wsss_pair_histogram(first.ctypes.data, second.ctypes.data, count, histogram.ctypes.data)
    assert histogram.sum() == count
print(ran)
"""


@needs_compiler
@pytest.mark.parametrize("target", build.targets())
def test_every_target_compiles_without_a_warning(target, tmp_path):
    place = build.compile_library(target, tmp_path, ("-Wall", "-Wextra", "-Werror"))
    assert place.exists() and [place] == list(tmp_path.iterdir())


@needs_compiler
def test_no_input_makes_it_touch_foreign_memory(tmp_path):
    """The address and undefined-behaviour sanitizers watch 150 calls with random shapes, deviations and values."""
    built = build.compile_library(build.BASELINE, tmp_path, build.SANITIZE)
    needed = [
        subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")  # which must be there first, for exceptions to be seen
    ]
    if not os.path.isabs(needed[0]):
        pytest.skip("the compiler has no address sanitizer")
    environment = os.environ | {"LD_PRELOAD": " ".join(needed), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-c", FUZZ, str(built)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 5, "hardly a call was valid"


def test_without_a_compiler_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert build.main() == 1
    assert "not built (no C++ compiler" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["crf.cpp", "vectors.h"])
def test_another_source_is_another_library(part, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    (tmp_path / part).write_text("int one;")
    before = build.library(build.BASELINE)
    (tmp_path / part).write_text("int other;")
    assert build.library(build.BASELINE).name != before.name


def test_where_it_is_not_built_it_is_not_offered(monkeypatch):
    monkeypatch.setattr("wsss.ops.native.library.load_library", lambda: None)
    with pytest.raises(UserError, match="CRF backend native is not installed; choose from torch"):
        DenseCrf(np.zeros((4, 5, 3), np.uint8), backend="native")
    assert DenseCrf(np.zeros((4, 5, 3), np.uint8)).backend == "torch"


@needs_native
def test_threads_do_not_disturb_each_other():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (8, 30, 41, 3), dtype=np.uint8)
    probabilities = draw.dirichlet(np.ones(3), (8, 30, 41)).transpose(0, 3, 1, 2).astype(np.float32)

    def infer(i):
        return DenseCrf(images[i], backend="native")(probabilities[i])

    expected = [infer(i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert all(map(np.array_equal, pool.map(infer, range(8)), expected))


@needs_native
def test_lattices_go_with_their_objects(monkeypatch):
    code = library.load_library()
    freed = []
    monkeypatch.setattr(code, "wsss_free_lattice", freed.append)
    lattice = mean_field._Lattice(code.wsss_grid_lattice(4, 5, 3.0, 100))
    pointer = lattice.pointer
    del lattice
    assert freed == [pointer]


@needs_native
@pytest.mark.parametrize("labels", [2, 3, 7, 12, 21, 30])
def test_every_target_gives_the_same_bytes(labels, monkeypatch):
    image, given = scene(60, 81), beliefs(scene(60, 81), labels)
    level = library.load_library().wsss_processor_level()
    results = []
    for target in build.targets():
        if target == build.BASELINE or level >= int(target[-1]):
            code = library.open_library(str(build.library(target)))
            monkeypatch.setattr(mean_field, "_code", lambda code=code: code)
            mean_field._grid_lattice.cache_clear()
            results.append(DenseCrf(image, backend="native")(given))
    assert all(np.array_equal(results[0], each) for each in results[1:])


@needs_native
@pytest.mark.parametrize("labels", [1, 2, 4, 5, 8, 9, 12, 13, 16, 17, 24, 25, 40])
def test_every_width_of_a_row_gives_the_marginals_of_torch(labels):
    draw = np.random.default_rng(labels)
    image = draw.integers(100, 130, (19, 23, 3), dtype=np.uint8)
    probabilities = draw.dirichlet(np.ones(labels), (19, 23)).transpose(2, 0, 1).astype(np.float32)
    native, torch = (DenseCrf(image, backend=backend)(probabilities) for backend in ("native", "torch"))
    assert np.abs(native - torch).max() < 1e-5


@needs_compiler
def test_an_installation_without_it_compiles_it_when_it_is_first_used(monkeypatch, tmp_path, capsys):
    """Into the user's cache, since an environment may be another user's; once."""
    sources = tmp_path / "installed"
    shutil.copytree(build.SOURCES, sources, ignore=shutil.ignore_patterns("*.so"))
    for module in (build, library):
        monkeypatch.setattr(module, "SOURCES", sources)
    monkeypatch.setattr(build, "targets", lambda: {build.BASELINE: ("-O0",)})
    monkeypatch.setattr(library, "library", lambda target, folder=sources: build.library(target, folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = library.load_library.__wrapped__()
    assert first.wsss_processor_level() >= 0
    assert "compiling the native kernels, once" in capsys.readouterr().err
    assert library.load_library.__wrapped__() and capsys.readouterr().err == ""
    assert not list(sources.glob("*.so"))


def test_an_installation_that_cannot_compile_it_does_without(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "library", lambda target, folder=tmp_path: folder / "none.so")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert library.load_library.__wrapped__() is None
