"""The thin plate spline: exact where it is pinned, as flat as it may be elsewhere."""

import numpy as np
import pytest

from minist import Tensor, gradcheck, spatial
from minist.spatial.grid import regular_grid
from minist.spatial.thin_plate import SplineBasis, radial, solve

LATTICES = [(2, 2), (4, 4), (2, 3), (5, 3), (8, 8)]
every_lattice = pytest.mark.parametrize(("rows", "cols"), LATTICES)


def scattered(rng, n):
    return rng.uniform(-1, 1, (n, 2))


@pytest.mark.parametrize("n", [3, 4, 7, 16])
def test_scipy_agrees(rng, n):
    interpolate = pytest.importorskip("scipy.interpolate")
    points, values = scattered(rng, n), rng.normal(size=(n, 2))
    oracle = interpolate.RBFInterpolator(points, values, kernel="thin_plate_spline")
    grid = spatial.tps_grid(values.ravel()[None], (1, 1, 6, 9), points).numpy()[0]
    expected = oracle(regular_grid((6, 9))[:2].T).reshape(6, 9, 2)
    np.testing.assert_allclose(grid, expected, atol=1e-8)


@every_lattice
def test_scipy_agrees_on_the_lattice(rng, rows, cols):
    interpolate = pytest.importorskip("scipy.interpolate")
    spline = spatial.ThinPlateSpline(rows, cols)
    theta = spline.identity() + rng.normal(0, 0.2, spline.num_parameters)
    oracle = interpolate.RBFInterpolator(
        spline.control_points, theta.reshape(-1, 2), kernel="thin_plate_spline"
    )
    grid = spline.grid(theta[None], (5, 8), align_corners=False).numpy()[0]
    expected = oracle(regular_grid((5, 8), False)[:2].T).reshape(5, 8, 2)
    np.testing.assert_allclose(grid, expected, atol=1e-8)


@every_lattice
def test_scipy_agrees_at_points_of_ones_own(rng, rows, cols):
    """Inside and beyond the lattice, on the control points too."""
    interpolate = pytest.importorskip("scipy.interpolate")
    spline = spatial.ThinPlateSpline(rows, cols)
    theta = spline.identity() + rng.normal(0, 0.2, (2, spline.num_parameters))
    points = rng.uniform(-1.5, 1.5, (2, 4, 5, 2))
    points[:, 0, 0], points[:, 0, 1] = spline.control_points[[0, -1]]
    seen = spline.transform(theta, points).numpy()
    for values, own, found in zip(theta, points, seen, strict=True):
        oracle = interpolate.RBFInterpolator(
            spline.control_points, values.reshape(-1, 2), kernel="thin_plate_spline"
        )
        expected = oracle(own.reshape(-1, 2)).reshape(own.shape)
        np.testing.assert_allclose(found, expected, atol=1e-8)


@every_lattice
def test_the_gradient_at_a_control_point_is_no_quotient_of_zeros(rng, rows, cols):
    """r^2 log r^2 is flat at r = 0."""
    spline = spatial.ThinPlateSpline(rows, cols)
    theta = Tensor(spline.identity()[None] + rng.normal(0, 0.2, (1, spline.num_parameters)))
    points = Tensor(spline.control_points[None], requires_grad=True)
    # Beside a control point the slope changes by about eps log(eps).
    assert gradcheck(lambda p: spline.transform(theta, p), points, eps=1e-7, rtol=1e-4, atol=1e-4)


@every_lattice
def test_control_points_look_where_theta_says(rng, rows, cols):
    """With an output pixel on each control point, the grid is theta."""
    spline = spatial.ThinPlateSpline(rows, cols)
    theta = rng.normal(size=(2, spline.num_parameters))
    grid = spline.grid(theta, (rows, cols)).numpy()
    np.testing.assert_allclose(grid, theta.reshape(2, rows, cols, 2), atol=1e-9)


def test_control_points_of_ones_own_are_exact(rng):
    points, values = scattered(rng, 9), rng.normal(size=(9, 2))
    basis = SplineBasis.apply(points.T[None], centres=points, solution=solve(points))
    found = values.T @ basis.numpy()[0]
    np.testing.assert_allclose(found, values.T, atol=1e-9)


