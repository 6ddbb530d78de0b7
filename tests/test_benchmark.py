"""The benchmark: that its contestants do the same work, and that it says what it measured."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest

import minist
from minist import benchmark, models
from minist.autograd import Tensor
from minist.backend import processor
from minist.benchmark import cases, contest, machine, memory, networks, own, report
from minist.cli import main
from minist.training.step import activations


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """No pauses, few turns, small measurements of the machine."""
    monkeypatch.setattr(contest, "PAUSE", 0)
    monkeypatch.setattr(contest.turn, "__defaults__", None)
    monkeypatch.setattr(report, "multiply_rate", lambda: 1e11)
    monkeypatch.setattr(report, "copy_rate", lambda: 1e10)


@pytest.mark.parametrize(("name", "transformation"), cases.NETWORKS)
def test_the_peer_is_the_same_network(name, transformation, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the peer")
    from minist.benchmark import torch_peer

    minist.manual_seed(0)
    model = models.build(name, transformation or "affine")
    for parameter in model.parameters():  # off the identity
        parameter.data = parameter.data + rng.normal(0, 0.02, parameter.shape)
    images = rng.random((3, 1, 28, 28))
    ours, theirs = Tensor(images, requires_grad=True), torch.tensor(images, requires_grad=True)
    y, z = model(ours), torch_peer.translate(model).double()(theirs)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), atol=1e-5)  # its weights: float32
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), atol=1e-4)


def test_a_layer_without_translation_is_named():
    pytest.importorskip("torch", reason="PyTorch is the peer")
    from minist.benchmark import torch_peer

    with pytest.raises(TypeError, match=r"no translation of Tanh\(\) into PyTorch"):
        torch_peer.translate(minist.nn.Sequential(minist.nn.Tanh()))


def torch_peers():
    return [p for p in benchmark.installed() if p in ("PyTorch", "channels_last")]


@pytest.mark.parametrize("backward", [False, True])
def test_every_operation_runs_in_every_library(backward):
    found = {}
    for one in cases.listed(2):
        contestants = cases.operation(one, 2, torch_peers(), backward).contestants()
        assert set(contestants) == {own.TRAINING, own.OWN_LOOP, *torch_peers()}
        found[one.name] = contest.medians(contestants, rounds=1, seconds=0)
    assert all(ms > 0 for row in found.values() for ms in row.values())
    assert {"max-pool 48x20x20", "ReLU 48x17x17", "tps grid 28x28"} <= found.keys()


def test_a_table_has_a_row_for_each_case(capsys):
    benchmark.run(batch_size=4, peers=torch_peers(), only="step*28x28", quick=True)
    head, *lines = capsys.readouterr().out.splitlines()
    assert "kernel" in head and "NumPy" in head and "threads" in head
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "x28 |" in line]
    assert [row[0] for row in table] == [cases.label(*net, 28) for net in cases.NETWORKS]
    columns = report.COLUMNS
    for row in table:
        assert len(row) == len(columns)
        row = dict(zip(columns, row, strict=True))
        assert float(row["minist"]) > 0 and float(row["own loop"]) > 0 and row["floor"]
        assert bool(row["/PyTorch"]) == ("PyTorch" in torch_peers())


def test_json(capsys):
    benchmark.run(batch_size=4, peers=[], only="distortion", quick=True, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["threads"] == minist.backend.num_threads()
    assert [row["name"] for row in found["rows"]] == ["R", "RTS", "P", "E", "TC"]
    for row in found["rows"]:
        assert row["unit"] == "ms" and row["best_peer"] is None
        assert row["images_per_second"] == pytest.approx(4e3 / row["measured"]["minist"])


def test_ratios():
    row = report.Row("step", "x", {"minist": 2.0, "own loop": 3.0, "PyTorch": 4.0, "JAX": 1.0})
    found = row.as_dict()
    assert found["best_peer"] == "JAX"
    assert found["ratio_to_eager"] == 0.5
    assert found["own_loop_ratio_to_eager"] == 0.75
    assert found["ratio_to_best"] == 2.0


def test_what_matches_no_row_is_refused():
    with pytest.raises(ValueError, match="no row is like 'nonsense'"):
        benchmark.run(only="nonsense", peers=[])


def test_the_command(capsys):
    assert (
        main(["benchmark", "--quick", "--peer", "none", "--batch-size", "2", "--only", "*ReLU 48*"])
        == 0
    )
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ReLU")]
    assert len(rows) == 2


def test_the_work_of_a_step_written_out():
    """Two linear layers, the first without an input gradient: 2 + 3 products."""
    model = minist.nn.Sequential(minist.nn.Linear(6, 5), minist.nn.ReLU(), minist.nn.Linear(5, 3))
    images, labels = np.ones((7, 6), np.float32), np.zeros(7, int)
    flops, moved = networks.work_of_step(model, images, labels)
    assert flops == 7 * (2 * 2 * 30 + 3 * 2 * 15)
    assert activations(model, (6,)) == 5 + 3  # the ReLU is taken in place
    assert moved == 7 * 4 * 4 * 8


def test_memory_is_that_of_the_step():
    small = memory.in_process(own.TRAINING, "fcn", None, 28, 64)
    large = memory.in_process(own.OWN_LOOP, "cnn", None, 28, 256)
    assert 0 <= small < 30 < large  # MB: the maps of the first convolution alone are 20


def test_growth(tmp_path, monkeypatch):
    from minist.benchmark import growth

    monkeypatch.setattr(growth, "SIDES_BATCH", 2)
    growth.draw(tmp_path / "growth.png", torch_peers()[:1], quick=True)
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_the_machine_has_a_rate():
    assert machine.multiply_rate(64) > 0 and machine.copy_rate(1) > 0
    assert processor() and "kernel" in machine.blas()


def jax_beside_minist():
    """In a process of its own, since JAX teaches NumPy new types: outputs' largest difference."""
    from minist.benchmark import jax_peer

    rng = np.random.default_rng(0)
    found = {}
    for name, transformation in cases.NETWORKS:
        minist.manual_seed(0)
        model = models.build(name, transformation or "affine")
        for parameter in model.parameters():  # off the identity
            parameter.data = parameter.data + rng.normal(0, 0.02, parameter.shape).astype("f")
        images = rng.random((3, 1, 28, 28), dtype="f")
        y = jax_peer.translate(model)(model.state_dict(), images)
        found[name, transformation] = float(abs(y - model(Tensor(images)).numpy()).max())
    model = networks.build("st-fcn", "affine", 28)
    contestants = {
        "step": jax_peer.training("JAX", model, *networks.batch(2, 28)),
        "inference": jax_peer.inference("JAX", model, networks.batch(2, 28)[0]),
    }
    return found, contest.medians(contestants, 1, 0)


