"""Pictures: what is drawn is where it should be."""

import shutil
from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

import minist.functional as F
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


def test_a_gallery_has_the_image_s_shape_and_may_have_titles_of_its_own():
    affine = spatial.Affine()
    square, wide = (
        plotting.gallery(np.zeros(size), [(affine, affine.identity())], titles=["at rest"])
        for size in ((8, 8), (8, 16))
    )
    assert square.axes[0].get_title() == "at rest"
    assert wide.get_figheight() < square.get_figheight()


def test_rows_of_a_basis_share_one_scale_and_0_is_white():
    x, y, one = spatial.regular_grid((5, 7)).reshape(3, 5, 7)
    figure = plotting.basis([x, 0.5 * y, one], titles=["x", "y", "1"])
    assert [ax.get_title() for ax in figure.axes] == ["x", "y", "1"]
    images = [ax.images[0] for ax in figure.axes]
    np.testing.assert_array_equal(images[0].get_array(), x)
    assert {image.get_clim() for image in images} == {(-1.0, 1.0)}
    np.testing.assert_allclose(images[0].to_rgba(np.zeros(1))[0], 1, atol=0.01)
    (line,) = [c for c in figure.axes[0].collections if len(c.get_paths())]
    np.testing.assert_allclose(line.get_paths()[0].vertices[:, 0], 3)  # x = 0: the middle column


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


def test_basins_show_the_loss_and_where_a_descent_went():
    shifts = [-2.0, 0.0, 2.0]
    figure = plotting.basins(shifts, {"soft": [4.0, 0.0, 2.0]}, {"soft": ([2.0, 1.0], [2.0, 1.0])})
    (ax,) = figure.axes
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[-2, 1], [0, 0], [2, 0.5]])
    path, end = ax.collections
    np.testing.assert_allclose(path.get_offsets(), [[2, 0.5], [1, 0.25]])
    np.testing.assert_allclose(end.get_offsets(), [[1, 0.25]])
    assert to_hex(end.get_facecolor()[0]) == plotting.ORANGE.lower()


# --- a transformer that learns ------------------------------------------------------------------


def test_a_film_has_a_row_for_each_moment_grids_left_outputs_right():
    affine = spatial.Affine()
    images = np.random.default_rng(0).random((2, 1, 9, 9))
    wide, half = ([[s, 0.0, 0.0, 0.0, s, 0.0]] * 2 for s in (1.0, 0.5))
    grids = [affine.grid(np.array(theta), (9, 9)) for theta in (wide, half)]
    outputs = [np.full((2, 1, 9, 9), value) for value in (0.25, 0.75)]
    figure = plotting.film(images, grids, outputs, ["step 0", "step 9"])
    left, right = figure.subfigs
    assert len(left.axes) == len(right.axes) == 4
    assert [left.axes[i].get_ylabel() for i in (0, 2)] == ["step 0", "step 9"]
    for i, image in enumerate(images):
        np.testing.assert_array_equal(left.axes[i].images[0].get_array(), image[0])
    framed = np.concatenate([vertices for vertices, _ in lines_of(left.axes[2])])
    np.testing.assert_allclose([framed.min(), framed.max()], [2, 6])
    assert [ax.images[0].get_array()[0, 0] for ax in right.axes] == [0.25, 0.25, 0.75, 0.75]


def test_theta_over_training_has_a_line_for_each_image_and_their_mean():
    thetas = np.arange(12.0).reshape(3, 2, 2)  # steps, images, parameters
    figure = plotting.theta_curves([0, 5, 9], thetas, ["s", "angle"])
    assert [ax.get_title() for ax in figure.axes] == ["s", "angle"]
    *images, mean = figure.axes[1].lines
    assert [list(line.get_ydata()) for line in images] == [[1, 5, 9], [3, 7, 11]]
    np.testing.assert_allclose(mean.get_xydata(), [[0, 2], [5, 6], [9, 10]])


def test_what_was_recovered_stands_against_what_is_true():
    true = np.array([0.0, 1.0, 2.0])
    figure = plotting.recovered({"angle": (true, 2 * true), "scale": (true, tensor(-true))})
    assert [ax.get_title() for ax in figure.axes] == ["angle, r = 1.00", "scale, r = -1.00"]
    np.testing.assert_allclose(figure.axes[0].collections[0].get_offsets()[2], [2, 4])
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), [[0, 0], [2, 2]])


def test_an_animation_shows_one_figure_after_the_other_and_rests_on_the_last():
    figures = []
    for shade in (0.0, 0.5, 1.0):
        figure = Figure(figsize=(1, 0.5), dpi=60)
        plotting.draw_image(figure.add_axes((0, 0, 1, 1)), np.full((2, 4), shade))
        figures.append(figure)
    gif = Image.open(BytesIO(plotting.animation(figures, frames_per_second=5)))
    assert (gif.format, gif.size, gif.n_frames) == ("GIF", (60, 30), 3)
    shades, durations = [], []
    for i in range(3):
        gif.seek(i)
        shades.append(gif.convert("L").getpixel((30, 15)))
        durations.append(gif.info["duration"])
    assert shades[0] > 250 and 100 < shades[1] < 150 and shades[2] < 5
    assert durations == [200, 200, 2000]


