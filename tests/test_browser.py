"""The site in a headless browser: figures under the mouse, search, and nothing wider than a phone.

Needs Playwright (`pip install playwright`) and a Chromium on the path; skipped without.
"""

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from minist import datasets, models, no_grad, spatial
from minist.backend import Array

pytestmark = pytest.mark.browser

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
DIGIT = 61  # the test image that the figure shows first


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip(f"no browser on the path: {', '.join(CHROMIUM)}")
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def served(site):
    """The site's address on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser, served):
    """A page that fails the test if it fetches from elsewhere or reports an error."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(240_000)  # for machines that do much else
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))

    def failed(request):
        if request.failure != "net::ERR_ABORTED":  # by the test, which has gone to another page
            faults.append(f"failed: {request.url}, {request.failure}")

    def answered(response):
        if response.status >= 400:
            faults.append(f"{response.status}: {response.url}")

    page.on("requestfailed", failed)
    page.on("response", answered)

    def requested(request):
        if not request.url.startswith((served, "data:", "blob:", "file:")):
            faults.append(f"from elsewhere: {request.url}")

    page.on("request", requested)
    yield page
    page.close()
    assert faults == []


# --- drag theta ---------------------------------------------------------------------------------

TRANSFORMATIONS = {
    "affine": spatial.Affine(),
    "attention": spatial.Attention(),
    "projective": spatial.Projective(),
    "tps": spatial.ThinPlateSpline(4, 4),
}
DRAGS = [  # the family, the handle, and how far it is dragged, in pixels of the screen
    ("affine", 0, (25, -30)),
    ("affine", 1, (-40, 35)),
    ("affine", 2, (30, 20)),
    ("affine", 4, (-60, 10)),
    ("attention", 0, (20, 15)),
    ("attention", 2, (-50, -20)),
    ("projective", 1, (-45, 30)),
    ("tps", 0, (30, 25)),
    ("tps", 6, (-28, 33)),
]


def settled(page) -> None:
    """Wait until the figure has been drawn."""
    page.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")


def pixels(page, selector: str) -> Array:
    """The red of each pixel of a canvas, (28, 28)."""
    script = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    values = page.locator(selector).evaluate(script)
    return np.array(values, dtype=np.uint8).reshape(28, 28, 4)[..., 0]


def theta(page) -> list[float]:
    return json.loads(page.locator("#theta-figure").get_attribute("data-theta"))


def expected(family: str, theta: list[float], mode: str = "bilinear") -> Array:
    """What minist makes of theta, as ink on paper."""
    image = datasets.MNIST(train=False).images[DIGIT : DIGIT + 1] / 255
    grid = TRANSFORMATIONS[family].grid(np.array([theta]), (28, 28))
    v = spatial.grid_sample(image, grid, mode=mode).numpy()[0, 0]
    return 255 * (1 - v)


def drag(page, handle: int, by: tuple[float, float]) -> None:
    circle = page.locator(f'#theta-figure .reach[data-handle="{handle}"]')
    box = circle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by[0] / 2, y + by[1] / 2)
    page.mouse.move(x + by[0], y + by[1])
    page.mouse.up()
    settled(page)


@pytest.fixture
def figure(page, served):
    page.goto(f"{served}/learn/drag_theta.html")
    settled(page)
    return page


def test_at_first_the_output_is_the_input(figure):
    digit = 255 - datasets.MNIST(train=False).images[DIGIT, 0]
    np.testing.assert_array_equal(pixels(figure, "#theta-figure .input canvas"), digit)
    np.testing.assert_array_equal(pixels(figure, "#theta-figure .output canvas"), digit)
    assert theta(figure) == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(("family", "handle", "by"), DRAGS)
def test_a_dragged_handle_samples_what_minist_samples(figure, family, handle, by):
    figure.select_option("#theta-figure [name=family]", family)
    settled(figure)
    before = pixels(figure, "#theta-figure .output canvas")
    drag(figure, handle, by)
    assert theta(figure) != TRANSFORMATIONS[family].identity().tolist()
    output = pixels(figure, "#theta-figure .output canvas")
    assert (output != before).sum() > 50
    np.testing.assert_allclose(output, expected(family, theta(figure)), atol=0.51)


def test_the_handle_ends_under_the_mouse(figure):
    """In units of 1 to the right and 0.5 down from where it was."""
    unit = figure.locator("#theta-figure svg").bounding_box()["width"] / 3
    drag(figure, 0, (0.4 * unit, 0.2 * unit))
    np.testing.assert_allclose(theta(figure), [1, 0, 0.4, 0, 1, 0.2], atol=0.01)


def test_the_nearest_kernel(figure):
    figure.select_option("#theta-figure [name=kernel]", "nearest")
    drag(figure, 1, (-40, 35))
    mode = expected("affine", theta(figure), mode="nearest")
    np.testing.assert_allclose(pixels(figure, "#theta-figure .output canvas"), mode, atol=0.51)


