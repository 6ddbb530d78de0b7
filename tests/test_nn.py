"""Modules: their trees, names, state, initialisers, and the files they are kept in."""

import copy
import gc
import os
import pickle
import sys
import threading
import weakref

import numpy as np
import pytest
import safetensors.numpy

import minist
import minist.functional as F
from minist import Tensor, nn
from minist.backend import random_state
from minist.effects import deferred, lasting
from minist.files import load_arrays, save_arrays


class Twins(nn.Module):
    """Two names for one layer, a layer's list, and a parameter of its own."""

    def __init__(self):
        self.first = nn.Linear(3, 3)
        self.second = self.first
        self.heads = [nn.Linear(3, 2), nn.Linear(3, 1, bias=False)]
        self.scale = nn.Parameter([2.0])

    def forward(self, x):
        x = self.second(self.first(x)) * self.scale
        return [head(x) for head in self.heads]


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=(2, 1)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Flatten(),
        nn.Linear(36, 5),
        nn.BatchNorm1d(5),
    )


def torch_cnn(torch):
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1, stride=(2, 1)),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 6, 3, groups=2, bias=False),
        torch.nn.LeakyReLU(0.1),
        torch.nn.AdaptiveAvgPool2d((2, 3)),
        torch.nn.Flatten(),
        torch.nn.Linear(36, 5),
        torch.nn.BatchNorm1d(5),
    )


def as_dtype(net, dtype):
    """The net with parameters and statistics of a dtype, in place."""
    for parameter in net.parameters():
        parameter.data = parameter.data.astype(dtype)
    for _, module in net.named_modules():
        for name in set(module.buffers) - {"num_batches_tracked"}:
            setattr(module, name, getattr(module, name).astype(dtype))
    return net


def images(rng, dtype=np.float32):
    return rng.normal(1.0, 2.0, (6, 2, 16, 12)).astype(dtype)


@pytest.fixture
def rng():
    minist.manual_seed(0)
    return np.random.default_rng(0)


# --- the tree of modules ------------------------------------------------------------------------


def test_every_parameter_has_one_name_also_where_modules_share_it():
    net = Twins()
    names = ["scale", "first.weight", "first.bias", "heads.0.weight", "heads.0.bias"]
    assert [name for name, _ in net.named_parameters()] == [*names, "heads.1.weight"]
    assert net.count_parameters() == 1 + 12 + 8 + 3
    assert net.parameters()[1] is net.second.weight


class Scattered(nn.Module):
    """Parameters and modules wherever one may put them."""

    def __init__(self):
        self.scales = [nn.Parameter(1.0), nn.Parameter(2.0)]
        self.by_name = {"a": nn.Parameter(3.0), "layer": nn.Linear(1, 1, bias=False)}
        self.rows = [[nn.BatchNorm1d(1)], (nn.Parameter(4.0), None)]
        self.seen = self.scales[0] * 2.0  # a result, which nobody wants to learn


def test_parameters_and_modules_are_found_in_lists_and_dicts():
    net = Scattered()
    of_norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    norm = [f"rows.0.0.{name}" for name in of_norm]
    own = ["scales.0", "scales.1", "by_name.a", "rows.1.0"]
    names = [*own, "by_name.layer.weight", *norm[:2]]
    assert [name for name, _ in net.named_parameters()] == names
    assert list(net.state_dict()) == [*names, *norm[2:]]
    net.eval().load_state_dict({name: a + 1 for name, a in net.state_dict().items()})
    assert net.scales[1].item() == 3.0 and not net.rows[0][0].training


@pytest.mark.parametrize("place", [lambda x: x, lambda x: [x], lambda x: {"x": [x]}])
def test_a_tensor_that_would_not_be_learnt_is_named(place):
    net = nn.Sequential(nn.ReLU())
    net[0].scale = place(minist.tensor(1.0, requires_grad=True))
    with pytest.raises(TypeError, match=r"^ReLU\.scale.* would not be learnt: make it an nn\.Par"):
        net.parameters()
    net[0].scale = place(minist.tensor(1.0))
    assert net.parameters() == []


def test_a_shared_parameter_gets_the_gradient_of_all_its_uses():
    layer = nn.Linear(1, 1)
    layer.weight.data[...] = 3.0
    layer(layer(np.ones((1, 1), np.float32))).sum().backward()
    assert layer.weight.grad.item() == 6  # d(w w)/dw


def test_state_dict_holds_the_arrays_themselves_under_every_name():
    net = Twins()
    state = net.state_dict()
    assert state["first.weight"] is state["second.weight"] is net.first.weight.data


