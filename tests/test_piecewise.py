"""The piecewise affine transformation: a mesh of triangles, moved by their corners."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minist import Tensor, gradcheck, spatial
from minist.spatial import PiecewiseAffine, regular_grid

LATTICES = [(2, 2), (4, 4), (2, 3), (5, 3)]
every_lattice = pytest.mark.parametrize(("rows", "cols"), LATTICES)


def moved(corners, points):
    """Where the 2x2 mesh of these corners (4, 2) takes points (P, 2)."""
    theta = np.asarray(corners, float).reshape(1, -1)
    return PiecewiseAffine(2, 2).transform(theta, np.asarray(points, float)[None]).numpy()[0]


def test_two_triangles_by_hand():
    """Upper left, upper right, lower left, lower right; the diagonal goes from first to last."""
    corners = [(0, 0), (4, 0), (0, 2), (7, 9)]
    points = {
        (-1, -1): (0, 0),
        (1, -1): (4, 0),
        (-1, 1): (0, 2),
        (1, 1): (7, 9),
        (0, 0): (3.5, 4.5),  # the middle of the diagonal
        (0, -1): (2, 0),  # of the upper side
        (-1, 0): (0, 1),  # of the left side
        (1, 0): (5.5, 4.5),  # of the right side, whose triangle has no part in the left one
        (0, 1): (3.5, 5.5),  # of the lower side
        (1 / 3, -1 / 3): (11 / 3, 3),  # the centre of the upper right triangle
        (-1 / 3, 1 / 3): (7 / 3, 11 / 3),  # and of the lower left one
    }
    np.testing.assert_allclose(moved(corners, [*points]), [*points.values()], atol=1e-12)


def test_beyond_the_lattice_it_goes_on_as_its_corners_do_on_average():
    corners = [(0, 0), (4, 0), (0, 2), (7, 9)]
    # To the right the corners rise by (4, 0) above and (7, 7) below, over two units.
    np.testing.assert_allclose(moved(corners, [(3, -1)]), [(4 + 5.5, 0 + 3.5)], atol=1e-12)
    # Downwards by (0, 2) on the left and (3, 9) on the right.
    np.testing.assert_allclose(moved(corners, [(-1, 3)]), [(0 + 1.5, 2 + 5.5)], atol=1e-12)
    np.testing.assert_allclose(moved(corners, [(3, 3)]), [(14, 18)], atol=1e-12)


@every_lattice
@pytest.mark.parametrize("side", range(4))
def test_it_does_not_tear_beyond_the_lattice(rng, rows, cols, side):
    """Beside each continued edge of a cell, and across the border of the lattice."""
    mesh = PiecewiseAffine(rows, cols)
    theta = rng.normal(size=(1, mesh.num_parameters))
    axis, sign = divmod(side, 2)
    lines = mesh.control_points[:, 1 - axis]
    there = np.empty((1, len(lines) + 1, 2))
    there[0, :-1, axis], there[0, :-1, 1 - axis] = (1 - 2 * sign) * 1.7, lines
    there[0, -1] = np.roll([1 - 2 * sign, 0.13], axis)
    near = there + 1e-9 * np.array([1.0, -1.0])
    found = [mesh.transform(theta, points).numpy() for points in (there, near, 2 * there - near)]
    np.testing.assert_allclose(found[1], found[0], atol=1e-7)
    np.testing.assert_allclose(found[2], found[0], atol=1e-7)


@every_lattice
def test_scipy_agrees_inside(rng, rows, cols):
    interpolate = pytest.importorskip("scipy.interpolate")
    spatial_ = pytest.importorskip("scipy.spatial")
    mesh = PiecewiseAffine(rows, cols)
    theta = rng.normal(size=mesh.num_parameters)
    points = rng.uniform(-1, 1, (200, 2))
    # Linear interpolation on two triangles for each cell, one cell at a time.
    seen = mesh.transform(theta[None], points[None]).numpy()[0]
    place = (points + 1) / 2 * [cols - 1, rows - 1]
    cells = np.minimum(place.astype(int), [cols - 2, rows - 2])
    triangles = [(0, 1, 3), (0, 2, 3)]  # both with the diagonal
    for point, expected, (j, i), (x, y) in zip(points, seen, cells, place, strict=True):
        corners = [i * cols + j + step for step in (0, 1, cols, cols + 1)]
        own = [corners[k] for k in triangles[int(x - j < y - i)]]
        found = interpolate.LinearNDInterpolator(
            spatial_.Delaunay(mesh.control_points[own]), theta.reshape(-1, 2)[own]
        )(point)
        if not np.isnan(found).any():  # on an edge by rounding
            np.testing.assert_allclose(expected, found[0], atol=1e-9)


@every_lattice
def test_control_points_look_where_theta_says(rng, rows, cols):
    mesh = PiecewiseAffine(rows, cols)
    theta = rng.normal(size=(2, mesh.num_parameters))
    grid = mesh.grid(theta, (rows, cols)).numpy()
    np.testing.assert_allclose(grid, theta.reshape(2, rows, cols, 2), atol=1e-12)


@every_lattice
@pytest.mark.parametrize("align_corners", [True, False])
def test_affine_maps_are_exact_everywhere(rng, rows, cols, align_corners):
    mesh, a, b = PiecewiseAffine(rows, cols), rng.normal(size=(2, 2)), rng.normal(size=2)
    theta = (mesh.control_points @ a.T + b).reshape(1, -1)
    grid = mesh.grid(theta, (7, 12), align_corners).numpy().reshape(-1, 2)
    points = regular_grid((7, 12), align_corners)[:2].T
    np.testing.assert_allclose(grid, points @ a.T + b, atol=1e-12)
    far = rng.uniform(-5, 5, (1, 50, 2))
    np.testing.assert_allclose(mesh.transform(theta, far).numpy(), far @ a.T + b, atol=1e-11)


@given(seed=st.integers(0, 2**32 - 1), lattice=st.sampled_from(LATTICES))
@settings(max_examples=40, deadline=None)
def test_inside_the_lattice_it_is_continuous_across_every_edge(seed, lattice):
    rng = np.random.default_rng(seed)
    rows, cols = lattice
    mesh = PiecewiseAffine(rows, cols)
    theta = rng.normal(size=(1, mesh.num_parameters))
    t, i, j = rng.uniform(), rng.integers(rows - 1), rng.integers(cols - 1)
    # In cells: the upper, left, lower and right side, and the diagonal.
    on_edges = np.add([(t, 0), (0, t), (t, 1), (1, t), (t, t)], [j, i])
    points = on_edges * 2 / [cols - 1, rows - 1] - 1
    beside = [points + 1e-9 * np.array(step) for step in ((1, 1), (-1, 1), (1, -1), (-1, -1))]
    here, *others = (mesh.transform(theta, p[None]).numpy() for p in (points, *beside))
    for other in others:
        np.testing.assert_allclose(other, here, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_each_triangle_is_affine_and_no_more_than_three_corners_move_a_point(seed):
    rng = np.random.default_rng(seed)
    mesh, points = PiecewiseAffine(4, 3), rng.uniform(-1, 1, (1, 2, 300))
    hats = mesh.basis_at(Tensor(points)).numpy()[0]
    assert ((hats != 0).sum(axis=0) <= 3).all()
    inside = abs(points[0]).max(axis=0) <= 1
    assert (hats[:, inside] >= 0).all()
    np.testing.assert_allclose(hats.sum(axis=0), 1, atol=1e-12)
    np.testing.assert_allclose(mesh.control_points.T @ hats, points[0], atol=1e-12)


DEGENERATE = {
    "all at one place": lambda mesh: np.full(mesh.num_parameters, 0.25),
    "all at the middle": lambda mesh: np.zeros(mesh.num_parameters),
    "on a line": lambda mesh: (mesh.control_points @ [[1, 0.5], [1, 0.5]]).ravel(),
    "two columns in one": lambda mesh: np.where(
        mesh.identity() == mesh.control_points[1, 0], -1.0, mesh.identity()
    ),
    "inside out": lambda mesh: -mesh.identity(),
    "folded over": lambda mesh: (abs(mesh.control_points) * [1, -1]).ravel(),
}


@pytest.mark.parametrize("theta", DEGENERATE.values(), ids=DEGENERATE)
@every_lattice
def test_collapsed_and_folded_meshes_are_finite_and_teach(rng, theta, rows, cols):
    mesh = PiecewiseAffine(rows, cols)
    theta = Tensor(theta(mesh)[None], requires_grad=True)
    u = rng.normal(size=(1, 1, 6, 9))
    grid = mesh.grid(theta, (5, 4))
    v = spatial.grid_sample(u, grid)
    v.backward(rng.normal(size=v.shape))
    assert np.isfinite(grid.numpy()).all() and np.isfinite(v.numpy()).all()
    assert np.isfinite(theta.grad).all() and theta.grad.any()
    assert gradcheck(lambda theta: mesh.grid(theta, (5, 4)), theta)


def test_a_collapsed_mesh_looks_at_its_one_place():
    mesh = PiecewiseAffine(3, 4)
    grid = mesh.grid(np.full((1, 24), 0.25), (5, 7)).numpy()
    np.testing.assert_allclose(grid, 0.25, atol=1e-15)


def test_gradient_at_an_edge_is_that_of_the_upper_right_triangle():
    """On the diagonal itself."""
    corners = np.array([[0, 0, 4, 0, 0, 2, 7, 9.0]])
    points = Tensor(np.zeros((1, 1, 2)), requires_grad=True)
    seen = PiecewiseAffine(2, 2).transform(corners, points)
    seen.backward(np.array([[[1.0, 0.0]]]))
    assert points.grad.ravel().tolist() == [2, 1.5]  # x goes by 4 in 2, then by 3 in 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_no_number_stays_none_and_stays_alone(dtype):
    mesh = PiecewiseAffine(3, 4)
    theta = Tensor(mesh.identity()[None].astype(dtype), requires_grad=True)
    points = np.array([[[np.nan, 0], [0.1, np.nan], [np.nan, np.nan], [0.1, 0.2]]], dtype)
    seen = mesh.transform(theta, points).numpy()
    assert np.isnan(seen[0, :3]).all()
    np.testing.assert_allclose(seen[0, 3], [0.1, 0.2], rtol=1e-5)


@pytest.mark.parametrize("x", [1e6, -1e6, 1e20, -1e20])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_points_far_away(x, dtype):
    mesh = PiecewiseAffine(3, 4)
    points = np.array([[[x, 0.25], [0.25, x], [x, x]]], dtype)
    seen = mesh.transform(mesh.identity()[None].astype(dtype), points).numpy()
    np.testing.assert_allclose(seen, points, rtol=1e-5, atol=1e-6 * abs(x))


@pytest.mark.parametrize(("rows", "cols"), [(1, 4), (4, 1), (0, 3)])
def test_a_lattice_on_a_line(rows, cols):
    words = f"PiecewiseAffine: {rows}x{cols} points lie on a line; take 2x2 or more"
    with pytest.raises(ValueError, match=words):
        PiecewiseAffine(rows, cols)
