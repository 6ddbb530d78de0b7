"""Optimisers and schedules: their formulas, PyTorch's steps, and a state that resumes."""

import copy
import json
import math

import numpy as np
import pytest

import minist
from minist import nn, optim
from minist.files import load_arrays, save_arrays

SHAPES = [(3, 4), (4,), (2, 3, 2, 2)]

OPTIMISERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.2}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.2}),
    ("Adam", {"lr": 0.1}),
    ("Adam", {"lr": 0.1, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2}),
]
every_optimiser = pytest.mark.parametrize(("name", "settings"), OPTIMISERS)


def parameters(dtype=np.float64):
    rng = np.random.default_rng(0)
    return [nn.Parameter(rng.normal(size=shape).astype(dtype)) for shape in SHAPES]


def gradients(step):
    """Of each parameter at a step; the second parameter has none at every third."""
    rng = np.random.default_rng([1, step])
    grads = [rng.normal(size=shape) for shape in SHAPES]
    return [None if i == 1 and step % 3 == 0 else grad for i, grad in enumerate(grads)]


def train(optimiser, steps):
    """Take steps with known gradients."""
    for step in steps:
        for p, grad in zip(optimiser.parameters(), gradients(step), strict=True):
            p.grad = None if grad is None else grad.astype(p.dtype)
        optimiser.step()


def sgd(lr=0.1, **settings):
    return optim.SGD(parameters(), lr, **settings)


# --- steps --------------------------------------------------------------------------------------


@every_optimiser
def test_twenty_steps_are_pytorchs_with_each_groups_own_settings(name, settings):
    torch = pytest.importorskip("torch")
    ours = parameters()
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in ours]
    mine, its = (
        getattr(library, name)(
            [
                {"params": ps[:2], "lr": 0.01, "weight_decay": 0.3},
                {"params": ps[2:]},
            ],
            **settings,
        )
        for library, ps in ((optim, ours), (torch.optim, theirs))
    )
    for step in range(20):
        for p, q, grad in zip(ours, theirs, gradients(step), strict=True):
            p.grad = grad
            q.grad = None if grad is None else torch.from_numpy(grad.copy())
        mine.step()
        its.step()
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-10, atol=1e-10)


def test_two_steps_with_momentum_by_hand():
    # v = 1, then 0.5 + 1; w = 1 - 0.1, then 0.9 - 0.15.
    p = nn.Parameter(np.ones(1))
    optimiser = optim.SGD([p], 0.1, momentum=0.5)
    for expected in (0.9, 0.75):
        p.grad = np.ones(1)
        optimiser.step()
        assert p.item() == pytest.approx(expected, abs=1e-15)


def test_adams_first_step_is_the_learning_rate_whatever_the_gradient():
    p = nn.Parameter(np.zeros(3))
    p.grad = np.array([1e-3, -5.0, 1e4])
    optim.Adam([p], lr=0.01).step()
    np.testing.assert_allclose(p.data, [-0.01, 0.01, -0.01], rtol=1e-4)


def as_numpy_numbers(value):
    """A setting with NumPy's float64 in place of Python's numbers."""
    if isinstance(value, tuple):
        return tuple(map(np.float64, value))
    return np.float64(value) if isinstance(value, float) else value


@every_optimiser
def test_float32_steps_stay_float32_also_under_numpy_settings(name, settings):
    plain, numpy = (
        getattr(optim, name)(parameters(np.float32), **given)
        for given in (settings, {key: as_numpy_numbers(v) for key, v in settings.items()})
    )
    arrays = [p.data for p in numpy.parameters()]
    train(plain, range(3))
    train(numpy, range(3))
    for p, q, array in zip(numpy.parameters(), plain.parameters(), arrays, strict=True):
        assert p.data is array
        np.testing.assert_array_equal(p.data, q.data)
    assert {a.dtype for a in numpy.state_dict()["arrays"].values()} <= {np.dtype(np.float32)}


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_leaves_the_gradients_and_parameters_without_one(decay):
    first, second = nn.Parameter(np.ones(2)), nn.Parameter(np.ones(2))
    optimiser = optim.SGD([first, second], 0.1, momentum=0.9, nesterov=True, weight_decay=decay)
    first.grad = np.ones(2)
    for _ in range(2):
        optimiser.step()
    assert first.grad.tolist() == second.data.tolist() == [1, 1]
    optimiser.zero_grad()
    assert first.grad is None