def test_sequential_numbers_its_layers_runs_them_in_order_and_is_a_sequence():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    names = [name for name, _ in net.named_parameters()]
    assert names == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert (len(net), net[-1], list(net)) == (3, net[2], [net[0], net[1], net[2]])
    x = np.ones((4, 2), np.float32)
    np.testing.assert_array_equal(net(x).numpy(), net[2](F.relu(net[0](x))).numpy())


class Negative(nn.Linear):
    def forward(self, x):
        return -super().forward(x)


class Doubled(nn.Linear):
    def product(self, x, bias=None):
        return super().product(2 * x, bias)


class Recorded(nn.Linear):
    def __call__(self, x):
        self.seen = x
        return super().__call__(x)


def with_a_forward_of_its_own(layer, f):
    layer.forward = lambda x: f(type(layer).forward(layer, x))
    return layer


@pytest.mark.parametrize(
    ("layer", "relu"),
    [
        (nn.Linear(2, 3), nn.ReLU()),
        (nn.Linear(2, 3, bias=False), nn.ReLU()),
        (Negative(2, 3), nn.ReLU()),
        (Doubled(2, 3), nn.ReLU()),
        (Recorded(2, 3), nn.ReLU()),
        (with_a_forward_of_its_own(nn.Linear(2, 3), lambda y: -y), nn.ReLU()),
        (nn.Linear(2, 3), with_a_forward_of_its_own(nn.ReLU(), lambda y: -y)),
    ],
)
def test_sequential_computes_a_layer_and_its_relu_as_they_are(layer, relu):
    """Though it takes the engine's own two at once."""
    x = Tensor(np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2))
    np.testing.assert_array_equal(nn.Sequential(layer, relu)(x).data, relu(layer(x)).data)
    if isinstance(layer, Recorded):
        del layer.seen
        nn.Sequential(layer, relu)(x)
        assert layer.seen is x


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("window", [(2,), (3, 2, 1), (2, 2, 0, True)])
def test_sequential_adds_the_bias_after_the_pooling(rng, window, bias):
    """As if it stood before: to the bit forward, and the same gradients."""
    with random_state(0):
        convolution, second = nn.Conv2d(2, 4, 3, bias=bias), nn.Conv2d(4, 2, 1)
    if bias:
        convolution.bias.data[...] = rng.normal(size=4)
    net = nn.Sequential(convolution, nn.MaxPool2d(*window), nn.ReLU(), second, nn.MaxPool2d(1))
    assert [getattr(f, "func", f) for f in nn.fused(net)] == [
        convolution.then_pool_and_relu,
        second,
        net[4],
    ]
    x = Tensor(rng.normal(size=(3, 2, 9, 8)).astype(np.float32), requires_grad=True)
    leaves = [x, *net.parameters()]
    together = net(x)
    apart = x
    for layer in net:
        apart = layer(apart)
    np.testing.assert_array_equal(together.data, apart.data)
    g = rng.normal(size=apart.shape).astype(np.float32)
    gradients = zip(*[minist.grad(y, leaves, g) for y in (together, apart)], strict=True)
    for one, other in gradients:
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def negative(layer):
    return with_a_forward_of_its_own(layer, lambda x: -x)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(1, 1, 1), nn.AvgPool2d(2), nn.ReLU()),
        (nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.Tanh()),
        (nn.Conv2d(1, 1, 1), nn.MaxPool2d(2)),
        (negative(nn.Conv2d(1, 1, 1)), nn.MaxPool2d(2), nn.ReLU()),
        (nn.Conv2d(1, 1, 1), negative(nn.MaxPool2d(2)), nn.ReLU()),
        (nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), negative(nn.ReLU())),
    ],
)
def test_sequential_takes_nothing_else_for_a_pooling_and_its_relu(layers):
    assert list(nn.fused(layers)) == list(layers)


@pytest.mark.parametrize("layer", [F.relu, [nn.ReLU()], None])
def test_sequential_refuses_what_it_would_leave_out(layer):
    with pytest.raises(TypeError, match="layer 1 must be a Module"):
        nn.Sequential(nn.ReLU(), layer)


def test_train_and_eval_reach_every_module():
    net = nn.Sequential(nn.Sequential(nn.Dropout(0.5)), Twins())
    modules = [module for _, module in net.named_modules()]
    assert net.eval() is net
    assert not any(module.training for module in modules)
    assert net.train() is net
    assert all(module.training for module in modules)


