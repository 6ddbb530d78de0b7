"""The networks of the paper's experiments: their sizes, and that all of each one learns."""

import numpy as np
import pytest

import minist.functional as F
from minist import Tensor, manual_seed, models, nn, optim, spatial
from minist.models.distorted_mnist import SIZES

TRANSFORMERS = ("affine", "projective", "tps")
NETWORKS = [("fcn", "affine"), ("cnn", "affine")]
NETWORKS += [(name, t) for name in ("st-fcn", "st-cnn") for t in TRANSFORMERS]
every_network = pytest.mark.parametrize(("name", "transformation"), NETWORKS)


def images(n, distortion="R"):
    size = SIZES[distortion]
    u = np.random.default_rng(0).uniform(size=(n, 1, size, size))
    return Tensor(u.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "transformation", "count"),
    [
        ("cnn", "affine", 48 * 82 + 48 * (48 * 49 + 1) + 10 * (192 + 1)),
        ("fcn", "affine", 129 * 785 + 129 * 130 + 10 * 130),
        (
            "st-cnn",
            "affine",
            46 * 82 + 46 * (46 * 49 + 1) + 10 * 185 + 20 * 26 + 20 * 501 + 20 * 21 + 6 * 21,
        ),
        (
            "st-fcn",
            "tps",
            101 * 785 + 101 * 102 + 10 * 102 + 32 * 785 + 2 * 32 * 33 + 32 * 33,
        ),
    ],
)
def test_how_much_a_network_learns(name, transformation, count):
    assert models.build(name, transformation).count_parameters() == count


@every_network
@pytest.mark.parametrize("distortion", SIZES)
def test_the_networks_of_a_column_are_equal_in_size(name, transformation, distortion):
    """Localisation nets included, as the paper compares them."""
    base = models.build("cnn", distortion=distortion).count_parameters()
    network = models.build(name, transformation, distortion)
    assert network.count_parameters() == pytest.approx(base, rel=0.025)


def test_counting_leaves_the_random_numbers_alone():
    states = []
    for filters in (None, models.width("st-cnn")):
        manual_seed(0)
        states.append(models.build("st-cnn", filters=filters).state_dict())
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


def test_the_table_of_layers_counts_parameters_in_lists():
    class Slopes(nn.Module):
        def __init__(self):
            self.slopes = [nn.Parameter(0.1), nn.Parameter([0.2, 0.3])]

        def forward(self, x):
            return x * self.slopes[0]

    (layer,) = models.layers(Slopes(), (1, 2, 2))
    assert layer.parameters == 3 and layer.output == (1, 2, 2)


def test_the_table_of_layers_takes_one_image_and_no_random_numbers():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    manual_seed(0)
    expected = nn.Linear(2, 2).weight.data
    manual_seed(0)
    assert [layer.output for layer in models.layers(net, (1, 2, 2))] == [(4,), (3,), (3,), (3,)]
    np.testing.assert_array_equal(nn.Linear(2, 2).weight.data, expected)
    assert net.training


def test_the_table_of_layers_shows_one_of_several_outputs():
    affine = spatial.Affine()
    nets = [spatial.LocalisationFC((1, 28, 28), affine) for _ in range(2)]
    two = spatial.ParallelTransformers(2, nets, affine, concatenate=False, output_size=(7, 9))
    assert models.layers(two, (1, 28, 28))[-1].output == (1, 7, 9)


@pytest.mark.parametrize("name", models.MODELS)
def test_images_of_another_size_are_named(name):
    """Not the features of a layer deep inside."""
    with pytest.raises(ValueError, match=r"expected images \(N, 1, 42, 42\), got \(2, 1, 28, 28\)"):
        models.build(name, distortion="RTS")(images(2, "R"))


@pytest.mark.parametrize(
    ("name", "distortion", "seen"),
    [("st-fcn", "RTS", 14), ("st-fcn", "TC", 14), ("st-cnn", "RTS", 28), ("st-cnn", "TC", 30)],
)
def test_of_a_large_canvas_the_classifier_sees_what_is_shown_halved(name, distortion, seen):
    """At first the whole of it, sampled at twice as many points, the first and the last at its
    ends."""
    size = SIZES[distortion]
    model = models.build(name, "affine", distortion, filters=2, units=5)
    looks = np.linspace(0, size - 1, 2 * seen)
    shown = np.array([np.interp(looks, np.arange(size), pixel) for pixel in np.eye(size)]).T
    halved = shown.reshape(seen, 2, size).mean(1)
    u = images(2, distortion)
    v = Tensor((halved @ u.numpy() @ halved.T).astype(np.float32))
    np.testing.assert_allclose(model(u).numpy(), model.classifier(v).numpy(), atol=1e-5)


