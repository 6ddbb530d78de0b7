"""Convolution, in every stride, padding, dilation and grouping."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minist
import minist.functional as F
from minist import Tensor, gradcheck, tensor
from minist.functional import lowering

# images, filters, options
CASES = {
    "plain": ((2, 3, 5, 4), (4, 3, 3, 2), {}),
    "one pixel": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "one pixel, padded": ((2, 1, 1, 1), (2, 1, 3, 3), {"padding": 1}),
    "empty batch": ((0, 2, 4, 4), (3, 2, 3, 3), {"padding": 1}),
    "the window fills the image": ((2, 2, 4, 3), (2, 2, 4, 3), {}),
    "one by one": ((2, 3, 3, 4), (2, 3, 1, 1), {}),
    "stride": ((2, 2, 7, 6), (2, 2, 3, 2), {"stride": (2, 3)}),
    "stride beyond the kernel": ((2, 2, 7, 8), (2, 2, 2, 1), {"stride": (3, 4)}),
    "stride that leaves a rest": ((1, 1, 6, 8), (1, 1, 3, 3), {"stride": 2}),
    "padding": ((2, 2, 3, 4), (2, 2, 3, 3), {"padding": (2, 1)}),
    "padding beyond the kernel": ((1, 1, 2, 2), (1, 1, 2, 2), {"padding": 3}),
    "dilation": ((2, 2, 7, 6), (2, 2, 3, 2), {"dilation": (2, 3)}),
    "groups": ((2, 4, 4, 4), (6, 2, 3, 3), {"groups": 2}),
    "depthwise": ((2, 3, 4, 4), (6, 1, 2, 2), {"groups": 3}),
    "all at once": (
        (2, 4, 8, 7),
        (4, 2, 3, 2),
        {"stride": (2, 1), "padding": (1, 2), "dilation": (2, 3), "groups": 2},
    ),
    # The next two go by rows of the kernel.
    "a single image of many channels": ((1, 32, 6, 5), (2, 32, 3, 3), {}),
    "the same, all at once": (
        (1, 66, 9, 8),
        (2, 33, 3, 3),
        {"stride": (2, 1), "padding": (2, 1), "dilation": (1, 2), "groups": 2},
    ),
}
every_case = pytest.mark.parametrize(("images", "filters", "options"), CASES.values(), ids=CASES)


def by_definition(x, weight, bias, stride=1, padding=0, dilation=1, groups=1):
    """One output pixel after the other."""
    (sh, sw), (ph, pw), (dh, dw) = (np.broadcast_to(v, 2) for v in (stride, padding, dilation))
    x = np.pad(x, [(0, 0), (0, 0), (ph, ph), (pw, pw)])
    n, _, h, w = x.shape
    f, c, kh, kw = weight.shape
    y = np.zeros((n, f, (h - dh * (kh - 1) - 1) // sh + 1, (w - dw * (kw - 1) - 1) // sw + 1))
    for k, i, j in np.ndindex(y.shape[1:]):
        first = k // (f // groups) * c
        window = x[:, first : first + c, i * sh :: dh, j * sw :: dw][:, :, :kh, :kw]
        y[:, k, i, j] = bias[k] + (window * weight[k]).sum(axis=(1, 2, 3))
    return y


@every_case
def test_value(rng, images, filters, options):
    x, weight, bias = (rng.normal(size=size) for size in (images, filters, filters[0]))
    y = F.conv2d(x, weight, bias, **options).numpy()
    expected = by_definition(x, weight, bias, **options)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12, strict=True)


@every_case
def test_value_by_rows_of_the_kernel(rng, monkeypatch, images, filters, options):
    monkeypatch.setattr(lowering, "goes_by_kernel_rows", lambda geometry: True)
    test_value(rng, images, filters, options)


@pytest.mark.parametrize(
    ("images", "filters", "chosen"),
    [
        (*CASES["a single image of many channels"][:2], True),
        ((1, 48, 17, 17), (48, 48, 7, 7), True),
        ((1, 1, 42, 42), (48, 1, 9, 9), False),  # a product would be nine numbers deep
        ((1, 48, 10, 10), (48, 48, 7, 7), False),  # seven rows of the kernel, four of the output
        ((4, 48, 17, 17), (48, 48, 7, 7), False),
    ],
)
def test_single_images_of_many_channels_go_by_rows_of_the_kernel(
    monkeypatch, images, filters, chosen
):
    taken, plain = [], lowering.Rows.by_kernel_rows
    monkeypatch.setattr(
        lowering.Rows, "by_kernel_rows", lambda way, x: taken.append(way) or plain(way, x)
    )
    F.conv2d(np.zeros(images), np.zeros(filters))
    assert bool(taken) is chosen


@every_case
@pytest.mark.parametrize("bias", [True, False])
def test_gradient(leaf, images, filters, options, bias):
    inputs = [leaf(*images), leaf(*filters)] + [leaf(filters[0])] * bias
    assert gradcheck(lambda *inputs: F.conv2d(*inputs, **options), inputs)


@every_case
@pytest.mark.parametrize("bias", [True, False])
def test_parity_with_torch(assert_same_as_torch, rng, images, filters, options, bias):
    torch = pytest.importorskip("torch")
    arrays = [rng.normal(size=images), rng.normal(size=filters)]
    arrays += [rng.normal(size=filters[0])] * bias
    assert_same_as_torch(
        lambda *inputs: F.conv2d(*inputs, **options),
        lambda *inputs: torch.nn.functional.conv2d(*inputs, **options),
        *arrays,
    )


@pytest.mark.parametrize("name", ["plain", "one by one", "groups", "all at once"])
def test_layout(rng, layout, name):
    images, filters, options = CASES[name]
    arrays = rng.normal(size=images), rng.normal(size=filters), rng.normal(size=filters[0])
    plain = [Tensor(x, requires_grad=True) for x in arrays]
    other = [Tensor(layout(x), requires_grad=True) for x in arrays]
    y, z = F.conv2d(*plain, **options), F.conv2d(*other, **options)
    grad = rng.normal(size=y.shape)
    y.backward(grad)
    z.backward(layout(grad))
    np.testing.assert_allclose(z.numpy(), y.numpy(), rtol=1e-12, atol=1e-14)
    for p, q in zip(plain, other, strict=True):
        np.testing.assert_allclose(q.grad, p.grad, rtol=1e-12, atol=1e-14)


def test_the_batch_stays_innermost_in_memory(leaf):
    x, weight = leaf(4, 2, 5, 5), leaf(3, 2, 3, 3)
    y = F.conv2d(x, weight)
    assert np.moveaxis(y.numpy(), 0, -1).flags.c_contiguous


def test_a_convolution_written_out():
    x = tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    weight = tensor([[[[10.0, 1.0]]]])
    y = F.conv2d(x, weight, tensor([0.5]))
    assert y.numpy().tolist() == [[[[12.5, 23.5], [45.5, 56.5]]]]


def test_the_input_is_left_as_it_was(leaf):
    x, weight = leaf(2, 2, 3, 3), leaf(2, 2, 1, 1)  # whose columns are the image itself
    before = x.data.copy()
    F.conv2d(x, weight, np.ones(2)).sum().backward()
    assert np.array_equal(x.data, before)


@st.composite
def convolutions(draw):
    """Images, filters and options that fit together."""
    side = st.integers(1, 3)
    pair = st.tuples(side, side)
    groups, n = draw(side), draw(st.integers(0, 3))
    options = {
        "stride": draw(pair),
        "padding": draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        "dilation": draw(pair),
        "groups": groups,
    }
    c, f = groups * draw(side), groups * draw(side)
    kernel = draw(pair)
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 3))
        for k, d, p in zip(kernel, options["dilation"], options["padding"], strict=True)
    ]
    return (n, c, *size), (f, c // groups, *kernel), options


@given(case=convolutions(), seed=st.integers(0, 2**32 - 1))
def test_the_backward_is_the_adjoint(case, seed):
    """<A x, y> = <x, A' y>, in the images and in the filters."""
    images, filters, options = case
    rng = np.random.default_rng(seed)
    x, weight = (Tensor(rng.normal(size=size), requires_grad=True) for size in (images, filters))
    Ax = F.conv2d(x, weight, **options)
    y = rng.normal(size=Ax.shape)
    for leaf, gradient in zip((x, weight), minist.grad(Ax, [x, weight], y), strict=True):
        np.testing.assert_allclose(
            (Ax.data * y).sum(), (leaf.data * gradient).sum(), rtol=1e-10, atol=1e-10
        )


