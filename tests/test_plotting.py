"""Pictures: what is drawn is where it should be."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from minist import plotting, spatial, tensor
from minist.experiments import figures
from minist.spatial import kernels

CURVE = [
    {"epoch": 1, "step": 50, "error": 40.0},
    {"epoch": 1, "step": 100, "error": 10.0},
    {"epoch": 1, "step": 100, "held_out_error": 9.0},
    {"epoch": 2, "step": 200, "error": 5.0},
    {"test_error": 4.0},
]


@pytest.fixture
def ax():
    return Figure().subplots()


def result(n=3, **changes):
    affine = spatial.Affine()
    parts = {
        "images": np.random.default_rng(0).random((n, 1, 12, 16), dtype=np.float32),
        "labels": np.arange(n),
        "predicted": np.arange(n),
        "grid": affine.grid(np.tile(affine.identity(), (n, 1)), (12, 16)),
        "outputs": np.zeros((n, 1, 12, 16), dtype=np.float32),
        "curve": CURVE,
        "title": "a run",
    }
    return plotting.result(**(parts | changes))


def lines_of(ax):
    """Every drawn polyline, and its colour."""
    return [
        (path.vertices, to_hex(collection.get_colors()[0]))
        for collection in ax.collections
        for path in collection.get_paths()
    ]


def test_the_identity_grid_frames_the_image(ax):
    grid = spatial.Affine().grid(spatial.Affine().identity()[None], (12, 16)).data[0]
    plotting.draw_grid(ax, grid, (12, 16))
    points = np.concatenate([vertices for vertices, _ in lines_of(ax)])
    np.testing.assert_allclose(points.min(axis=0), [0, 0], atol=1e-12)
    np.testing.assert_allclose(points.max(axis=0), [15, 11])


def test_the_upper_edge_of_the_output_is_orange(ax):
    # Turned by 90 degrees: x_s = -y, y_s = x. The output's upper edge looks at the right side.
    grid = spatial.Affine().grid(np.array([[0.0, -1.0, 0.0, 1.0, 0.0, 0.0]]), (9, 9)).data[0]
    plotting.draw_grid(ax, grid, (9, 9))
    (edge,) = [v for v, colour in lines_of(ax) if colour == plotting.ORANGE.lower()]
    np.testing.assert_allclose(edge[:, 0], 8)


def test_a_result_shows_input_grid_and_output_of_each_digit():
    figure = result(3)
    *digits, curve = figure.get_axes()
    assert len(digits) == 9
    assert [ax.get_ylabel() for ax in digits[::3]] == ["(a) input", "(b) grid", "(c) output"]
    assert all(len(ax.images) == 1 for ax in digits)
    assert [bool(ax.collections) for ax in digits] == [False] * 3 + [True] * 3 + [False] * 3
    assert len(curve.lines) == 3
    assert figure.get_suptitle() == "a run"


def test_the_curve_is_in_epochs():
    *_, curve = result().get_axes()
    training, held_out, test = curve.lines
    np.testing.assert_allclose(training.get_xdata(), [0.5, 1, 2])
    np.testing.assert_allclose(training.get_ydata(), [40, 10, 5])
    assert list(held_out.get_ydata()) == [9]
    assert list(test.get_ydata()) == [4, 4]


def test_a_wrong_guess_says_what_it_is():
    ax = result(labels=np.array([0, 7, 2])).get_axes()[1]
    assert ax.get_title() == "1, is 7"
    assert ax.title.get_color() == plotting.RED


def test_without_a_transformer_there_is_the_input_alone():
    assert len(result(grid=None, outputs=None, curve=[]).get_axes()) == 4


def test_tensors_are_drawn_as_arrays_are():
    images = np.random.default_rng(1).random((3, 1, 12, 16), dtype=np.float32)
    shown = [result(images=kind(images)).get_axes()[0].images[0] for kind in (np.asarray, tensor)]
    np.testing.assert_array_equal(shown[0].get_array(), shown[1].get_array())


def test_it_can_be_saved(tmp_path):
    result().savefig(tmp_path / "result.png")
    assert (tmp_path / "result.png").stat().st_size > 10_000


# --- figures of Section 3 -----------------------------------------------------------------------


def test_a_gallery_draws_each_grid_over_the_image_and_what_is_seen_below():
    image = np.random.default_rng(0).random((9, 12))
    spline, affine = spatial.ThinPlateSpline(2, 3), spatial.Affine()
    theta = [0.5, 0.0, 0.25, 0.0, 0.5, 0.0]
    figure = plotting.gallery(
        image,
        [(affine, theta), (spline, spline.identity()), (affine @ spline, [*theta] + 12 * [0])],
    )
    over, below = figure.axes[:3], figure.axes[3:]
    assert [ax.get_title() for ax in over] == [
        "Affine",
        "ThinPlateSpline",
        "Affine @ ThinPlateSpline",
    ]
    for ax in over:
        np.testing.assert_array_equal(ax.images[0].get_array(), image)
    points = np.concatenate([vertices for vertices, _ in lines_of(over[0])[:-1]])
    np.testing.assert_allclose(points.min(axis=0), [5.5 - 2.75 + 1.375, 2])
    np.testing.assert_allclose(below[1].images[0].get_array(), image, atol=1e-12)
    (scatter,) = [c for c in over[1].collections if len(c.get_offsets()) == 6]
    corners = [[0, 0], [5.5, 0], [11, 0], [0, 8], [5.5, 8], [11, 8]]
    np.testing.assert_allclose(scatter.get_offsets(), corners, atol=1e-12)


def test_kernel_curves_are_k_and_its_derivative():
    figure = plotting.kernel_curves([kernels.Bilinear(), kernels.Bicubic(a=-0.5)])
    above, below = figure.axes[0], figure.axes[2]
    x, k = above.lines[0].get_data()
    np.testing.assert_allclose(k, np.maximum(0, 1 - abs(x)), atol=1e-12)
    slopes = below.lines[0].get_ydata()
    assert set(slopes[np.isfinite(slopes)]) == {-1.0, 0.0, 1.0}
    assert figure.axes[1].get_title() == "Bicubic(a=-0.5)"


def test_the_figure_of_kinks_shows_the_slope_at_each_pixel():
    row = [2.0, 5.0, 1.0]
    figure = plotting.kinks(row)
    dots = {
        name: ax.collections[0].get_offsets()
        for name, ax in zip(("zeros", "border", "reflection"), figure.axes[3:], strict=True)
    }
    assert dots["zeros"][:, 0].tolist() == [-2, -1, 0, 1, 2, 3, 4]
    np.testing.assert_allclose(dots["zeros"][:, 1], [0, 2, 3, -4, -1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(dots["border"][:, 1], [0, 0, 0, -4, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(dots["reflection"][2:4, 1], [3, -4], atol=1e-12)


def test_reductions_stand_beside_the_image():
    image = np.eye(8)
    figure = plotting.reductions(image, [("half", image[::2, ::2])])
    assert [ax.get_title() for ax in figure.axes] == ["image, 8x8", "half, 4x4"]


@pytest.mark.parametrize("name", figures.FIGURES)
def test_the_figures_of_the_docs_can_be_drawn_again(name, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", {name: figures.FIGURES[name]})
    figures.main(tmp_path)
    assert (tmp_path / f"{name}.png").read_bytes()[1:4] == b"PNG"


# --- volumes ---


def volume_result(n=2, **changes):
    affine = spatial.Affine(3)
    parts = {
        "volumes": np.random.default_rng(0).random((n, 1, 9, 12, 16), dtype=np.float32),
        "labels": np.arange(n),
        "predicted": np.arange(n),
        "grid": affine.grid(np.tile(affine.identity(), (n, 1)), (4, 5, 6)),
        "outputs": np.ones((n, 1, 5, 6), dtype=np.float32),
        "curve": CURVE,
    }
    return plotting.volume_result(**(parts | changes))


def test_a_voxel_is_seen_from_the_front_from_above_and_from_the_side():
    volumes = np.zeros((1, 1, 9, 12, 16), dtype=np.float32)
    volumes[0, 0, 2, 5, 14] = 0.5  # z, y, x
    figure = volume_result(1, volumes=volumes)
    front, above, side = (ax.images[0].get_array() for ax in figure.get_axes()[:3])
    for image, shape, place in (
        (front, (12, 16), (5, 14)),
        (above, (9, 16), (2, 14)),
        (side, (12, 9), (5, 2)),
    ):
        assert image.shape == shape
        assert image[place] == 1 and image.sum() == 1


def test_the_identity_box_frames_the_volume():
    axes = volume_result(1).get_axes()[:3]
    for ax, corner in zip(axes, ([15, 11], [15, 8], [8, 11]), strict=True):
        points = np.concatenate([vertices for vertices, _ in lines_of(ax)])
        np.testing.assert_allclose(points.min(axis=0), [0, 0], atol=1e-12)
        np.testing.assert_allclose(points.max(axis=0), corner)
        assert len(points) == 24


def test_the_upper_edge_of_the_front_is_orange():
    theta = spatial.Affine(3).identity().reshape(3, 4)
    theta[1] *= -1  # upside down
    grid = spatial.Affine(3).grid(theta.reshape(1, 12), (4, 5, 6))
    front, above, *_ = volume_result(1, grid=grid).get_axes()
    for ax, down in ((front, 11), (above, 0)):
        (edge,) = [v for v, colour in lines_of(ax) if colour == plotting.ORANGE.lower()]
        np.testing.assert_allclose(sorted(map(tuple, edge)), [(0, down), (15, down)])


def test_volumes_without_a_transformer_have_no_box():
    assert not any(ax.collections for ax in volume_result(grid=None).get_axes()[:-1])
