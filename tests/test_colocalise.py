"""Co-localisation: the images, the encoding, the boxes, and a run that finds what is common."""

import json

import numpy as np
import pytest

from minist import Tensor, cli, manual_seed, nn, no_grad
from minist.datasets import MNIST, Images, scattered
from minist.experiments.colocalise import (
    PAPER,
    Colocalisation,
    Study,
    as_page,
    as_table,
    contrast,
    found_boxes,
    iou,
    jitter,
    jobs,
    true_boxes,
)
from minist.models import CNN
from minist.models.colocalisation import Encoder, locator
from minist.training import RunError


@pytest.fixture(scope="module")
def digits():
    data = MNIST(train=False)
    return Images(data.images[:1000], data.labels[:1000])


@pytest.fixture(scope="module")
def encoder(digits):
    manual_seed(0)
    return Encoder(CNN((1, 28, 28), 4), digits.images[:20].astype(np.float32) / 255)


def test_digits_lie_where_their_corners_say(digits):
    images, corners = scattered(digits, 3, False, np.random.default_rng(0), n=20)
    assert images.shape == (20, 1, 84, 84) and corners.shape == (20, 2)
    threes = digits.images[digits.labels == 3].astype(np.float32) / 255
    for image, (x, y) in zip(images[:, 0], corners, strict=True):
        seen = image[y : y + 28, x : x + 28]
        assert (threes[:, 0] == seen).all((1, 2)).any()
        assert seen.sum() == pytest.approx(image.sum())


def test_clutter_comes_on_top(digits):
    alone, cluttered = (
        scattered(digits, 3, clutter, np.random.default_rng(0), n=20) for clutter in (False, True)
    )
    np.testing.assert_array_equal(alone.corners, cluttered.corners)
    assert (cluttered.images >= alone.images).all()
    assert (cluttered.images > alone.images).any((1, 2, 3)).all()
    with pytest.raises(ValueError, match="images of a 3, not 5000"):
        scattered(digits, 3, True, np.random.default_rng(0), n=5000)


def test_an_encoding_is_of_length_1_on_average_and_zero_for_empty_crops(encoder, digits):
    crops = np.zeros((21, 1, 28, 28), np.float32)
    crops[1:] = digits.images[:20] / np.float32(255)
    lengths = (encoder(crops).numpy() ** 2).sum(axis=1)
    assert lengths[0] == 0 and lengths[1:].mean() == pytest.approx(1, rel=1e-3)
    assert not [p for p in encoder.parameters() if p.requires_grad]


def test_the_loss_is_the_triplet_hinge_of_all_pairs():
    rng = np.random.default_rng(0)
    crops, random = rng.normal(0, 0.4, (4, 3)), rng.normal(0.3, 0.4, (5, 3))
    expected = []
    for a in crops:
        far = np.mean([((a - r) ** 2).sum() for r in random])
        expected += [max(0, 0.3 * ((a - b) ** 2).sum() - far + 0.7) for b in crops]
    assert 0 in expected and max(expected) > 0
    loss = contrast(Tensor(crops), Tensor(random), near=0.3, margin=0.7)
    assert loss.item() == pytest.approx(np.mean(expected))


def test_it_pays_to_be_alike_or_to_differ_from_the_background_as_the_weight_says():
    """Blank windows beat digits that vary where near is 1, the paper's, and lose below 1/2."""
    rng = np.random.default_rng(0)
    background = Tensor(rng.normal(0, 0.1, (200, 8)))
    blank = Tensor(np.zeros((200, 8)))
    found = Tensor(np.eye(8)[0] * 0.6 + rng.normal(0, 0.25, (200, 8)))
    for near, better in ((1.0, blank), (0.3, found)):
        losses = {id(e): contrast(e, background, near, 5.0).item() for e in (blank, found)}
        assert min(losses, key=losses.get) == id(better)