def test_reductions_stand_beside_the_image():
    image = np.eye(8)
    figure = plotting.reductions(image, [("half", image[::2, ::2])])
    assert [ax.get_title() for ax in figure.axes] == ["image, 8x8", "half, 4x4"]


@pytest.mark.parametrize("name", figures.FIGURES)
def test_the_figures_of_the_docs_can_be_drawn_again(name, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", {name: figures.FIGURES[name]})
    figures.main(tmp_path)
    assert (tmp_path / f"{name}.png").read_bytes()[1:4] == b"PNG"


# --- graphs, maps and curves --------------------------------------------------------------------


def boxes(figure):
    """The text of each box, and the centre of its left and right side, in the figure's units."""
    ax = figure.axes[0]
    found = {}
    for patch, text in zip(
        [p for p in ax.patches if isinstance(p, FancyBboxPatch)],
        [t for t in ax.texts if t.get_va() == "center"],
        strict=True,
    ):
        x, y, w, h = patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()
        assert text.get_text() not in found
        found[text.get_text()] = (x, y, x + w, y + h)
    return found


def arrows(figure):
    """(text at its tail, text at its head) of every arrow, by where it ends."""
    found = []
    for patch in figure.axes[0].patches:
        if not isinstance(patch, FancyArrowPatch):
            continue
        tail, *_, head = patch._path_original.vertices

        def nearest(point):
            def distance(box):
                low, high = np.array(box[:2]), np.array(box[2:])
                return np.linalg.norm(np.maximum(0, np.maximum(low - point, point - high)))

            return min(boxes(figure).items(), key=lambda item: distance(item[1]))[0]

        found.append((nearest(tail), nearest(head)))
    return sorted(found)


@pytest.fixture(params=["Graphviz", "Matplotlib"])
def layout_by(request, monkeypatch):
    if request.param == "Matplotlib":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")


@pytest.mark.usefixtures("layout_by")
def test_a_graph_shows_each_operation_and_leaf_once_and_each_use():
    x, w = tensor(2.0, requires_grad=True), tensor(np.ones((2, 3)), requires_grad=True)
    y = x * x
    z = (w * y).sum() + y
    z.backward(retain_graph=True)
    figure = plotting.graph(z, {"x": x, "y": y, "w": w, "z": z})
    leaf, square, result = "x = 2\ngrad 28", "Multiply\ny = 4", "Add\nz = 28"
    assert set(boxes(figure)) == {leaf, "w\n2x3", square, "Multiply", "Sum", result}
    assert arrows(figure) == sorted(
        [
            (leaf, square),
            (leaf, square),
            ("w\n2x3", "Multiply"),
            (square, "Multiply"),
            ("Multiply", "Sum"),
            ("Sum", result),
            (square, result),
        ]
    )
    sizes = [t.get_text() for t in figure.axes[0].texts if t.get_va() != "center"]
    assert sizes == ["2x3"]


@pytest.mark.usefixtures("layout_by")
def test_boxes_of_a_graph_lie_apart_and_inputs_to_the_left():
    x, w, b, v = (tensor(np.ones((2, 2)), requires_grad=True) for _ in range(4))
    figure = plotting.graph((F.tanh(x @ w + b) * v - w).mean(), {"x": x, "w": w, "b": b, "v": v})
    found = boxes(figure)
    for a, b in combinations(found.values(), 2):
        assert a[0] > b[2] or b[0] > a[2] or a[1] > b[3] or b[1] > a[3]
    for tail, head in arrows(figure):
        assert found[tail][2] < found[head][0]


def test_there_is_no_graph_without_a_history_or_after_it_was_freed():
    x = tensor(2.0, requires_grad=True)
    y = x * x
    y.backward()
    for freed in (x, y):
        with pytest.raises(ValueError, match="retain_graph=True"):
            plotting.graph(freed)


def test_feature_maps_share_one_scale_around_white():
    maps = np.arange(-3.0, 9.0).reshape(3, 2, 2)
    figure = plotting.feature_maps(maps, ["a", "b", "c"], columns=2)
    shown = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in shown] == ["a", "b", "c"]
    for ax, picture in zip(shown, maps, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), picture)
        assert ax.images[0].get_clim() == (-8, 8)
    assert to_hex(plotting.SIGNED(0.5)) == "#ffffff"
    assert to_hex(plotting.SIGNED(0.0)) == plotting.BLUE.lower()