def test_zero_grad_forgets_every_gradient():
    net = nn.Linear(2, 2)
    net(np.ones((1, 2), np.float32)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_moving_to_an_unknown_device_names_the_known_ones():
    with pytest.raises(ValueError, match='"cpu" or "cuda", not \'tpu\''):
        nn.Linear(1, 1).to("tpu")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_computes_the_same_and_shares_nothing(duplicate, rng):
    net = nn.Sequential(cnn(), Twins()).eval()
    twin = duplicate(net)
    x = images(rng)
    np.testing.assert_array_equal(twin[0](x).numpy(), net[0](x).numpy())
    assert twin[1].first is twin[1].second
    for mine, its in zip(net.state_dict().values(), twin.state_dict().values(), strict=True):
        assert not np.shares_memory(mine, its)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.Linear(2, 3), "Linear(2, 3)"),
        (nn.Conv2d(4, 6, (3, 5)), "Conv2d(4, 6, kernel_size=(3, 5))"),
        (
            nn.Conv2d(4, 6, 3, stride=2, padding=(1, 0), groups=2),
            "Conv2d(4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 0), groups=2)",
        ),
        (nn.MaxPool2d(2), "MaxPool2d((2, 2), stride=(2, 2))"),
        (
            nn.AvgPool2d(3, 2, padding=1, ceil_mode=True),
            "AvgPool2d((3, 3), stride=(2, 2), padding=(1, 1), ceil_mode=True)",
        ),
        (nn.AdaptiveAvgPool2d(2), "AdaptiveAvgPool2d((2, 2))"),
        (nn.LeakyReLU(0.2), "LeakyReLU(0.2)"),
        (nn.Dropout(0.3), "Dropout(0.3)"),
        (nn.BatchNorm2d(7), "BatchNorm2d(7)"),
        (
            nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh(), nn.Sigmoid())),
            "Sequential(\n  (0): ReLU()\n  (1): Sequential(\n    (0): Tanh()\n    (1): Sigmoid()\n"
            "  )\n)",
        ),
    ],
)
def test_repr_shows_what_a_module_is_made_of(module, text):
    assert repr(module) == text


@pytest.mark.parametrize("value", [0.5, [0.5], np.float32(0.5), Tensor(np.ones(1, np.float32))])
def test_a_parameter_holds_an_array_that_can_be_changed_in_place(value):
    parameter = nn.Parameter(value)
    assert parameter.requires_grad
    assert parameter.dtype == np.float32
    parameter.data[...] = 7
    assert parameter.item() == 7


# --- state --------------------------------------------------------------------------------------


def test_load_state_dict_names_every_fault_and_copies_nothing():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: array.copy() for name, array in net.state_dict().items()}
    state = {name: array + 1 for name, array in net.state_dict().items()}
    state["0.weight"] = np.zeros((3, 3))
    state["1.weight"] = np.array([["a", "b", "c"]])
    state["extra"] = state.pop("0.bias")
    with pytest.raises(ValueError, match=r"Sequential\.load_state_dict") as error:
        net.load_state_dict(state)
    for fault in (
        "0.bias is missing",
        "extra is unknown",
        "0.weight has shape (3, 3), not (3, 2)",
        "1.weight holds <U1, not real numbers",
    ):
        assert fault in str(error.value)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_load_state_dict_keeps_the_arrays_and_dtypes_of_the_module():
    net = nn.Linear(2, 1)
    weight = net.weight.data
    net.load_state_dict({"weight": np.array([[1.0, 2.0]]), "bias": Tensor(np.ones(1))})
    assert net.weight.data is weight
    assert weight.dtype == np.float32
    assert weight.tolist() == [[1, 2]]
    assert net.bias.data.tolist() == [1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_weights_go_from_pytorch_and_back(dtype, tolerance, rng):
    torch = pytest.importorskip("torch")
    theirs = torch_cnn(torch).to(torch.from_numpy(np.zeros(0, dtype)).dtype)
    x = images(rng, dtype)
    theirs(torch.from_numpy(x))  # running statistics other than 0 and 1
    ours = as_dtype(cnn(), dtype)
    ours.load_state_dict(theirs.state_dict())
    y = ours.eval()(x).numpy()
    expected = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)

    other = as_dtype(cnn(), dtype).eval()  # weights of its own
    theirs.load_state_dict({k: torch.from_numpy(a) for k, a in other.state_dict().items()})
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    assert not np.allclose(y, expected)
    np.testing.assert_allclose(other(x).numpy(), expected, rtol=tolerance, atol=tolerance)


