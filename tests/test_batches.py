"""Batches: every image once an epoch, distorted anew, the same from wherever one enters."""

import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from minist.datasets.batches import Images, batches, distorted, in_turn, prefetch, split
from minist.datasets.distortions import DISTORTIONS, distort

KINDS = [None, *DISTORTIONS]


@pytest.fixture
def data(rng):
    """11 images of bytes, each labelled with its number, which stands in its first pixel."""
    images = rng.integers(0, 256, (11, 1, 28, 28), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(11)
    return Images(images, np.arange(11))


def assert_equal(some, others):
    for (images, labels), (other_images, other_labels) in zip(some, others, strict=True):
        assert np.array_equal(images, other_images)
        assert np.array_equal(labels, other_labels)


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("minist-batches")]


# --- held out, and fixed sets -------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [0, 1, 4, 10])
def test_split(data, held_out):
    train, rest = split(data, held_out)
    assert train.labels.tolist() == list(range(11 - held_out))
    assert rest.labels.tolist() == list(range(11 - held_out, 11))
    for part in (train, rest):
        assert part.images[:, 0, 0, 0].tolist() == part.labels.tolist()


@pytest.mark.parametrize("held_out", [-1, 11, 12])
def test_split_leaves_something_to_train_on(data, held_out):
    with pytest.raises(ValueError, match=f"cannot hold {held_out} of 11"):
        split(data, held_out)


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_a_distorted_set_is_its_seed(data, kind):
    first, again, other = (distorted(data, kind, seed) for seed in ([1, 2], [1, 2], [1, 3]))
    assert_equal([first], [again])
    assert not np.array_equal(first.images, other.images)
    assert np.array_equal(other.labels, data.labels)
    assert np.array_equal(first.images, distort(data.images, kind, np.random.default_rng([1, 2])))


def test_an_undistorted_set_is_only_converted(data):
    images, labels = distorted(data, None, 0)
    assert images.dtype == np.float32
    assert np.array_equal(images, data.images.astype(np.float32) / np.float32(255))
    assert np.array_equal(labels, data.labels)


# --- an epoch -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, [1] * 11), (4, [4, 4, 3]), (11, [11]), (20, [11])]
)
def test_every_image_once_with_its_label(data, batch_size, sizes):
    epoch = list(batches(data, batch_size))
    assert [len(batch.labels) for batch in epoch] == sizes
    labels = np.concatenate([batch.labels for batch in epoch])
    assert sorted(labels) == list(range(11))
    images = np.concatenate([batch.images for batch in epoch])
    assert np.array_equal(np.rint(images * 255), data.images[labels])


def test_each_epoch_and_seed_has_an_order_of_its_own(data):
    orders = [
        tuple(next(batches(data, 11, seed=seed, epoch=epoch)).labels)
        for seed, epoch in itertools.product(range(3), range(3))
    ]
    assert len({*orders, tuple(range(11))}) == 10


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_an_epoch_distorts_anew(data, kind):
    def by_label(epoch):
        images, labels = next(batches(data, 11, kind, epoch=epoch))
        return images[np.argsort(labels)]

    before, after = by_label(0), by_label(1)
    assert all(not np.array_equal(*pair) for pair in zip(before, after, strict=True))


def test_no_batch_is_distorted_like_another(data):
    same = Images(np.repeat(data.images[:1], 6, axis=0), data.labels[:6])
    seen = {
        image.tobytes()
        for seed, epoch in itertools.product(range(2), range(2))
        for batch in batches(same, 2, "R", seed, epoch)
        for image in batch.images
    }
    assert len(seen) == 24


@pytest.mark.parametrize("kind", [None, "R", "TC"])
@pytest.mark.parametrize("first", range(5))
def test_an_epoch_can_be_entered_at_any_batch(data, kind, first):
    whole = list(batches(data, 3, kind, seed=5, epoch=2))
    assert len(whole) == 4
    assert_equal(batches(data, 3, kind, seed=5, epoch=2, first=first), whole[first:])


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_float32_in_0_to_1_with_the_batch_innermost(data, kind):
    for images, _ in batches(data, 4, kind):
        assert images.dtype == np.float32
        assert images.min() >= 0 and 0.5 < images.max() <= 1
        assert np.moveaxis(images, 0, -1).flags.c_contiguous