@pytest.mark.parametrize(("shape", "names"), [((2, 3, 4, 4), ()), ((2, 4, 4), ["a"])])
def test_feature_maps_say_what_they_expect(shape, names):
    with pytest.raises(ValueError, match=r"expected maps \(K, H, W\)"):
        plotting.feature_maps(np.zeros(shape), names)


def test_there_may_be_more_runs_than_looks():
    figure = plotting.curves({"loss": {f"run {i}": [i, i + 1] for i in range(13)}})
    assert len(figure.axes[0].lines) == 13


def test_rows_of_a_contact_sheet_may_differ_in_length():
    figure = plotting.contact_sheet({"R": np.zeros((3, 1, 4, 4)), "TC": np.zeros((1, 1, 6, 6))})
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 1, 0, 0]


def test_a_run_looks_the_same_in_every_panel_of_curves():
    figure = plotting.curves(
        {"loss": {"a": [3, 2], "b": [4, 1]}, "error": {"b": [9, 8]}}, x=[10, 20, 30]
    )
    loss, error = figure.axes
    assert (loss.get_title(), error.get_title()) == ("loss", "error")
    a, b = loss.lines
    assert list(a.get_xdata()) == [10, 20]
    assert list(b.get_ydata()) == [4, 1]
    assert error.lines[0].get_color() == b.get_color() != a.get_color()
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["a", "b"]


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


# --- of classifiers, and of times ----------------------------------------------------------------


def test_confusion_counts_rows_as_truth_and_columns_as_answers():
    labels = np.array([0, 0, 1, 2, 2, 2])
    figure = plotting.confusion(labels, {"net": np.array([0, 2, 1, 0, 0, 2])}, 3)
    (ax,) = figure.axes
    counts = {text.get_position(): int(text.get_text()) for text in ax.texts}  # (column, row)
    assert counts == {(0, 0): 1, (2, 0): 1, (1, 1): 1, (0, 2): 2, (2, 2): 1}
    np.testing.assert_array_equal(ax.images[0].get_array(), [[0, 0, 1], [0, 0, 0], [2, 0, 0]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("taken for", "is")
    assert ax.get_title() == "net"


def test_confusions_side_by_side_have_one_scale():
    labels = np.array([0, 0, 0, 1])
    figure = plotting.confusion(labels, {"bad": [1, 1, 1, 1], "good": np.array([0, 0, 1, 1])}, 2)
    assert [ax.get_title() for ax in figure.axes] == ["bad", "good"]
    assert [ax.images[0].get_clim() for ax in figure.axes] == [(0, 3), (0, 3)]


def test_confusion_without_a_mistake_has_no_shade():
    ax = plotting.confusion(np.arange(3), {"net": np.arange(3)}, 3).axes[0]
    assert not ax.images[0].get_array().any()
    assert len(ax.texts) == 3


def test_worst_mistakes_come_first_and_right_answers_not_at_all():
    images = np.zeros((4, 1, 5, 5)) + np.arange(4).reshape(-1, 1, 1, 1) / 4
    logits = np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.99, 0.01]])
    figure = plotting.worst_mistakes(images, np.array([0, 1, 1, 1]), logits)
    assert [ax.images[0].get_array()[0, 0] for ax in figure.axes] == [0.75, 0.25]
    assert [ax.get_title() for ax in figure.axes] == ["0, is 1", "0, is 1"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["99%, 1%", "60%, 40%"]


def test_no_more_mistakes_are_shown_than_asked_for_or_than_there_are():
    images, labels = np.zeros((30, 1, 4, 4)), np.ones(30, int)
    logits = np.tile([2.0, 0.0], (30, 1))
    shown = [ax for ax in plotting.worst_mistakes(images, labels, logits, 12).axes if ax.images]
    assert len(shown) == 12
    assert not plotting.worst_mistakes(images, 0 * labels, logits).axes[0].images


def test_times_are_bars_from_the_top_the_shortest_in_green():
    (ax,) = plotting.times({"slow": 40.0, "quick": 8.0, "middle": 16.0}).axes
    assert [bar.get_width() for bar in ax.patches] == [40, 8, 16]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["slow", "quick", "middle"]
    assert [to_hex(bar.get_facecolor()) == plotting.GREEN.lower() for bar in ax.patches] == [
        False,
        True,
        False,
    ]
    assert ax.yaxis_inverted()


def test_times_of_parts_have_no_winner():
    (ax,) = plotting.times({"one": 3.0, "other": 1.0}, rivals=False).axes
    assert {to_hex(bar.get_facecolor()) for bar in ax.patches} == {plotting.BLUE.lower()}


def test_a_floor_of_times_is_a_line_with_its_name():
    (ax,) = plotting.times({"one": 3.0, "other": 1.0}, floor=("products", 2.0)).axes
    assert list(ax.lines[0].get_xdata()) == [2, 2]
    assert "products, 2 ms" in [text.get_text() for text in ax.texts]