# --- initialisers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("initialise", "shape", "variance"),
    [
        (nn.small_uniform, (300, 200), 1 / (3 * 200)),
        (nn.he_uniform, (300, 200), 2 / 200),
        (nn.he_uniform, (60, 40, 5, 3), 2 / (40 * 15)),
        (nn.glorot_uniform, (300, 200), 2 / (300 + 200)),
        (nn.glorot_uniform, (60, 40, 5, 3), 2 / (15 * (60 + 40))),
    ],
)
def test_initial_weights_are_uniform_with_the_variance_of_their_paper(initialise, shape, variance):
    minist.manual_seed(1)
    weight = initialise(shape)
    assert weight.dtype == np.float32
    n = weight.size
    bound = (3 * variance) ** 0.5
    # Five standard deviations: of the mean, and of the variance (of x^2 it is 4/5 variance^2).
    assert abs(weight.mean()) < 5 * (variance / n) ** 0.5
    assert abs(weight.var() - variance) < 5 * variance * (0.8 / n) ** 0.5
    assert 0.99 * bound < np.abs(weight).max() <= bound * (1 + 1e-6)


def test_the_same_seed_makes_the_same_network():
    def first_weights(seed):
        minist.manual_seed(seed)
        return [p.data.copy() for p in cnn().parameters()]

    one, same, other = (first_weights(seed) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])


# --- layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (nn.ReLU(), F.relu),
        (nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2)),
        (nn.Sigmoid(), F.sigmoid),
        (nn.Tanh(), F.tanh),
        (nn.MaxPool2d(3, 2, 1, True), lambda x: F.max_pool2d(x, 3, 2, 1, True)),
        (nn.AvgPool2d((2, 3), padding=1), lambda x: F.avg_pool2d(x, (2, 3), padding=1)),
        (nn.AdaptiveAvgPool2d(4), lambda x: F.adaptive_avg_pool2d(x, 4)),
    ],
    ids=lambda value: repr(value) if isinstance(value, nn.Module) else "function",
)
def test_a_layer_hands_all_its_settings_to_its_function(layer, function, rng):
    x = images(rng)
    np.testing.assert_array_equal(layer(x).numpy(), function(x).numpy())


def test_a_convolution_hands_all_its_settings_to_its_function(rng):
    options = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    layer = nn.Conv2d(2, 4, 3, **options)
    x = images(rng)
    expected = F.conv2d(x, layer.weight, layer.bias, **options)
    np.testing.assert_array_equal(layer(x).numpy(), expected.numpy())


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 2, 5, 1), (0, 2, 3), (2, 0)])
def test_flatten_keeps_the_batch_also_where_it_is_empty(shape):
    flat = nn.Flatten()(Tensor(np.zeros(shape, np.float32)))
    assert flat.shape == (shape[0], int(np.prod(shape[1:])))


def test_dropout_keeps_the_mean_in_training_and_the_input_in_evaluation():
    layer, x = nn.Dropout(0.25), Tensor(np.ones((200, 200), np.float32))
    minist.manual_seed(3)
    y = layer(x).numpy()
    minist.manual_seed(3)
    np.testing.assert_array_equal(y, layer(x).numpy())
    assert not np.array_equal(y, layer(x).numpy())
    assert np.isin(y, np.float32([0, 4 / 3])).all()
    assert abs((y == 0).mean() - 0.25) < 5 * (0.25 * 0.75 / x.size) ** 0.5
    assert layer.eval()(x) is x


