"""Convolution on shifted rows: a product for each row of the output, or for each of the kernel."""

import numpy as np
import pytest

import minist.functional as F
from minist import Tensor
from minist.functional import lowering
from minist.functional.convolution import Geometry, output_size
from minist.functional.lowering import Rows, goes_by_kernel_rows


def geometry_of(images, filters, stride=(1, 1), dilation=(1, 1), groups=1):
    n, c, *size_in = images
    f, _, *kernel = filters
    sizes = zip(size_in, kernel, stride, (0, 0), dilation, strict=True)
    size_out = tuple(output_size(*of_axis) for of_axis in sizes)
    return Geometry(n, c, tuple(size_in), f, tuple(kernel), size_out, stride, dilation, groups)


CASES = {
    "plain": ((2, 3, 9, 7), (4, 3, 3, 5), {}),
    "empty batch": ((0, 3, 9, 7), (4, 3, 3, 5), {}),
    "one pixel": ((1, 2, 1, 1), (3, 2, 1, 1), {}),
    "one channel": ((1, 1, 5, 4), (1, 1, 2, 3), {}),
    "the window fills the image": ((2, 2, 5, 4), (3, 2, 5, 4), {}),
    "stride": ((2, 3, 9, 8), (4, 3, 3, 2), {"stride": (2, 3)}),
    "stride beyond the kernel": ((1, 2, 9, 9), (2, 2, 2, 2), {"stride": (3, 4)}),
    "dilation": ((2, 3, 9, 8), (4, 3, 3, 2), {"dilation": (3, 2)}),
    "groups": ((2, 6, 5, 6), (4, 3, 3, 2), {"groups": 2}),
    "all at once": (
        (2, 6, 11, 12),
        (4, 3, 3, 2),
        {"stride": (2, 1), "dilation": (2, 3), "groups": 2},
    ),
}


@pytest.mark.parametrize(("images", "filters", "options"), CASES.values(), ids=CASES)
def test_both_orders_give_the_same(rng, monkeypatch, images, filters, options):
    geometry = geometry_of(images, filters, **options)
    x, weight = rng.normal(size=(*images[1:], images[0])), rng.normal(size=filters)
    grad = rng.normal(size=(filters[0], *geometry.size_out, images[0]))
    results = []
    for narrow in (False, True):
        monkeypatch.setattr(lowering, "goes_by_kernel_rows", lambda g, narrow=narrow: narrow)
        way = Rows(geometry, weight, (True, True))
        alone = Rows(geometry, weight, (False, False))
        results.append((way.forward(x), *way.backward(grad), alone.forward(x)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-11, atol=1e-11, strict=True)


@pytest.mark.parametrize(
    ("images", "filters", "narrow"),
    [
        ((1, 48, 17, 17), (48, 48, 7, 7), True),
        ((1, 32, 28, 28), (32, 32, 3, 3), True),
        ((1, 1, 42, 42), (48, 1, 9, 9), False),  # a product would be nine numbers deep
        ((1, 48, 10, 10), (48, 48, 7, 7), False),  # seven rows of the kernel, four of the output
        ((4, 48, 17, 17), (48, 48, 7, 7), False),
    ],
)
def test_a_single_image_of_many_channels_is_taken_by_rows_of_the_kernel(images, filters, narrow):
    assert goes_by_kernel_rows(geometry_of(images, filters)) is narrow


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": (2, 3), "padding": (1, 0)}, {"dilation": (2, 1), "groups": 2}],
    ids=["plain", "stride", "dilation and groups"],
)
def test_a_single_image_beside_torch(rng, options, dtype, tolerance):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    images, filters = (1, 66, 12, 11), (6, 66 // options.get("groups", 1), 3, 3)
    arrays = [rng.normal(size=size).astype(dtype) for size in (images, filters, 6)]
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = F.conv2d(*ours, **options), torch.nn.functional.conv2d(*theirs, **options)
    assert goes_by_kernel_rows(y.grad_fn.way.geometry)
    grad = rng.normal(size=y.shape).astype(dtype)
    y.backward(grad)
    z.backward(torch.tensor(grad))
    pairs = [(y.numpy(), z.detach().numpy())]
    pairs += [(p.grad, q.grad.numpy()) for p, q in zip(ours, theirs, strict=True)]
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * abs(other).max())