@pytest.mark.parametrize("kind", [None, "RTS"])
def test_bytes_and_fractions_are_the_same_images(data, kind):
    fractions = Images(data.images.astype(np.float32) / np.float32(255), data.labels)
    assert_equal(batches(data, 4, kind), batches(fractions, 4, kind))


def test_the_data_is_left_alone(data):
    images = data.images.astype(np.float32) / 255
    before = images.copy()
    for batch in batches(Images(images, data.labels), 4):
        batch.images[...] = -1
    assert np.array_equal(images, before)


def test_anything_with_images_and_labels_will_do(data):
    other = SimpleNamespace(images=data.images, labels=data.labels)
    assert_equal(batches(other, 4, "R"), batches(data, 4, "R"))


def test_no_images_are_no_batches(data):
    assert list(batches(Images(data.images[:0], data.labels[:0]), 4)) == []


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused_at_once(data, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be 1 or more, not {batch_size}"):
        batches(data, batch_size)


# --- the thread ---------------------------------------------------------------------------------


def test_batches_are_made_in_a_thread_which_ends_with_them(data):
    makers = []

    def make():
        for i in range(4):
            makers.append(threading.current_thread())
            yield i

    assert list(prefetch(make())) == [0, 1, 2, 3]
    assert len(set(makers)) == 1 and makers[0] is not threading.current_thread()
    assert not makers[0].is_alive()


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_it_runs_ahead_so_far_and_no_further(ahead):
    made = []
    taken = prefetch((made.append(i) or i for i in range(20)), ahead)
    for i in range(10):
        assert next(taken) == i
        assert len(made) <= i + 1 + ahead
    taken.close()
    assert len(made) <= 10 + ahead


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_the_next_are_made_while_the_present_one_is_used(ahead):
    far_enough = threading.Event()

    def make():
        for i in range(20):
            if i == ahead:
                far_enough.set()
            yield i

    items = prefetch(make(), ahead)
    assert next(items) == 0
    assert far_enough.wait(timeout=60)
    items.close()


@pytest.mark.parametrize("good", [0, 1, 3])
def test_an_error_in_the_thread_comes_out_after_what_was_good(good):
    def make():
        yield from range(good)
        raise RuntimeError("a broken image")

    items = prefetch(make())
    assert [next(items) for _ in range(good)] == list(range(good))
    with pytest.raises(RuntimeError, match="a broken image"):
        next(items)
    assert not threads()


def test_what_distort_refuses_comes_out_of_batches(data):
    with pytest.raises(ValueError, match="images must be"):
        next(batches(Images(data.images[:, 0], data.labels), 4, "R"))
    assert not threads()


def test_what_cannot_go_well_is_refused_at_once(data):
    with pytest.raises(ValueError, match=r"distortion must be one of R, .* a function, not 'Z'"):
        batches(data, 4, "Z")
    with pytest.raises(ValueError, match="11 images but 10 labels"):
        batches(Images(data.images, data.labels[:-1]), 4)


def test_a_plain_pair_is_images_and_labels(data):
    assert_equal(batches(data, 4, "R"), batches((data.images, data.labels), 4, "R"))


@pytest.mark.parametrize("taken", [1, 2])
def test_leaving_early_ends_the_thread(data, taken):
    items = batches(data, 1, "R")
    for _ in range(taken):
        next(items)
    assert threads()
    items.close()
    assert not threads()


def test_a_loop_that_breaks_or_fails_ends_the_thread(data):
    for _ in batches(data, 1):
        break
    assert not threads()
    try:
        for _ in batches(data, 1):
            raise KeyError
    except KeyError:
        pass
    assert not threads()


def test_examples_of_ones_own_are_made_of_digits_and_a_generator(data):
    def pairs(digits, rng):
        other = rng.permutation(len(digits.labels))
        images = np.concatenate([digits.images, digits.images[other]], axis=1)
        return Images(images, digits.labels + digits.labels[other])

    first, again = (list(batches(data, 4, pairs, seed=3)) for _ in range(2))
    for (images, labels), (same, _) in zip(first, again, strict=True):
        assert images.shape[1] == 2 and images.dtype == data.images.dtype
        assert len(images) == len(labels)
        np.testing.assert_array_equal(images, same)
    (half, rest) = in_turn(data, pairs, seed=0, at_once=-(-len(data.labels) // 2))
    np.testing.assert_array_equal(np.concatenate([half.images, rest.images])[:, :1], data.images)