@pytest.mark.parametrize(
    ("name", "shape"), [("BatchNorm1d", (8, 3)), ("BatchNorm2d", (4, 3, 5, 2))]
)
def test_running_statistics_are_pytorchs_after_several_batches(name, shape, rng):
    torch = pytest.importorskip("torch")
    ours = as_dtype(getattr(nn, name)(3, eps=1e-3, momentum=0.3), np.float64)
    theirs = getattr(torch.nn, name)(3, eps=1e-3, momentum=0.3).double()
    for _ in range(4):
        x = rng.normal(3.0, 2.0, shape)
        y, expected = ours(x), theirs(torch.from_numpy(x))
        np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-10)
    y.backward(x)
    expected.backward(torch.from_numpy(x))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-10)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value.numpy(), rtol=1e-10)
    before = {key: value.copy() for key, value in ours.state_dict().items()}
    np.testing.assert_allclose(
        ours.eval()(x).numpy(), theirs.eval()(torch.from_numpy(x)).detach().numpy(), rtol=1e-10
    )
    for key, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda: nn.Linear(-1, 2), "whole numbers from 0 on"),
        (lambda: nn.Linear(2.5, 2), "whole numbers from 0 on"),
        (lambda: nn.he_uniform((3,)), "weights are"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "3 and 4 channels cannot be cut into 2 groups"),
        (lambda: nn.Conv2d(4, 4, 3, groups=0), "cannot be cut into 0 groups"),
        (lambda: nn.Conv2d(1, 1, 0), "Conv2d: kernel_size .* not 0"),
        (lambda: nn.Conv2d(1, 1, 3, stride=0), "Conv2d: stride .* not 0"),
        (lambda: nn.Conv2d(1, 1, 3, padding="same"), "Conv2d: padding .* not 'same'"),
        (lambda: nn.Conv2d(1, 1, 3, dilation=(1, 0)), "Conv2d: dilation"),
        (lambda: nn.MaxPool2d(0), "MaxPool2d: kernel_size .* not 0"),
        (lambda: nn.AvgPool2d(2, stride=0), "AvgPool2d: stride .* not 0"),
        (lambda: nn.MaxPool2d(2, padding=-1), "MaxPool2d: padding .* not -1"),
        (lambda: nn.AdaptiveAvgPool2d(0), "AdaptiveAvgPool2d: output_size"),
        (lambda: nn.Dropout(1.5), "Dropout: p is a probability"),
        (lambda: nn.BatchNorm1d(0), "BatchNorm1d: expected 1 feature"),
    ],
)
def test_a_layer_refuses_wrong_settings_when_it_is_made(make, fact):
    with pytest.raises(ValueError, match=fact):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "fact"),
    [
        (nn.Linear(3, 2), (4, 2), "2 features, weight expects 3"),
        (nn.Conv2d(3, 2, 3), (4, 1, 5, 5), "1 channels, weight expects 3"),
        (nn.Conv2d(3, 2, 3), (3, 5, 5), "N, C, H, W"),
        (nn.Conv2d(3, 2, 5), (4, 3, 4, 4), "does not fit"),
        (nn.MaxPool2d(2), (4, 4), "N, C, H, W"),
        (nn.AvgPool2d(5), (4, 1, 4, 4), "does not fit"),
        (nn.AdaptiveAvgPool2d(2), (4, 4), "N, C, H, W"),
        (nn.BatchNorm1d(3), (4, 2), r"expected \(N, 3\), got \(4, 2\)"),
        (nn.BatchNorm1d(3), (4, 3, 2, 2), r"expected \(N, 3\)"),
        (nn.BatchNorm2d(3), (4, 3), r"expected \(N, 3, H, W\)"),
        (nn.BatchNorm1d(3), (1, 3), "more than one element"),
    ],
)
def test_a_layer_refuses_an_input_that_does_not_fit(layer, shape, fact):
    with pytest.raises(ValueError, match=fact):
        layer(Tensor(np.zeros(shape, np.float32)))


# --- what a forward leaves behind ---------------------------------------------------------------


def test_deferred_effects_wait_and_are_then_the_same(rng):
    x = rng.normal(size=(5, 3)).astype(np.float32)
    now, later = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    now(x)
    with deferred() as effects:
        later(x)
    assert later.num_batches_tracked == 0
    assert not later.running_mean.any()
    for effect in effects:
        effect()
    for name, value in now.state_dict().items():
        np.testing.assert_array_equal(later.state_dict()[name], value)


def test_deferring_nests_and_ends_also_after_an_error():
    done = []
    with deferred() as outer:
        with deferred() as inner:
            lasting(lambda: done.append("inner"))
        lasting(lambda: done.append("outer"))
    assert (len(inner), len(outer), done) == (1, 1, [])
    with pytest.raises(ZeroDivisionError), deferred():
        lasting(lambda: done.append("lost") / 0)
        raise ZeroDivisionError
    lasting(lambda: done.append("at once"))
    assert done == ["at once"]


def test_a_deferred_effect_does_not_keep_the_batch():
    layer, x = nn.BatchNorm1d(2), Tensor(np.eye(2, dtype=np.float32))
    alive = weakref.ref(x)
    with deferred() as effects:
        layer(x)
        del x
        gc.collect()
        assert alive() is None
    assert effects


