"""Convolution by the Fourier transform: the same numbers as on shifted rows."""

import numpy as np
import pytest

import minist.functional as F
from minist import Tensor
from minist.functional import fourier, lowering
from minist.functional.convolution import Geometry, quickest


@pytest.mark.parametrize("n", range(1, 10))
def test_one_axis(rng, n):
    """C [(A w) * (B x)] is the correlation of x with w."""
    for k in range(1, n + 1):
        x, w = rng.normal(size=n), rng.normal(size=k)
        A, B, C = fourier.matrices(n, k)
        expected = [(w * x[h : h + k]).sum() for h in range(n - k + 1)]
        np.testing.assert_allclose(C @ ((A @ w) * (B @ x)), expected, rtol=1e-12, atol=1e-12)
        assert len(A) == len(B) == fourier.products(n)


def geometry_of(images, filters):
    n, c, h, w = images
    f, _, kh, kw = filters
    size_out = h - kh + 1, w - kw + 1
    return Geometry(n, c, (h, w), f, (kh, kw), size_out, (1, 1), (1, 1), 1)


SIZES = {
    "the paper's second": ((3, 48, 10, 10), (48, 48, 7, 7)),
    "odd": ((2, 3, 9, 7), (4, 3, 3, 5)),
    "even": ((2, 3, 8, 6), (2, 3, 2, 4)),
    "the window fills the image": ((2, 2, 5, 4), (3, 2, 5, 4)),
    "one pixel": ((1, 2, 1, 1), (2, 2, 1, 1)),
    "empty batch": ((0, 2, 4, 4), (3, 2, 3, 3)),
}


@pytest.mark.parametrize(("images", "filters"), SIZES.values(), ids=SIZES)
def test_both_ways_give_the_same(rng, images, filters):
    geometry = geometry_of(images, filters)
    x, weight = rng.normal(size=(*images[1:], images[0])), rng.normal(size=filters)
    grad = rng.normal(size=(filters[0], *geometry.size_out, images[0]))
    results = []
    for way in (lowering.Rows, fourier.Fourier):
        way = way(geometry, weight, (True, True))
        results.append((way.forward(x), *way.backward(grad)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-11, atol=1e-11, strict=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 5e-6)])
@pytest.mark.parametrize("padding", [0, 3])
def test_parity_with_torch(rng, padding, dtype, tolerance):
    """To a tolerance in units of the largest number, since the transform mixes all of an image."""
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    images, filters = (16, 12, 13, 14), (16, 12, 7, 7)
    padded = (16, 12, 13 + 2 * padding, 14 + 2 * padding)
    assert quickest(geometry_of(padded, filters)) is fourier.Fourier
    arrays = [rng.normal(size=size).astype(dtype) for size in (images, filters, 16)]
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = F.conv2d(*ours, padding=padding)
    z = torch.nn.functional.conv2d(*theirs, padding=padding)
    grad = rng.normal(size=y.shape).astype(dtype)
    y.backward(grad)
    z.backward(torch.tensor(grad))
    pairs = [(y.numpy(), z.detach().numpy())]
    pairs += [(p.grad, q.grad.numpy()) for p, q in zip(ours, theirs, strict=True)]
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * abs(other).max())


@pytest.mark.parametrize("types", [("f8", "f4"), ("f4", "f8"), ("f4", "f2"), ("f2", "f4")])
def test_mixed_precisions_meet_in_the_wider_one(rng, types):
    sizes = (16, 12, 13, 14), (16, 12, 7, 7)
    arrays = [rng.normal(size=size).astype(dtype) for size, dtype in zip(sizes, types, strict=True)]
    assert quickest(geometry_of(*sizes)) is fourier.Fourier
    wider = np.result_type(*types)
    mixed, wide = (
        [Tensor(a, requires_grad=True) for a in given]
        for given in (arrays, [a.astype(wider) for a in arrays])
    )
    y, z = F.conv2d(*mixed), F.conv2d(*wide)
    np.testing.assert_array_equal(y.numpy(), z.numpy(), strict=True)
    y.backward(np.ones(y.shape))
    z.backward(np.ones(y.shape))
    for p, q in zip(mixed, wide, strict=True):
        np.testing.assert_array_equal(p.grad, q.grad.astype(p.dtype), strict=True)