@pytest.mark.parametrize("make", [lambda net: net.parameters(), lambda net: iter(net.parameters())])
def test_training_a_line_finds_it(make):
    minist.manual_seed(0)
    net, x = nn.Linear(1, 1), np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    optimiser = optim.SGD(make(net), 0.1, momentum=0.9)
    for _ in range(200):
        optimiser.zero_grad()
        minist.functional.mse_loss(net(x), 3 * x - 1).backward()
        optimiser.step()
    assert (net.weight.item(), net.bias.item()) == pytest.approx((3, -1), abs=1e-4)


# --- state --------------------------------------------------------------------------------------


@every_optimiser
def test_a_saved_state_goes_on_bit_for_bit(name, settings, tmp_path):
    straight = getattr(optim, name)(parameters(np.float32), **settings)
    train(straight, range(7))

    first = getattr(optim, name)(parameters(np.float32), **settings)
    train(first, range(4))
    state = first.state_dict()
    save_arrays(state.pop("arrays"), tmp_path / "state", notes=state)  # the rest is JSON
    arrays, notes = load_arrays(tmp_path / "state")
    resumed = getattr(optim, name)(parameters(np.float32), **{**settings, "lr": 77.0})
    for p, q in zip(resumed.parameters(), first.parameters(), strict=True):
        p.data[...] = q.data
    resumed.load_state_dict({**notes, "arrays": arrays})
    train(resumed, range(4, 7))
    for p, q in zip(resumed.parameters(), straight.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)


def test_loading_a_state_copies_it():
    first, second = sgd(momentum=0.9), sgd(momentum=0.9)
    train(first, range(2))
    state = copy.deepcopy(first.state_dict())
    second.load_state_dict(first.state_dict())
    train(second, range(2, 4))
    for key, array in first.state_dict()["arrays"].items():
        np.testing.assert_array_equal(array, state["arrays"][key])


def changed(**changes):
    optimiser = sgd(momentum=0.9)
    train(optimiser, range(2))
    return {**optimiser.state_dict(), **changes}


@pytest.mark.parametrize(
    ("state", "fact"),
    [
        (changed(lr=[0.1, 0.2]), "2 groups, this optimiser 1"),
        (changed(steps=[1, 1]), "2 parameters, this optimiser 3"),
        (changed(arrays={"3.velocity": np.zeros((3, 4))}), r"3\.velocity, \(3, 4\), fits no"),
        (changed(arrays={"-1.velocity": np.zeros((2, 3, 2, 2))}), "fits no parameter"),
        (changed(arrays={"0.velocity": np.zeros(4)}), r"0\.velocity, \(4,\), fits no parameter"),
        (changed(arrays={"0.m": np.zeros((3, 4))}), r"0\.m, \(3, 4\), fits no parameter"),
        (changed(arrays={"velocity": np.zeros((3, 4))}), "fits no parameter"),
    ],
)
def test_the_state_of_another_optimiser_is_refused_and_changes_nothing(state, fact):
    optimiser = sgd(0.3, momentum=0.9)
    with pytest.raises(ValueError, match=f"SGD: the state.*{fact}"):
        optimiser.load_state_dict(state)
    assert optimiser.state_dict() == {"steps": [0, 0, 0], "lr": [0.3], "arrays": {}}


def adam():
    optimiser = optim.Adam(parameters())
    train(optimiser, range(2))
    return optimiser