@every_lattice
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["identity", "shift", "affine"])
def test_an_affine_map_of_the_control_points_is_that_map_everywhere(rng, rows, cols, dtype, kind):
    # kornia 3459
    a, b = {
        "identity": (np.eye(2), np.zeros(2)),
        "shift": (np.eye(2), np.array([0.3, -0.7])),
        "affine": (np.array([[0.8, -0.5], [0.9, 0.4]]), np.array([0.1, 0.2])),
    }[kind]
    spline = spatial.ThinPlateSpline(rows, cols)
    theta = (spline.control_points @ a.T + b).reshape(1, -1).astype(dtype)
    grid = spline.grid(Tensor(theta), (7, 12))
    expected = regular_grid((7, 12))[:2].T @ a.T + b
    np.testing.assert_allclose(grid.numpy().reshape(-1, 2), expected, atol=1e-5)
    assert grid.dtype == np.dtype(dtype)


def test_what_is_added_to_the_plane_dies_out():
    """sum of w_i = sum of w_i c_i = 0: the plate carries no force and no torque."""
    points = spatial.ThinPlateSpline(4, 3).control_points
    w = solve(points)[:12]
    np.testing.assert_allclose(w.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(points.T @ w, 0, atol=1e-12)


def test_of_all_interpolants_it_bends_least(rng):
    """Bending energy w^T Phi w: a bent plate stores some, an affine map none."""
    points = scattered(rng, 8)
    w = solve(points)[:8]
    energy = w.T @ radial(points, points) @ w
    assert np.linalg.eigvalsh(energy).min() > -1e-9
    affine_map = 1 + 2 * points[:, 0] - 3 * points[:, 1]
    assert affine_map @ energy @ affine_map == pytest.approx(0, abs=1e-8)
    assert points[:, 0] ** 2 @ energy @ points[:, 0] ** 2 > 0.01


@pytest.mark.parametrize("shape", [(2, 10), (2, 5, 2)])
def test_gradient_with_points_of_ones_own(rng, shape):
    points = scattered(rng, 5)
    theta = Tensor(rng.normal(size=shape), requires_grad=True)
    assert gradcheck(lambda t: spatial.tps_grid(t, (2, 1, 3, 4), points), theta)


@pytest.mark.parametrize("align_corners", [True, False])
def test_tps_grid_on_a_lattice_is_the_transformation(rng, align_corners):
    spline = spatial.ThinPlateSpline(3, 4)
    theta = rng.normal(size=(2, 24))
    np.testing.assert_allclose(
        spatial.tps_grid(theta, (2, 1, 5, 6), spline.control_points, align_corners).numpy(),
        spline.grid(theta, (5, 6), align_corners).numpy(),
    )


def test_identity_is_not_the_spline_s_own_array():
    spline = spatial.ThinPlateSpline()
    spline.identity()[:] = 0
    assert abs(spline.control_points).max() == 1


# --- wrong input --------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "cols"), [(1, 4), (4, 1), (0, 3)])
def test_a_lattice_on_a_line(rows, cols):
    with pytest.raises(ValueError, match=f"{rows}x{cols} points lie on a line; take 2x2 or more"):
        spatial.ThinPlateSpline(rows, cols)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([[0, 0], [1, 1]], "P >= 3"),
        ([[0, 0, 1], [1, 1, 1], [0, 1, 1]], r"needs \(P, 2\) control points"),
        ([[-1, -1], [0, 0], [1, 1], [0.5, 0.5]], "lie on a line"),
        ([[0, 0], [1, 0], [0, 1], [1, 0]], "two control points are the same"),
    ],
)
def test_control_points_that_do_not_fix_the_plane(points, words):
    points = np.array(points, dtype=float)
    with pytest.raises(ValueError, match=words):
        spatial.tps_grid(np.zeros((1, 2 * len(points))), (1, 1, 3, 4), points)


@pytest.mark.parametrize("size", [(1, 1, 2, 3, 4), (1, 1, 3)])
def test_a_spline_moves_the_plane(rng, size):
    with pytest.raises(ValueError, match=r"tps_grid: size is \(N, C, H', W'\), not"):
        spatial.tps_grid(np.zeros((1, 10)), size, scattered(rng, 5))


@pytest.mark.parametrize("shape", [(1, 9), (1, 8), (2, 5), (1, 4, 2), (10,)])
def test_a_theta_that_does_not_fit_its_points(rng, shape):
    with pytest.raises(ValueError, match=r"tps_grid: 5 control points need theta \(N, 10\)"):
        spatial.tps_grid(np.zeros(shape), (1, 1, 3, 4), scattered(rng, 5))
