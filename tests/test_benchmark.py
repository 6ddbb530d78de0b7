"""The benchmark: that its contestants do the same work."""

import numpy as np
import pytest

import minist
from minist import benchmark, models
from minist.autograd import Tensor


@pytest.mark.parametrize("name", ["cnn", "st-cnn"])
def test_the_peer_is_the_same_network(name, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the peer")
    minist.manual_seed(0)
    model = models.build(name, filters=5)
    for parameter in model.parameters():  # off the identity
        parameter.data = parameter.data + rng.normal(0, 0.05, parameter.shape)
    images = rng.random((3, 1, 28, 28))
    ours, theirs = Tensor(images, requires_grad=True), torch.tensor(images, requires_grad=True)
    y, z = model(ours), benchmark.torch_model(model).double()(theirs)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), atol=1e-5)  # its weights: float32
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["cnn", "st-cnn"])
def test_it_prints_a_row_for_each_contestant(name, monkeypatch):
    monkeypatch.setattr(benchmark, "PAUSE", 0)
    text = benchmark.run(name, batch_size=4, steps=1, rounds=1)
    rows = {line[:24].strip(): line[24:].split() for line in text.splitlines()[4:]}
    assert {"minist, training/", "minist, own loop"} <= rows.keys()
    assert all(float(row[0]) > 0 for row in rows.values())
    if "PyTorch eager" in rows:
        assert rows["PyTorch eager"][1] == "1.00"
    assert "kernel" in text


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="model must be cnn or st-cnn, not 'fcn'"):
        benchmark.run("fcn")