def test_at_first_the_whole_image_is_cropped():
    manual_seed(0)
    st = locator(84)
    boxes = found_boxes(st, np.zeros((2, 1, 84, 84), np.float32))
    np.testing.assert_allclose(boxes, [[0, 0, 83, 83]] * 2, atol=1e-4)
    assert 95_000 < st.count_parameters() < 105_000


def test_no_window_is_smaller_than_its_output():
    manual_seed(0)
    st = locator(84)
    bias = st.localisation.parameters()[-1].data
    bias[:] = [0.01, 0.5, 0.0]
    (box,) = found_boxes(st, np.zeros((1, 1, 84, 84), np.float32))
    assert box[2] - box[0] == pytest.approx(27) and box[0] + box[2] == pytest.approx(2 * 62.25)


def test_overlap_of_boxes():
    truth = true_boxes(np.array([[10, 20]] * 4))
    np.testing.assert_array_equal(truth[0], [10, 20, 37, 47])
    a = truth + np.array([[0, 0, 0, 0], [27, 0, 27, 0], [9, 0, 9, 0], [0, 0, 27, 0]])
    np.testing.assert_allclose(iou(a, truth), [1, 0, 18 / 36, 1 / 2])


def test_windows_are_moved_less_and_less():
    job = Colocalisation()
    assert jitter(job, 0) == job.jitter and jitter(job, 0.4) == pytest.approx(job.jitter / 2)
    assert jitter(job, 0.8) == jitter(job, 1) == 0


def test_the_table_by_class_beside_the_papers():
    assert len(jobs()) == 20
    found = [{"settings": {"distortion": "TC", "digit": 4}, "right": 93.0}]
    lines = as_table(found).splitlines()
    assert "93" in lines[4] and lines[4].endswith("| 93.0 |") and lines[4].count("unmeasured") == 9
    assert lines[5].endswith("| 85.8 |")
    assert [len(row) for row in PAPER.values()] == [10, 10]


def test_from_command_to_page(tmp_path, capsys, encoder):
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    runs.mkdir()
    manual_seed(0)
    nn.save(CNN((1, 28, 28), 32), runs / "digit-cnn.safetensors")
    options = ["--results", str(docs / "results/colocalise"), "--runs", str(runs)]
    options += ["--digits", "3", "--steps", "6", "--images", "8", "--batch-size", "6"]
    assert cli.main(["colocalise", *options]) == 0
    assert "| T, the paper's | 100 |" in capsys.readouterr().out
    results = sorted((docs / "results/colocalise").glob("*"))
    assert [file.name for file in results] == ["T-3.json", "TC-3.json"]
    result = json.loads(results[0].read_text())
    assert [moment["step"] for moment in result["moments"]] == [1, 2, 3, 4, 5, 6]
    assert Colocalisation.of(result["settings"]).steps == 6
    assert (docs / "colocalise.png").read_bytes().startswith(b"\x89PNG")
    before = results[0].stat().st_mtime_ns
    assert cli.main(["colocalise", *options]) == 0 and results[0].stat().st_mtime_ns == before
    assert cli.main(["colocalise", *options, "--lr", "1"]) == 1
    assert "T-3.json was made with lr = 0.003, not 1.0" in capsys.readouterr().err
    results[0].write_text("{}")
    with pytest.raises(RunError, match=r"T-3\.json is no result of a job"):
        Study(results[0].parent, runs).read()


def test_the_page_in_the_docs_is_what_its_results_say():
    docs = cli.Path(cli.__file__).parents[1] / "docs"
    if not docs.is_dir():
        pytest.skip("not a clone of the repository")
    study = Study(docs / "results" / "colocalise", "nowhere")
    assert study.page.read_text() == as_page(study.read())


def test_encodings_pass_gradients_to_the_crop_alone(encoder, digits):
    st = locator(84)
    images, _ = scattered(digits, 3, False, np.random.default_rng(0), n=4)
    e = encoder(st(Tensor(images)))
    (e * e[::-1]).sum().backward()
    assert all(p.grad is not None for p in st.parameters())
    assert all(p.grad is None for p in encoder.parameters())
    with no_grad():
        assert e.shape[0] == 4