def test_the_order_of_a_states_arrays_does_not_matter():
    straight, resumed = adam(), optim.Adam(parameters())
    state = straight.state_dict()
    backwards = dict(reversed(state["arrays"].items()))
    resumed.load_state_dict({**state, "arrays": backwards})
    assert [list(parts) for parts in resumed.state.values()] == [["m", "v"]] * 3
    for p, q in zip(resumed.parameters(), straight.parameters(), strict=True):
        p.data[...] = q.data
    train(straight, range(2, 4))
    train(resumed, range(2, 4))
    for p, q in zip(resumed.parameters(), straight.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)


def test_a_state_with_a_part_missing_is_refused_and_changes_nothing():
    state, optimiser = adam().state_dict(), optim.Adam(parameters())
    del state["arrays"]["1.v"]
    with pytest.raises(ValueError, match=r"^Adam: the state's 1\.v is missing$"):
        optimiser.load_state_dict(state)
    assert optimiser.state_dict()["arrays"] == {}


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda p: optim.SGD([], 0.1), "no parameters"),
        (lambda p: optim.SGD([{"params": []}], 0.1), "no parameters"),
        (lambda p: optim.SGD([p, p], 0.1), "comes twice"),
        (lambda p: optim.SGD([{"params": p}, {"params": [p]}], 0.1), "comes twice"),
        (lambda p: optim.SGD([{"params": p, "rate": 1}], 0.1), "unknown setting rate .* lr"),
        (lambda p: optim.SGD([p], -0.1), r"lr must be 0 or more, not -0\.1"),
        (lambda p: optim.SGD([p], math.nan), "lr must be 0 or more, not nan"),
        (lambda p: optim.SGD([{"params": p, "lr": -1}], 0.1), "lr must be 0 or more"),
        (lambda p: optim.SGD([p], 0.1, momentum=-1), "momentum must be 0 or more"),
        (lambda p: optim.SGD([p], 0.1, weight_decay=-1), "weight_decay must be 0 or more"),
        (lambda p: optim.SGD([p], 0.1, nesterov=True), "Nesterov's step needs a momentum"),
        (lambda p: optim.SGD([{"params": p, "nesterov": True}], 0.1), "needs a momentum"),
        (lambda p: optim.Adam([p], betas=(0.9, 1.0)), "betas must be two numbers in 0..1"),
        (lambda p: optim.Adam([p], betas=(0.9,)), "betas must be two numbers"),
        (lambda p: optim.Adam([p], betas=0.9), "betas must be two numbers"),
        (lambda p: optim.Adam([p], eps=-1e-8), "eps must be 0 or more"),
        (lambda p: optim.StepLR(optim.SGD([p], 0.1), 0), "step_size must be 1 or more"),
    ],
)
def test_a_setting_out_of_range_is_a_value_error(make, fact):
    with pytest.raises(ValueError, match=fact):
        make(nn.Parameter([1.0]))


@pytest.mark.parametrize(
    ("params", "fact"),
    [
        (nn.Linear(1, 1), "with Linear in it"),
        (nn.Sequential(nn.Linear(1, 1)), "with Linear in it"),
        (nn.Linear(1, 1).named_parameters(), "with tuple in it"),
        ([np.ones(2)], "with ndarray in it"),
        ([nn.Parameter([1.0]) * 2], "with the result of an operation in it"),
        ([{"params": nn.Linear(1, 1)}], "with Linear in it"),
        ([{"lr": 0.1}], 'a dict with "params"'),
        ([{"params": nn.Parameter([1.0])}, nn.Parameter([1.0])], 'a dict with "params"'),
    ],
)
def test_what_is_no_parameter_is_a_type_error(params, fact):
    with pytest.raises(TypeError, match=fact):
        optim.SGD(params, 0.1)


# --- clipping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_clipping_is_pytorchs(max_norm):
    torch = pytest.importorskip("torch")
    ours = parameters()
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in ours]
    for p, q, grad in zip(ours, theirs, gradients(0), strict=True):
        if grad is not None:
            p.grad, q.grad = grad, torch.from_numpy(grad.copy())
    norm = optim.clip_grad_norm(iter(ours), max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert norm.shape == ()
    assert norm.item() == pytest.approx(expected.item(), rel=1e-12)
    assert ours[1].grad is None
    for p, q in zip((ours[0], ours[2]), (theirs[0], theirs[2]), strict=True):
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-10)