@pytest.mark.skipif(find_spec("jax") is None, reason="JAX is the peer")
def test_the_peer_in_jax_is_the_same_network():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found, milliseconds = pool.submit(jax_beside_minist).result()
    assert found.keys() == set(cases.NETWORKS)
    assert max(found.values()) < 1e-5
    assert milliseconds.keys() == {"step", "inference"}


def test_rows_of_memory_are_chosen_by_name(capsys, monkeypatch):
    monkeypatch.setattr(memory, "in_process", lambda *what: 7.0)
    benchmark.run(batch_size=2, peers=[], only="memory*st-cnn*42*")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| st-cnn")]
    assert len(rows) == 1 and rows[0].startswith("| st-cnn affine 42x42 | 7.00 | 7.00 |")


# --- on a GPU -----------------------------------------------------------------------------------


@pytest.fixture
def gpu_cases():
    """Those of a GPU, on the host's arrays."""
    peers = ["PyTorch"] if "PyTorch" in torch_peers() else []
    return list(benchmark.gpu.cases(2, peers, quick=True, device="cpu"))


def test_every_case_of_a_gpu_runs(gpu_cases):
    names = {case.name for case in gpu_cases}
    assert {"st-cnn affine 28x28", "bilinear sampler 32x64x64, forward and backward"} <= names
    for case in gpu_cases:
        steps = case.steps()
        assert set(steps) <= {own.TRAINING, own.OWN_LOOP, "PyTorch"} and own.TRAINING in steps
        for step in steps.values():
            step()


def test_the_sampler_on_a_gpu_has_a_floor_of_copies(gpu_cases):
    sampler = next(case for case in gpu_cases if case.name == "bilinear sampler 32x64x64, forward")
    assert sampler.bytes == 4 * 2 * (2 * 32 * 64 * 64 + 2 * 64 * 64)


def test_turns_on_a_gpu(monkeypatch):
    calls = []
    times = {"quick": 1.0, "slow": 50.0}

    def timed(step, count):
        calls.append((step, count))
        return times[step]

    monkeypatch.setattr(benchmark.gpu, "timed", timed)
    assert benchmark.gpu.medians({n: n for n in times}, rounds=2, milliseconds=100) == times
    assert calls[4:] == [("quick", 100), ("slow", 2)] * 2


def test_without_a_gpu_the_command_says_what_is_missing(capsys, monkeypatch):
    def missing(device):
        raise RuntimeError('device "cuda" needs a GPU')

    monkeypatch.setattr(benchmark.gpu, "module_of", missing)
    assert main(["benchmark", "--device", "cuda"]) == 1
    assert "needs a GPU" in capsys.readouterr().err