def test_a_pixel_that_is_no_number_is_felt_in_its_image_alone(rng):
    sizes = (16, 16, 13, 13), (16, 16, 7, 7)
    x, weight = (rng.normal(size=size) for size in sizes)
    assert quickest(geometry_of(*sizes)) is fourier.Fourier
    x[0, 0, 0, 0] = np.nan
    y = F.conv2d(x, weight).numpy()
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1:]).all()


@pytest.mark.parametrize(
    ("images", "filters", "way"),
    [
        ((64, 48, 17, 17), (48, 48, 7, 7), fourier.Fourier),
        ((8, 48, 17, 17), (48, 48, 7, 7), fourier.Fourier),
        ((4, 48, 17, 17), (48, 48, 7, 7), lowering.Rows),  # too few to share the kernel's transform
        ((64, 1, 42, 42), (48, 1, 9, 9), lowering.Rows),
        ((64, 32, 28, 28), (32, 32, 3, 3), lowering.Rows),
        ((64, 8, 84, 84), (8, 8, 9, 9), fourier.Fourier),  # fewer multiplications on rows
        ((8, 32, 124, 124), (32, 32, 7, 7), fourier.Fourier),  # saves less than a third of them
        ((1, 64, 84, 84), (64, 64, 9, 9), lowering.Rows),  # half as many by Fourier
        ((16, 20, 8, 8), (20, 20, 5, 5), lowering.Rows),  # by Fourier 0.7 times as many
        ((0, 48, 17, 17), (48, 48, 7, 7), lowering.Rows),  # nothing to divide by
    ],
)
def test_multiplications_and_memory_decide(images, filters, way):
    assert quickest(geometry_of(images, filters)) is way


@pytest.mark.parametrize("option", [{"stride": (2, 1)}, {"dilation": (1, 2)}, {"groups": 2}])
def test_a_stride_a_dilation_and_groups_are_work_for_rows(option):
    plain = geometry_of((64, 48, 17, 17), (48, 48, 7, 7))
    assert quickest(plain._replace(**option)) is lowering.Rows


def test_layout(rng, layout):
    x, weight = rng.normal(size=(16, 16, 13, 13)), rng.normal(size=(16, 16, 7, 7))
    assert quickest(geometry_of(x.shape, weight.shape)) is fourier.Fourier
    plain = [Tensor(a, requires_grad=True) for a in (x, weight)]
    other = [Tensor(layout(a), requires_grad=True) for a in (x, weight)]
    y, z = F.conv2d(*plain), F.conv2d(*other)
    grad = rng.normal(size=y.shape)
    y.backward(grad)
    z.backward(layout(grad))
    assert np.moveaxis(z.numpy(), 0, -1).flags.c_contiguous
    np.testing.assert_allclose(z.numpy(), y.numpy(), rtol=1e-11, atol=1e-11)
    for p, q in zip(plain, other, strict=True):
        np.testing.assert_allclose(q.grad, p.grad, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("way", [lowering.Rows, fourier.Fourier])
def test_only_what_is_wanted(rng, way):
    geometry = geometry_of((2, 3, 5, 5), (4, 3, 3, 3))
    for wanted in [(True, False), (False, True)]:
        made = way(geometry, rng.normal(size=(4, 3, 3, 3)), wanted)
        made.forward(rng.normal(size=(3, 5, 5, 2)))
        gradients = made.backward(rng.normal(size=(4, 3, 3, 2)))
        assert [g is not None for g in gradients] == list(wanted)
