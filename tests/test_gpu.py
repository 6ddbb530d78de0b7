"""The same source on a GPU: everywhere on a device as strict as CuPy, with `-m gpu` on the card."""

import json
import sys
import warnings
from contextlib import nullcontext
from dataclasses import replace

import idle_card
import numpy as np
import pytest
import strict
from second_device import assert_same, beside
from transformations import EVERY, made, near_identity

import minist
import minist.functional as F
from minist import Tensor, backend, cli, datasets, gradcheck, models, nn, optim, spatial, tensor
from minist.autograd import Function
from minist.datasets import Images
from minist.spatial import SpatialTransformer, kernels
from minist.training import (
    MicroBatches,
    Run,
    Settings,
    evaluation_step,
    load_trained,
    loop,
    training_step,
)
from minist.training import settings as settings_module


@pytest.fixture(params=["strict", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Lets the device "cuda" be the strict one, or a real one."""
    with strict.on_strict_device() if request.param == "strict" else nullcontext():
        yield request.param


@pytest.fixture
def strict_device():
    with strict.on_strict_device():
        strict.waits.clear()
        strict.copies.clear()
        yield strict


def on_card(array):
    return backend.to_device(np.asarray(array), "cuda")


# --- the strict device refuses what CuPy refuses ------------------------------------------------


def test_the_list_of_names_is_that_of_cupy():
    cupy = pytest.importorskip("cupy", reason="the list is compared where CuPy is installed")
    if not cupy.__version__.startswith("14."):
        pytest.skip(f"the list is of CuPy 14, this is {cupy.__version__}")
    assert strict.NAMES.read_text(encoding="utf-8").splitlines() == list(strict.names_of(cupy))


@pytest.mark.parametrize(
    "fault",
    [
        lambda x, xp: np.asarray(x),
        lambda x, xp: np.linalg.norm(np.stack([np.ones(3), x])),
        lambda x, xp: x + np.ones(3),
        lambda x, xp: np.ones(3) * x,
        lambda x, xp: xp.maximum(x, [1.0, 2.0, 3.0]),
        lambda x, xp: xp.concatenate([x, np.ones(3)]),
        lambda x, xp: x[np.array([0, 1])],
        lambda x, xp: x.__setitem__(0, np.ones(())),
        lambda x, xp: x.take(np.array([0])),
        lambda x, xp: xp.add(x, x, where=x > 0),
        lambda x, xp: xp.sum(x, where=x > 0),
        lambda x, xp: x.sum(initial=1.0),
        lambda x, xp: xp.spacing(x),
        lambda x, xp: xp.unstack(x),
        lambda x, xp: x.resize(2),
        lambda x, xp: hash(x),
    ],
)
def test_the_strict_device_refuses(strict_device, fault):
    xp = strict.module()
    with pytest.raises((TypeError, AttributeError, IndexError)):
        fault(xp.ones(3), xp)


def test_the_strict_device_is_a_device(strict_device):
    xp = strict.module()
    x = xp.asarray(np.arange(6.0).reshape(2, 3))
    assert x.sum().shape == x[0, 0].shape == ()
    assert type(x.sum()) is type(x[1]) is strict.ndarray
    assert x[:, xp.asarray([-1, 3, 4])].get().tolist() == [[2, 0, 1], [5, 3, 4]]
    assert x.take(xp.asarray([6, 7])).get().tolist() == [0, 1]
    assert (x.T + 1.0).strides == (16, 8), "elementwise results lie in C order"
    assert backend.device_of(np.sqrt(x)) == "cuda"
    with pytest.raises(IndexError):
        x[2]


@pytest.mark.parametrize(
    "question",
    [float, int, bool, repr, lambda x: x.item(), lambda x: x.tolist(), lambda x: x[x > 0]],
)
def test_the_strict_device_counts_waits(strict_device, question):
    x = strict.module().ones(())
    strict.waits.clear()
    _ = x[...] + x.sum() > 0.5
    assert strict.waits == []
    question(x)
    assert len(strict.waits) == 1


class Twice(Function):
    def forward(self, x):
        return 2 * x

    def backward(self, grad):
        return 2 * grad


class TwiceOnTheHost(Twice):
    def forward(self, x):
        return backend.array_module(x).asarray(2 * backend.to_numpy(x)) * np.ones(1)


class OneMoreOnTheCard(Twice):
    def backward(self, grad):
        return 2 * grad + float(backend.is_cupy(grad))


def test_an_operation_that_differs_on_the_device_is_found(strict_device):
    with beside("cuda"):
        x = tensor(np.ones(3), requires_grad=True)
        Twice.apply(x).sum().backward()
        with pytest.raises(TypeError, match=r"numpy\.ndarray"):
            TwiceOnTheHost.apply(x)
        with pytest.raises(AssertionError, match=r"OneMoreOnTheCard\.backward on cuda"):
            OneMoreOnTheCard.apply(x).sum().backward()


# --- what is missing, and what is mixed ---------------------------------------------------------


def test_without_cupy_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"needs CuPy: install it with pip .*minist\[cuda12\]"):
        nn.Linear(2, 2).to("cuda")


def test_without_a_gpu_a_sentence_says_so(strict_device, monkeypatch):
    def none():
        raise strict.CUDARuntimeError("no device")

    monkeypatch.setattr(strict.module().cuda.runtime, "getDeviceCount", none)
    with pytest.raises(RuntimeError, match=r"needs a GPU: CuPy strict is installed.*no device"):
        tensor([1.0], device="cuda")


def test_devices_do_not_mix(device):
    x, y = tensor(np.ones(2)), tensor(np.ones(2), device="cuda")
    for mix in (lambda: x + y, lambda: y * np.ones(2), lambda: nn.Linear(2, 3)(y)):
        with pytest.raises(ValueError, match=r'different devices; move one of them.*to\("cuda"\)'):
            mix()
    with pytest.raises(ValueError, match=r"^Add: inputs lie on different devices") as error:
        x + y
    assert "a: (2,) float64 on cpu\n  b: (2,) float64 on cuda" in str(error.value)


# --- everything but the operations, which are repeated in their own tests -----------------------


def test_gradients_are_checked_on_the_card(device):
    x = tensor(np.array([[1.0, -2.0]]), requires_grad=True, device="cuda")
    assert gradcheck(lambda x: F.tanh(x) * 2.0 + x[0, 1], x)


def test_a_tensor_moves_with_its_gradient(device):
    x = tensor(np.ones(3), requires_grad=True)
    y = x.to("cuda")
    (y * y).sum().to("cpu").backward()
    assert y.device == "cuda"
    assert x.grad.tolist() == [2, 2, 2]
    assert "device='cuda'" in repr(y)


@pytest.mark.parametrize("name", EVERY)
def test_transformations(device, rng, name):
    transformation, size = made(name, (4, 5))
    theta = near_identity(transformation, 3, rng)
    with beside("cuda"):
        here = transformation.grid(theta, size).data
    there = transformation.to("cuda").grid(on_card(theta), size).data
    transformation.to("cpu")
    assert_same(name, here, there, "cuda")
    if transformation.dimensions == 2:
        outline = transformation.outline(theta, (6, 7))
        there = transformation.to("cuda").outline(on_card(theta), (6, 7))
        transformation.to("cpu")
        assert_same(name, outline, there, "cuda")


@pytest.mark.parametrize("kind", datasets.DISTORTIONS)
def test_distortions(device, kind):
    images = datasets.MNIST(train=False).images[:20]
    here = datasets.distort(images, kind, np.random.default_rng(3))
    there = datasets.distort(on_card(images), kind, np.random.default_rng(3))
    assert_same(kind, here, there, "cuda")


def test_sums_of_digits(device):
    data = datasets.MNIST(train=False)
    here = Images(data.images[:20], data.labels[:20])
    there = Images(*(on_card(array) for array in here))
    made_here, made_there = (datasets.sums(d, np.random.default_rng(3)) for d in (here, there))
    assert_same("images", made_here.images, made_there.images, "cuda")
    assert_same("labels", made_here.labels, made_there.labels, "cuda")


def test_solids(device):
    images = datasets.MNIST(train=False).images[:4]
    here = datasets.solids(images, np.random.default_rng(3), size=24)
    there = datasets.solids(on_card(images), np.random.default_rng(3), size=24)
    assert_same("solids", here, there, "cuda")


@pytest.mark.parametrize(
    "make",
    [
        lambda params: optim.SGD(params, lr=0.1, weight_decay=0.1),
        lambda params: optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
        lambda params: optim.Adam(params, lr=0.1, weight_decay=0.1),
    ],
)
def test_optimisers(device, make):
    nets = [nn.Linear(3, 2), nn.Linear(3, 2).to("cuda")]
    nets[1].load_state_dict(nets[0].state_dict())
    x, states = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), []
    for net, data in zip(nets, (x, on_card(x)), strict=True):
        optimizer = make(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            (net(data) ** 2).sum().backward()
            optim.clip_grad_norm(net.parameters(), 0.5)
            optimizer.step()
        states.append(optimizer.state_dict())
        optimizer.load_state_dict(states[0])  # that of the CPU, onto either
    for here, there in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert_same("weight", here, there, "cuda")
    for here, there in zip(*(state["arrays"].values() for state in states), strict=True):
        assert_same("state", here, there, "cuda")


def drifting():
    """A transformer that looks away from its image."""
    away = spatial.ThetaRegression(16, spatial.Translation(), start=[5.0, 0.0])
    return SpatialTransformer(nn.Sequential(nn.Flatten(), away), spatial.Translation())


def test_drift_is_noted_on_the_card_and_told_later(device):
    st = drifting().to("cuda")
    x = on_card(np.ones((2, 1, 4, 4), np.float32))
    strict.waits.clear()
    st(x), st(x)
    assert strict.waits == []
    with pytest.warns(UserWarning, match="theta has drifted off"):
        st.warn_if_drifted()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        st(x), st.warn_if_drifted()


def test_without_drift_nothing_is_told(device):
    st = drifting().to("cuda")
    st.localisation[1].bias.data[...] = 0.0
    st(on_card(np.ones((2, 1, 4, 4), np.float32)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        st.warn_if_drifted()


def test_a_label_out_of_range_is_not_a_number_on_the_card(device):
    logits = tensor(np.zeros((3, 2)), requires_grad=True, device="cuda")
    losses = F.cross_entropy(logits, on_card([0, 1, 2]), reduction="none")
    losses.sum().backward()
    assert np.isnan(losses.numpy()).tolist() == [False, False, True]
    assert np.isnan(backend.to_numpy(logits.grad)).tolist() == [[False] * 2] * 2 + [[True] * 2]
    with pytest.raises(ValueError, match=r"label 2 is outside 0\.\.1"):
        F.cross_entropy(logits, [0, 1, 2])


# --- training -----------------------------------------------------------------------------------


SETTINGS = Settings(
    filters=4, epochs=1, limit=192, batch_size=64, micro_batch=64, warmup=0, held_out=64, lr=1e-2
)


def test_no_step_waits_and_nothing_crosses_the_bus(strict_device):
    """A step takes its batch, distorted where it lies; only theta of the distortion is sent."""
    settings = replace(SETTINGS, device="cuda", model="st-cnn", distortion="RTS")
    data, _ = loop.load_training_set(settings)
    state = loop.State.start(settings, steps=10)

    def batch():
        one = datasets.batches(data, 64, settings.examples)
        images, labels = next(one)
        one.close()
        return images, labels

    with MicroBatches(64, threads=1) as micro_batches:

        def step(images, labels):
            report = training_step(state.model, images, labels, micro_batches)
            state.update()
            return report + report

        step(*batch())  # constants are sent once
        strict.waits.clear()
        strict.copies.clear()
        images, labels = batch()
        assert strict.waits == []
        assert sum(strict.copies) < images.nbytes / 50, "images crossed the bus"
        strict.copies.clear()
        step(images, labels)
        evaluation_step(state.model, images, labels, micro_batches)
        assert strict.waits == strict.copies == []


def losses(device, folder, steps=50):
    """The losses of so many steps of a small network, one line of the log for each."""
    run = Run(folder)
    settings = replace(
        SETTINGS, device=device, limit=16 * steps, batch_size=16, micro_batch=16, held_out=0
    )
    settings = replace(settings, optimizer="sgd", lr=0.1)  # Adam makes much of rounding
    with run.locked():
        loop.train(settings, run, progress=False)
    return [line["loss"] for line in run.lines()]


@pytest.fixture
def a_line_a_step(monkeypatch):
    monkeypatch.setattr(loop, "STEPS_A_LINE", 1)


def test_fifty_steps_here_and_there(device, a_line_a_step, tmp_path, monkeypatch):
    here = losses("cpu", tmp_path / "cpu")
    there = losses("cuda", tmp_path / "cuda")
    assert len(here) == 50
    assert np.ptp(here) > 0.1
    np.testing.assert_allclose(there[:10], here[:10], rtol=0, atol=1e-5)
    # Rounding grows from step to step, on one processor more than on another.
    np.testing.assert_allclose(there, here, rtol=0, atol=5e-3)
    if device == "strict":  # in NumPy's order of memory its BLAS rounds alike, too
        monkeypatch.setattr(strict, "order", "K")
        assert losses("cuda", tmp_path / "K") == here


def test_a_run_from_the_first_to_the_last_file(device, tmp_path):
    """Trained, interrupted, resumed, tested on the card; its weights read on the CPU."""
    settings = replace(SETTINGS, device="cuda", epochs=2)
    run = Run(tmp_path / "run")
    with run.locked():
        loop.train(replace(settings, epochs=1), run, progress=False)
        loop.train(settings, run, resume=True, progress=False)
    assert any("held_out_error" in line for line in run.lines())
    model, _, _ = load_trained(run.folder)
    there, _, _ = load_trained(run.folder, "cuda")
    images = np.random.default_rng(0).random((5, 1, 28, 28), dtype=np.float32)
    assert {p.device for p in model.parameters()} == {"cpu"}
    assert_same("logits", model(Tensor(images)).data, there(Tensor(on_card(images))).data, "cuda")


class FewDigits(datasets.MNIST):
    def __init__(self, *which, **where):
        super().__init__(*which, **where)
        self.images, self.labels = self.images[:200], self.labels[:200]


def test_the_command_from_start_to_picture(device, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(settings_module, "MNIST", FewDigits)
    out = tmp_path / "run"
    tiny = ["--limit", "64", "--epochs", "1", "--filters", "4", "--device", "cuda"]
    assert cli.main(["train", *tiny, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert cli.main(["evaluate", str(out), "--device", "cuda"]) == 0
    there = capsys.readouterr().out
    assert cli.main(["evaluate", str(out)]) == 0
    line = said.splitlines()[-1]
    assert line.startswith("test error")
    assert there.splitlines()[-1] == capsys.readouterr().out.splitlines()[-1] == line
    assert (out / "result.png").is_file()


@pytest.mark.parametrize(
    ("model", "network"),
    [
        ("fcn", {"distortion": "R"}),
        ("st-cnn", {"distortion": "RTS", "transformation": "affine", "filters": "4"}),
        ("st-fcn", {"distortion": "P", "transformation": "projective"}),
    ],
)
def test_the_command_on_cupy_itself(model, network, tmp_path):
    """On a card that does nothing (`idle_card.py`): CuPy knows all that is asked of it."""
    options = {
        "device": "cuda",
        "model": model,
        **network,
        "limit": "300",
        "batch-size": "64",
        "epochs": "1",
        "out": tmp_path,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = idle_card.run("train", *words)
    assert "without a CUDA graph" not in done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    # Of five batches two come before the capture, and the last is smaller.
    assert (seen["captures"], seen["replays"]) == (1, 2)
    kernels = {"bias_relu", "relu_backward", "cross_entropy", "adam"}
    if model == "st-cnn":
        kernels |= {"im2col", "col2im", "max_pool", "max_pool_backward"}
    if model != "fcn":
        kernels |= {"sample_2_2", "sample_backward_2_2"}
    assert kernels <= seen["launched"].keys()


def test_a_module_moves_there_and_back(device):
    net, x = models.build("st-cnn", filters=4), np.ones((2, 1, 28, 28), np.float32)
    here = net(Tensor(x)).data
    layers = models.layers(net, (1, 28, 28))
    net.to("cuda")
    assert {backend.device_of(array) for array in net.state_dict().values()} == {"cuda"}
    assert models.layers(net, (1, 28, 28)) == layers
    assert_same("there", here, net(Tensor(on_card(x))).data, "cuda")
    np.testing.assert_array_equal(net.to("cpu")(Tensor(x)).data, here)


def test_a_checkpoint_of_one_device_goes_on_on_the_other(device, tmp_path):
    states = {}
    for name in ("cpu", "cuda"):
        run = Run(tmp_path / name)
        with run.locked():
            loop.train(replace(SETTINGS, device="cpu"), run, progress=False)
        state = loop.State.start(replace(SETTINGS, device=name), steps=3)
        state.resume(run)
        states[name] = state
    for state in states.values():
        x = on_card(np.ones((2, 1, 28, 28), np.float32))
        x = Tensor(backend.to_device(x, state.model.parameters()[0].device))
        F.cross_entropy(state.model(x), [1, 2]).backward()
        state.update()
    arrays = zip(*(state.checkpoint().arrays.values() for state in states.values()), strict=True)
    for here, there in arrays:
        assert_same("weight", here, there, "cuda")


def test_batch_norm_and_dropout_learn_on_the_card(device):
    nets = []
    for place in ("cpu", "cuda"):
        minist.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).to(place)
        x = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
        (net(x if place == "cpu" else on_card(x)) ** 2).sum().backward()
        nets.append(net)
    for here, there in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert_same("state", here, there, "cuda")


def test_kernels_move_with_their_parameters(device):
    kernel = kernels.Gaussian(0.8, learn=True).to("cuda")
    u, grid = (on_card(np.full(shape, 0.3)) for shape in ((1, 1, 4, 4), (1, 2, 2, 2)))
    spatial.grid_sample(u, grid, kernel).sum().backward()
    assert backend.device_of(kernel.sigma.grad) == "cuda"
    assert repr(kernel) == "Gaussian(sigma=0.8)" or "0.8" in kernel.extra_repr()
