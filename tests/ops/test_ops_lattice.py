"""The permutohedral lattice: a partition of unity, mutual neighbours, and a filter that is near the Gaussian."""

import os
import subprocess
import sys
from importlib.util import find_spec
from textwrap import dedent

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss.ops.lattice import build_lattice, grid_lattice, slice_factor


def test_the_lattice_filters_like_a_gaussian():
    rows, columns = torch.meshgrid(torch.arange(25.0), torch.arange(31.0), indexing="ij")
    features = torch.stack([columns.flatten(), rows.flatten()]) / 4
    lattice = build_lattice(features)
    values = torch.rand(25 * 31, 2)
    kernel = torch.exp(-0.5 * torch.cdist(features.t(), features.t()) ** 2)
    ones = torch.ones(25 * 31, 1)
    smooth = lattice.filtered(values) / lattice.filtered(ones)
    assert (smooth - kernel @ values / (kernel @ ones)).abs().max() < 0.03


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 100))
def test_barycentric_weights_are_a_partition(dimensions, count, seed):
    features = 5 * torch.randn(dimensions, count, generator=torch.Generator().manual_seed(seed))
    lattice = build_lattice(features)
    weights = lattice.weights.view(count, -1) / slice_factor(dimensions)
    assert torch.allclose(weights.sum(1), torch.ones(count), atol=1e-4)
    assert weights.min() > -1e-4
    received = torch.zeros(lattice.size).index_add(0, lattice.vertices, weights.flatten())
    given = [part.sum() for part in lattice.splat.tensor_split(lattice.starts[1:-2].tolist())]
    assert torch.allclose(received, torch.stack(given), atol=1e-4)
    assert lattice.points.bincount().tolist() == [dimensions + 1] * count


def test_neighbours_are_mutual():
    lattice = build_lattice(torch.randn(3, 200, generator=torch.Generator().manual_seed(1)))
    none, met = lattice.size, 0
    for axis in lattice.neighbours.view(4, -1, 2).tolist():
        assert axis[none] == [none, none]
        for vertex, (following, previous) in enumerate(axis[:none]):
            met += following != none
            assert following == none or (following != vertex and axis[following][1] == vertex)
            assert previous == none or (previous != vertex and axis[previous][0] == vertex)
    assert met > 100


def test_images_side_by_side_are_filtered_apart():
    generator = torch.Generator().manual_seed(0)
    features, values = torch.randn(2, 3, 50, generator=generator), torch.randn(2, 50, 2, generator=generator)
    together = build_lattice(features.transpose(0, 1).flatten(1), images=2).normalise_()
    apart = [build_lattice(each).normalise_() for each in features]
    assert together.size == sum(lattice.size for lattice in apart)
    expected = torch.cat([lattice.filtered(each) for lattice, each in zip(apart, values, strict=True)])
    assert torch.allclose(together.filtered(values.flatten(0, 1)), expected, atol=1e-6)


def test_kernels_are_divided_by_the_roots_of_both_row_sums():
    features = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    kernel = build_lattice(features).filtered(torch.eye(40))
    root = kernel.sum(1).sqrt()
    normal = build_lattice(features).normalise_().filtered(torch.eye(40))
    assert torch.allclose(normal, kernel / root[:, None] / root, atol=1e-6)


def test_a_slice_of_the_points_reads_what_all_of_them_read():
    lattice = build_lattice(torch.randn(2, 30, generator=torch.Generator().manual_seed(3)))
    table = torch.randn(lattice.size + 1, 4)
    assert torch.equal(lattice.at_points(table, slice(7, 19)), lattice.at_points(table)[7:19])


@pytest.mark.parametrize("images", [1, 3])
def test_grid_lattice_is_kept(images):
    first = grid_lattice(20, 30, 3.0, torch.device("cpu"), images)
    assert grid_lattice(20, 30, 3.0, torch.device("cpu"), images) is first


@pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")
def test_the_gpu_kernels_sum_what_torch_sums():
    # Triton's interpreter runs them on the processor; it has to be chosen before they are defined.
    program = """
        import torch
        from wsss.ops import lattice_triton
        from wsss.ops.lattice import build_lattice, weighted_sums
        torch.manual_seed(0)
        lattice = build_lattice(torch.rand(5, 300) * 3)
        for labels in (1, 3, 21):
            points, table = torch.rand(300, labels), torch.rand(lattice.size + 1, labels)
            torch.testing.assert_close(
                lattice_triton.weighted_sums(points, lattice.points, lattice.starts, lattice.splat, many=True),
                weighted_sums(points, lattice.points, lattice.starts, lattice.splat))
            every = torch.arange(len(points), dtype=torch.int32)
            thirds = torch.tensor([0, 0, 100, 300], dtype=torch.int32)
            torch.testing.assert_close(
                lattice_triton.weighted_sums(points, None, thirds), weighted_sums(points, every, thirds))
            torch.testing.assert_close(
                lattice_triton.weighted_sums(table, lattice.vertices, lattice.bags, lattice.weights),
                lattice.at_points(table))
            torch.testing.assert_close(
                lattice_triton.blurred(table, lattice.neighbours[1]), lattice.blurred(table, 1))
    """
    variables = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", dedent(program)], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