def test_keys_and_the_way_back(figure):
    figure.locator('#theta-figure .reach[data-handle="0"]').focus()
    figure.keyboard.press("ArrowRight")
    figure.keyboard.press("ArrowDown")
    settled(figure)
    np.testing.assert_allclose(theta(figure), [1, 0, 0.02, 0, 1, 0.02])
    figure.locator("#theta-figure .identity").click()
    settled(figure)
    assert theta(figure) == [1, 0, 0, 0, 1, 0]


def test_a_pixel_of_the_output_tells_what_it_is_made_of(figure):
    box = figure.locator("#theta-figure .output canvas").bounding_box()
    figure.mouse.move(box["x"] + box["width"] * 14.5 / 28, box["y"] + box["height"] * 12.5 / 28)
    settled(figure)
    value = datasets.MNIST(train=False).images[DIGIT, 0, 12, 14] / 255
    text = figure.locator("#theta-figure .sum").inner_text()
    assert text.startswith("V at pixel (14, 12) is U at (14.00, 12.00)")
    assert text.endswith(f"= {value:.2f}")


def test_the_figure_works_from_a_folder(page, site):
    page.goto((site / "learn" / "drag_theta.html").as_uri())
    settled(page)
    drag(page, 1, (-40, 35))
    output = pixels(page, "#theta-figure .output canvas")
    np.testing.assert_allclose(output, expected("affine", theta(page)), atol=0.51)


# --- draw a digit -------------------------------------------------------------------------------

SEVEN = [(0.28, 0.25), (0.7, 0.22), (0.6, 0.45), (0.45, 0.82)]
TWO = [(0.29, 0.27), (0.37, 0.18), (0.48, 0.15), (0.6, 0.18), (0.67, 0.27), (0.67, 0.39)]
TWO += [(0.5, 0.62), (0.28, 0.82), (0.74, 0.8)]


@pytest.fixture
def drawing(page, served):
    page.goto(f"{served}/learn/draw_digit.html")
    settled(page)
    return page


def turn(page, degrees: int) -> None:
    slider = page.locator("#draw-figure [name=angle]")
    script = "(s, v) => { s.value = v; s.dispatchEvent(new Event('input', {bubbles: true})); }"
    slider.evaluate(script, degrees)
    settled(page)


@pytest.mark.parametrize("angle", [-60, 0, 45])
@pytest.mark.parametrize(("strokes", "digit"), [(SEVEN, "7"), (TWO, "2")])
def test_a_drawn_and_turned_digit_is_named(drawing, strokes, digit, angle):
    drawing.locator("#draw-figure .clear").click()
    pad = drawing.locator("#draw-figure .pad")
    box = pad.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in strokes]
    drawing.mouse.move(*places[0])
    drawing.mouse.down()
    for place in places[1:]:
        drawing.mouse.move(*place, steps=3)
    drawing.mouse.up()
    turn(drawing, angle)
    assert drawing.locator("#draw-figure").get_attribute("data-verdict") == digit


def test_the_network_in_the_page_is_minists(drawing):
    """On digits of the test set, turned: theta, what is sampled, and the logits."""
    model = models.pretrained("st-cnn-affine-R")
    images, _ = datasets.distorted(datasets.MNIST(train=False), "R", seed=3)
    for image in images[:6]:
        with no_grad():
            logits = model(image[None]).numpy()[0]
        theirs = drawing.evaluate("pixels => DRAW.forward(pixels)", image.ravel().tolist())
        np.testing.assert_allclose(theirs["logits"], logits, atol=1e-4)
        theta = model.transformer.theta.numpy()[0]
        np.testing.assert_allclose(theirs["theta"], theta, atol=1e-4)
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        np.testing.assert_allclose(theirs["probabilities"], probabilities, atol=1e-4)


def test_nothing_drawn_is_no_digit(drawing):
    assert drawing.locator("#draw-figure").get_attribute("data-verdict") == "2"
    drawing.locator("#draw-figure .clear").click()
    settled(drawing)
    assert drawing.locator("#draw-figure").get_attribute("data-verdict") == ""
    assert drawing.locator("#draw-figure .verdict").inner_text() == "Draw a digit."


# --- every page ---------------------------------------------------------------------------------


def test_search_finds_a_page(page, served):
    page.goto(f"{served}/search.html?q=adjoint")
    links = page.locator("#search-results a")
    links.first.wait_for()
    assert any("sampler" in link for link in links.evaluate_all("all => all.map(a => a.href)"))


def test_no_page_is_wider_than_a_phone(page, served, site):
    page.set_viewport_size({"width": 390, "height": 800})
    wide = []
    paths = [path for path in site.rglob("*.html") if "source" not in path.parts]
    for path in [*paths, site / "source" / "minist" / "nn.html"]:
        page.goto(f"{served}/{path.relative_to(site).as_posix()}", wait_until="domcontentloaded")
        if page.evaluate("document.documentElement.scrollWidth") > 390:
            wide.append(path.name)
    assert wide == []


def test_formulae_are_drawn(page, served):
    """A fraction is as tall as two lines: the browser lays MathML out, in the site's own font."""
    page.goto(f"{served}/learn/paper.html")
    page.evaluate("document.fonts.ready")
    assert page.evaluate("document.fonts.check('16px \"STIX Two Math\"')")
    height = page.locator("mfrac").first.bounding_box()["height"]
    assert height > 25