def test_each_thread_remembers_its_own_last_forward():
    module, seen = nn.ReLU(), []
    assert module.last("theta") is None
    module.remember(theta=1)

    def elsewhere():
        seen.append(module.last("theta"))
        module.remember(theta=2)
        seen.append(module.last("theta"))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [None, 2]
    assert (module.last("theta"), module.last("grid")) == (1, None)


def test_remembering_does_not_keep_a_module_and_is_not_copied():
    module = nn.ReLU()
    module.remember(theta=1)
    assert copy.deepcopy(module).last("theta") is None
    alive = weakref.ref(module)
    del module
    assert alive() is None


# --- files --------------------------------------------------------------------------------------


def test_a_saved_module_loads_into_another_bit_for_bit(tmp_path, rng):
    net, other = cnn(), cnn()
    net(images(rng))
    minist.save(net, tmp_path / "net.safetensors")
    assert minist.load(other, str(tmp_path / "net.safetensors")) is other
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)
        assert other.state_dict()[name].shape == array.shape


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_others_read_what_save_wrote(library, tmp_path):
    reader = pytest.importorskip(f"safetensors.{library}")
    base = np.arange(24.0).reshape(2, 3, 4)
    arrays = {
        "transposed": base.transpose(2, 0, 1),
        "strided": base[:, ::2, ::-1],
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }
    save_arrays(arrays, tmp_path / "a", notes={"step": 1})
    read = reader.load_file(tmp_path / "a")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert tuple(read[name].shape) == array.shape
        np.testing.assert_array_equal(np.asarray(read[name]), array)


def test_pytorch_loads_the_file_of_a_module_and_the_other_way(tmp_path, rng):
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    net, theirs, x = cnn().eval(), torch_cnn(torch).eval(), images(rng)
    minist.save(net, tmp_path / "ours")
    files.save_file(theirs.state_dict(), tmp_path / "theirs")
    first = theirs(torch.from_numpy(x)).detach().numpy()
    theirs.load_state_dict(files.load_file(tmp_path / "ours"))
    second = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(net(x).numpy(), second, rtol=1e-5, atol=1e-5)
    minist.load(net, tmp_path / "theirs")
    np.testing.assert_allclose(net(x).numpy(), first, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("notes", [None, 3, {"a": [1.5, "b"], "c": None}])
def test_notes_come_back(notes, tmp_path):
    save_arrays({"x": np.ones(2)}, tmp_path / "a", notes)
    assert load_arrays(tmp_path / "a")[1] == notes


def test_a_foreign_file_has_no_notes(tmp_path):
    safetensors.numpy.save_file({"x": np.ones(2)}, tmp_path / "a", {"notes": "someone else's"})
    arrays, notes = load_arrays(tmp_path / "a")
    assert (arrays["x"].tolist(), notes) == ([1, 1], None)


def test_the_same_arrays_give_the_same_bytes_whatever_their_strides(tmp_path):
    x = np.arange(6.0).reshape(2, 3)
    save_arrays({"b": x, "a": x[0]}, tmp_path / "one", notes=[1])
    save_arrays({"a": x[0].copy(), "b": np.asfortranarray(x)}, tmp_path / "two", notes=[1])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "net"
    minist.save(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        minist.save(nn.Linear(2, 2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_saving_into_a_missing_folder_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        minist.save(nn.Linear(1, 1), tmp_path / "nowhere" / "net")


@pytest.mark.parametrize("name", ["missing", "."])
def test_loading_what_is_no_file_says_so(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        minist.load(nn.Linear(1, 1), tmp_path / name)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:7],
        lambda whole: whole[:30],
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: b"\x89PNG\r\n\x1a\n" + whole,
    ],
    ids=["empty", "no header", "half a header", "byte short", "byte long", "foreign"],
)
def test_a_damaged_file_is_refused_by_name_and_changes_nothing(damage, tmp_path):
    net, path = nn.Linear(2, 2), tmp_path / "net.safetensors"
    minist.save(nn.Linear(2, 2), path)
    path.write_bytes(damage(path.read_bytes()))
    before = net.weight.data.copy()
    with pytest.raises(ValueError, match=r"net\.safetensors is no whole safetensors file"):
        minist.load(net, path)
    np.testing.assert_array_equal(net.weight.data, before)


def test_numbers_that_numpy_lacks_are_refused_by_name(tmp_path):
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    if "ml_dtypes" in sys.modules:
        pytest.skip("ml_dtypes, which JAX brings in, has taught NumPy bfloat16")
    files.save_file({"x": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "half")
    with pytest.raises(ValueError, match="half holds numbers that NumPy does not know"):
        load_arrays(tmp_path / "half")