def test_only_what_is_wanted(leaf):
    inputs = [leaf(2, 1, 3, 3), leaf(4, 1, 2, 2), leaf(4)]
    for wanted in range(3):
        given = [x if i == wanted else x.detach() for i, x in enumerate(inputs)]
        gradients = F.conv2d(*given).grad_fn.backward(np.ones((2, 4, 2, 2)))
        assert [g is not None for g in gradients] == [i == wanted for i in range(3)]


@pytest.mark.parametrize(
    ("shapes", "options", "words"),
    [
        ([(2, 3, 5, 5), (4, 1, 3, 3)], {}, "images have 3 channels, weight expects 1"),
        (
            [(2, 3, 5, 5), (4, 2, 3, 3)],
            {"groups": 2},
            "images have 3 channels, weight expects 4 in 2 groups",
        ),
        ([(2, 3, 5, 5), (4, 3, 3, 3)], {"groups": 3}, "4 filters cannot be cut into 3 groups"),
        ([(2, 3, 5, 5), (4, 3, 3, 3)], {"groups": 0}, "4 filters cannot be cut into 0 groups"),
        ([(3, 5, 5), (4, 3, 3, 3)], {}, r"expected images \(N, C, H, W\), got 3 axes: \(3, 5, 5\)"),
        ([(2, 3, 5, 5), (4, 3)], {}, r"weight must be \(F, C, kh, kw\), not \(4, 3\)"),
        ([(2, 3, 5, 5), (4, 3, 0, 3)], {}, r"weight must be .*, not \(4, 3, 0, 3\)"),
        ([(2, 3, 5, 5), (4, 3, 3, 3), (3,)], {}, r"bias must be \(4,\), not \(3,\)"),
        (
            [(2, 3, 5, 4), (4, 3, 3, 3)],
            {"dilation": 2, "padding": (1, 0)},
            "a kernel that reaches over 5 pixels does not fit into 4 and padding 0",
        ),
    ],
)
def test_sizes_that_do_not_fit(shapes, options, words):
    with pytest.raises(ValueError, match=f"^Conv2d: {words}"):
        F.conv2d(*[tensor(np.ones(shape)) for shape in shapes], **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("stride", 0), ("stride", 1.5), ("padding", -1), ("padding", "same"), ("dilation", (1, 2, 3))],
)
def test_options_that_are_none(name, value):
    x, weight = tensor(np.ones((1, 1, 3, 3))), tensor(np.ones((1, 1, 2, 2)))
    with pytest.raises(ValueError, match=f"conv2d: {name} must be one or two whole numbers from"):
        F.conv2d(x, weight, **{name: value})


def test_integers_of_numpy_are_options_too():
    x, weight = np.ones((1, 2, 5, 5)), np.ones((2, 1, 3, 3))
    y = F.conv2d(x, weight, stride=np.int64(2), padding=(np.uint8(1), 1), groups=np.int32(2))
    assert y.shape == (1, 2, 3, 3)


@pytest.mark.parametrize("wrap", [np.asarray, tensor])
def test_images_of_bytes_are_refused_with_the_cure(wrap):
    x, weight = wrap(np.ones((1, 1, 3, 3), np.uint8)), tensor(np.ones((1, 1, 2, 2)))
    with pytest.raises(TypeError, match=r"^Conv2d: images must be floating, not uint8: x\.astype"):
        F.conv2d(x, weight)


@pytest.mark.parametrize("kernel", [2, 7])  # on shifted rows, and by the Fourier transform
def test_filters_of_integers_are_refused_with_the_cure(kernel):
    x, weight = np.ones((16, 16, 13, 13)), np.ones((16, 16, kernel, kernel), np.int64)
    with pytest.raises(TypeError, match=r"^Conv2d: weight must be floating, not int64: use astype"):
        F.conv2d(x, weight)
