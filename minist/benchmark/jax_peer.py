"""The same networks in JAX, compiled as a whole, with the same weights.

Its threads are those that XLA takes: set them for the process, as in `taskset -c 0`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import nn, spatial
from ..autograd import Tensor
from .contest import Contestant

Weights = dict[str, Any]


def translate(module: nn.Module, prefix: str = "") -> Callable[[Weights, Any], Any]:
    """A module of minist as a function of its `state_dict` and its input."""

    def weight(weights: Weights, name: str) -> Any:
        return weights[f"{prefix}.{name}" if prefix else name]

    if isinstance(module, nn.Conv2d):
        geometry = module.geometry
        return lambda p, x: (
            jax.lax.conv_general_dilated(
                x,
                weight(p, "weight"),
                geometry["stride"],
                [(n, n) for n in geometry["padding"]],
                rhs_dilation=geometry["dilation"],
                feature_group_count=geometry["groups"],
            )
            + weight(p, "bias")[:, None, None]
        )
    if isinstance(module, nn.Linear):
        return lambda p, x: x @ weight(p, "weight").T + weight(p, "bias")
    if isinstance(module, nn.MaxPool2d):  # the mean too
        (kh, kw), stride, padding, ceil_mode = module.window
        mean = isinstance(module, nn.AvgPool2d)
        start, add = (0.0, jax.lax.add) if mean else (-jnp.inf, jax.lax.max)

        def pool(p: Weights, x: Any) -> Any:
            border = [(0, 0), (0, 0)]
            for n, k, step, margin in zip(x.shape[2:], (kh, kw), stride, padding, strict=True):
                left = (n + 2 * margin - k) % step if ceil_mode else 0
                border.append((margin, margin + (step - left if left else 0)))
            sums = jax.lax.reduce_window(x, start, add, (1, 1, kh, kw), (1, 1, *stride), border)
            return sums / (kh * kw if mean else 1)

        return pool
    if isinstance(module, nn.ReLU):
        return lambda p, x: jax.nn.relu(x)
    if isinstance(module, nn.Flatten):
        return lambda p, x: x.reshape(len(x), -1)
    if isinstance(module, spatial.SpatialTransformer):
        return transformer(module, prefix)
    inside = [
        translate(child, f"{prefix}.{name}" if prefix else name)
        for name, child in module.children()
    ]
    if not inside:
        raise TypeError(f"no translation of {module!r} into JAX")

    def one_after_the_other(p: Weights, x: Any) -> Any:
        for layer in inside:
            x = layer(p, x)
        return x

    return one_after_the_other


def transformer(st: spatial.SpatialTransformer, prefix: str) -> Callable[[Weights, Any], Any]:
    localisation = translate(
        st.localisation, f"{prefix}.localisation" if prefix else "localisation"
    )

    def forward(p: Weights, u: Any) -> Any:
        theta = localisation(p, u)
        n, _, h, w = u.shape
        basis = st.transformation.basis((h, w), st.align_corners, Tensor(np.zeros(1)))
        basis = jnp.asarray(basis.data, dtype=u.dtype)
        if isinstance(st.transformation, spatial.Affine):
            grid = theta.reshape(n, 2, 3) @ basis
        elif isinstance(st.transformation, spatial.ThinPlateSpline):
            grid = theta.reshape(n, -1, 2).transpose(0, 2, 1) @ basis
        elif isinstance(st.transformation, spatial.Projective):
            matrix = jnp.concatenate([theta, jnp.ones((n, 1), theta.dtype)], axis=1)
            points = matrix.reshape(n, 3, 3) @ basis
            grid = points[:, :2] / points[:, 2:]
        else:
            raise TypeError(f"no translation of {st.transformation!r} into JAX")
        x, y = (grid[:, 0] + 1) * ((w - 1) / 2), (grid[:, 1] + 1) * ((h - 1) / 2)
        return jax.vmap(sample)(u, y, x).reshape(u.shape)

    return forward


def sample(image: Any, y: Any, x: Any) -> Any:
    """One image (C, H, W) at its points, bilinear, zeros outside."""
    return jax.vmap(
        lambda channel: jax.scipy.ndimage.map_coordinates(channel, [y, x], order=1, cval=0.0)
    )(image)


def training(_: str, model: nn.Module, images: np.ndarray, labels: np.ndarray) -> Contestant:
    """A step of SGD: forward, loss, backward, update."""
    network = translate(model)
    x, y = jnp.asarray(images), jnp.asarray(labels)
    state = {"weights": {name: jnp.asarray(a) for name, a in model.state_dict().items()}}

    def loss(weights: Weights) -> Any:
        scores = jax.nn.log_softmax(network(weights, x))
        return -jnp.take_along_axis(scores, y[:, None], axis=1).mean()

    @jax.jit
    def update(weights: Weights) -> Weights:
        gradients = jax.grad(loss)(weights)
        return jax.tree.map(lambda w, g: w - 0.01 * g, weights, gradients)

    def step() -> None:
        state["weights"] = jax.block_until_ready(update(state["weights"]))

    return Contestant(step)


def inference(_: str, model: nn.Module, images: np.ndarray) -> Contestant:
    network = jax.jit(translate(model))
    weights = {name: jnp.asarray(a) for name, a in model.state_dict().items()}
    x = jnp.asarray(images)
    return Contestant(lambda: jax.block_until_ready(network(weights, x)))