def test_clipping_takes_one_parameter_keeps_its_dtype_and_knows_no_gradient():
    p = nn.Parameter([0.0, 0.0])
    assert optim.clip_grad_norm(p, 1.0).item() == 0
    p.grad = np.float32([3, 4])
    assert optim.clip_grad_norm(p, np.float64(1)).item() == 5
    assert p.grad.dtype == np.float32
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-6)


# --- schedules ----------------------------------------------------------------------------------

SCHEDULES = {
    "step": (
        lambda o: optim.StepLR(o, 3, gamma=0.5),
        lambda t: 0.5 ** (t // 3),
    ),
    "cosine": (
        lambda o: optim.CosineLR(o, 8, final=0.2),
        lambda t: 0.2 + 0.8 * (1 + math.cos(math.pi * min(t / 8, 1))) / 2,
    ),
    "warm-up": (
        lambda o: optim.LinearWarmup(optim.StepLR(o, 3, gamma=0.5), 4),
        lambda t: min((t + 1) / 4, 1) * 0.5 ** (t // 3),
    ),
    "no warm-up": (
        lambda o: optim.LinearWarmup(optim.CosineLR(o, 8), 0),
        lambda t: (1 + math.cos(math.pi * min(t / 8, 1))) / 2,
    ),
}
every_schedule = pytest.mark.parametrize(
    ("make", "factor"), SCHEDULES.values(), ids=SCHEDULES.keys()
)


def two_groups():
    first, *rest = parameters()
    return optim.SGD([{"params": first, "lr": 0.01}, {"params": rest}], 0.1)


def rates(optimiser):
    return [group["lr"] for group in optimiser.groups]


@every_schedule
def test_a_schedule_multiplies_every_groups_rate_by_its_formula(make, factor):
    optimiser = two_groups()
    schedule = make(optimiser)
    for t in range(12):
        assert rates(optimiser) == pytest.approx([0.01 * factor(t), 0.1 * factor(t)], rel=1e-12)
        schedule.step()


@every_schedule
def test_a_resumed_schedule_goes_on_as_if_never_stopped(make, factor):
    optimiser = two_groups()
    schedule = make(optimiser)
    for _ in range(5):
        schedule.step()
    state = json.loads(json.dumps(schedule.state_dict()))
    stopped = rates(optimiser)
    other = two_groups()
    for group in other.groups:
        group["lr"] = 77.0
    resumed = make(other)
    resumed.load_state_dict(state)
    assert rates(other) == stopped
    schedule.step()
    resumed.step()
    assert rates(other) == rates(optimiser)


@pytest.mark.parametrize(
    ("make", "torchs", "settings"),
    [
        (lambda o: optim.StepLR(o, 4, 0.3), "StepLR", {"step_size": 4, "gamma": 0.3}),
        # PyTorch's smallest rate is a number, not a share of the rate.
        (
            lambda o: optim.CosineLR(o, 10, final=0.05),
            "CosineAnnealingLR",
            {"T_max": 10, "eta_min": 0.1 * 0.05},
        ),
    ],
)
def test_a_schedule_is_pytorchs(make, torchs, settings):
    torch = pytest.importorskip("torch")
    ours = sgd(0.1)
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    mine, its = make(ours), getattr(torch.optim.lr_scheduler, torchs)(theirs, **settings)
    for _ in range(11):
        assert rates(ours)[0] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-10)
        theirs.step()
        mine.step()
        its.step()


def test_the_rate_of_a_schedule_is_the_rate_of_the_step():
    p = nn.Parameter(np.zeros(1))
    optimiser = optim.SGD([p], 1.0)
    schedule = optim.StepLR(optimiser, 1, gamma=0.1)
    for expected in (-1.0, -1.1, -1.11):
        p.grad = np.ones(1)
        optimiser.step()
        schedule.step()
        assert p.item() == pytest.approx(expected)