@every_network
@pytest.mark.parametrize("distortion", SIZES)
def test_ten_logits_for_every_image(name, transformation, distortion):
    model = models.build(name, transformation, distortion, filters=2, units=5)
    assert model(images(3, distortion)).shape == (3, 10)
    assert model(images(0, distortion)).shape == (0, 10)


@every_network
def test_every_parameter_learns_within_two_steps(name, transformation):
    # kevinzakka/spatial-transformer-network 3: built, but not used
    manual_seed(0)
    model = models.build(name, transformation, filters=4, units=20)
    optimiser = optim.SGD(model.parameters(), lr=1e-4)  # larger, and the window may fly off
    labels = np.arange(8) % 10
    reached = set()
    for _ in range(2):
        optimiser.zero_grad()
        F.cross_entropy(model(images(8)), labels).backward()
        reached |= {name for name, p in model.named_parameters() if (p.grad != 0).any()}
        optimiser.step()
    assert reached == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", models.MODELS)
def test_the_seed_is_the_network(name):
    states = []
    for seed in (0, 0, 1):
        manual_seed(seed)
        states.append(models.build(name, filters=2, units=5).state_dict())
    first, again, other = states
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert any(not np.array_equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("transformation", TRANSFORMERS)
@pytest.mark.parametrize("name", ["st-fcn", "st-cnn"])
def test_the_classifier_sees_what_the_transformer_shows(name, transformation):
    manual_seed(0)
    model = models.build(name, transformation, filters=2, units=5).eval()
    plain = models.build(name.removeprefix("st-"), filters=2, units=5)
    plain.load_state_dict(model.classifier.state_dict())
    u = images(2)
    np.testing.assert_allclose(model(u).numpy(), plain(u).numpy(), atol=1e-4)  # the identity
    moved = slice(None) if transformation == "tps" else [2, 5]
    model.transformer.localisation.parameters()[-1].data[moved] += 9.0  # looks outside
    np.testing.assert_allclose(model(u).numpy(), plain(Tensor(0 * u.data)).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resnet",), "unknown model 'resnet'; there are fcn, cnn, st-fcn, st-cnn"),
        (
            ("st-cnn", "similar"),
            "transformation 'similar'; there are affine, attention, similarity, projective, tps",
        ),
        (("cnn", "affine", "Q"), "unknown distortion 'Q'; there are None, R, P, E, RTS, TC, T"),
        (("fcn", "similar"), "unknown transformation 'similar'"),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(arguments, words):
    with pytest.raises(ValueError, match=words):
        models.build(*arguments)


def test_images_that_are_too_small():
    small = models.CNN((1, 21, 25), filters=2)
    assert small(Tensor(np.zeros((1, 1, 21, 25), np.float32))).shape == (1, 10)
    with pytest.raises(ValueError, match=r"CNN: images must be at least 21x21, not \(40, 20\)"):
        models.CNN((1, 40, 20), filters=2)


@every_network
def test_every_layer_is_told_of_once_and_every_parameter_counted(name, transformation):
    model = models.build(name, transformation, "RTS", filters=2, units=5)
    before = model(images(2, "RTS")).numpy()
    told = models.layers(model, (1, 42, 42))
    assert sum(layer.parameters for layer in told) == model.count_parameters()
    assert len({layer.name for layer in told}) == len(told)
    assert told[-1].output == (10,)
    if name.startswith("st-"):
        shapes = {layer.name: layer.output for layer in told}
        shown = 28 if name == "st-fcn" else 56
        assert shapes["transformer"] == (1, shown, shown)
        assert shapes["downsample"] == (1, shown // 2, shown // 2)
    np.testing.assert_array_equal(model(images(2, "RTS")).numpy(), before)  # nothing left behind
    assert not any("forward" in vars(module) for _, module in model.named_modules())
