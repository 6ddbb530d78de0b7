"""IDX files are read exactly or refused in words; MNIST is in the package, other data beside it."""

import gzip
import shutil

import numpy as np
import pytest

from minist.datasets import MNIST, mnist, read_idx

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx(array, element_type=0x08):
    header = bytes([0, 0, element_type, array.ndim])
    return header + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write(folder, images, labels, part="train", suffix="", encode=bytes):
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        path = folder / f"{part}-{kind}-ubyte{suffix}"
        path.write_bytes(encode(idx(np.asarray(array, np.uint8))))
    return folder


@pytest.fixture
def no_environment(monkeypatch):
    monkeypatch.delenv("MINIST_DATA", raising=False)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 3, 4), (2, 0, 4), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_what_is_written_is_read(tmp_path, shape, encode):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "file"
    path.write_bytes(encode(idx(array)))
    read = read_idx(path)
    assert read.dtype == np.uint8
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array, strict=True)


@pytest.mark.parametrize("name", ["digits.gz", "digits"])
@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_the_content_and_not_the_name_says_whether_a_file_is_gzipped(tmp_path, name, encode):
    path = tmp_path / name
    path.write_bytes(encode(idx(ARRAY)))
    np.testing.assert_array_equal(read_idx(str(path)), ARRAY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file: .* found nothing"),
        (b"\0\0\x08", "not an IDX file: .* found 00 00 08"),
        (b"\x89PNG\r\n", "not an IDX file: .* found 89 50 4e 47"),
        (idx(ARRAY, element_type=0x0D), "expected unsigned bytes, type 0x08, found type 0x0d"),
        (idx(ARRAY)[:10], "expected a header of 16 bytes, found 10"),
        (idx(ARRAY)[:-1], r"expected 40 bytes for shape \(2, 3, 4\), found 39"),
        (idx(ARRAY) + b"\0", r"expected 40 bytes for shape \(2, 3, 4\), found 41"),
        (b"\0\0\x08\x03" + b"\xff" * 12, r"expected \d{29} bytes for shape .* found 16"),
        (b"\0\0\x08\xff" + b"\0" * 1020, "dimension"),
    ],
    ids=[
        "empty",
        "three-bytes",
        "png",
        "floats",
        "cut-in-header",
        "truncated",
        "oversized",
        "astronomical",
        "255-dimensions",
    ],
)
@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_a_wrong_file_is_refused_by_name_and_numbers(tmp_path, content, message, encode):
    path = tmp_path / "wrong-file"
    path.write_bytes(encode(content))
    with pytest.raises(ValueError, match=f"wrong-file: .*{message}"):
        read_idx(path)


def _flip(data, position):
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:5],
        lambda data: data[:-20],
        lambda data: data[:-1],
        lambda data: _flip(data, 2),
        lambda data: _flip(data, 10),
        lambda data: _flip(data, len(data) - 8),
        lambda data: data + b"more",
    ],
    ids=["header-cut", "cut", "last-byte-cut", "method", "stream", "checksum", "trailing-bytes"],
)
def test_a_damaged_gzip_file_is_refused(tmp_path, damage):
    path = tmp_path / "damaged.gz"
    path.write_bytes(damage(gzip.compress(idx(ARRAY))))
    with pytest.raises(ValueError, match=r"damaged\.gz: damaged gzip file of \d+ bytes: "):
        read_idx(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent: no such file; expected an IDX file"):
        read_idx(tmp_path / "absent")


@pytest.mark.parametrize(
    ("train", "counts"),
    [
        (True, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        (False, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    ],
    ids=["train", "test"],
)
def test_mnist_is_in_the_package(no_environment, train, counts):
    data = MNIST(train=train)
    assert len(data) == sum(counts)
    assert data.images.shape == (len(data), 1, 28, 28)
    assert data.images.dtype == np.uint8
    assert data.labels.dtype == np.int64
    assert np.bincount(data.labels).tolist() == counts


def test_a_changed_file_in_the_package_is_refused(no_environment, tmp_path, monkeypatch):
    folder = shutil.copytree(mnist.PACKAGED, tmp_path / "mnist")
    monkeypatch.setattr(mnist, "PACKAGED", folder)
    assert len(MNIST(train=False)) == 10_000
    path = folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0"))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz: .*changed: .*SHA-256"):
        MNIST(train=False)


@pytest.mark.parametrize(
    ("suffix", "encode"), [("", bytes), (".gz", gzip.compress)], ids=["plain", "gzipped"]
)
def test_root_holds_other_images_of_any_size_and_any_labels(tmp_path, suffix, encode):
    write(tmp_path, ARRAY, [0, 200], "train", suffix, encode)
    write(tmp_path, ARRAY[:1], [7], "t10k", suffix, encode)
    data = MNIST(root=tmp_path)
    np.testing.assert_array_equal(data.images, ARRAY[:, np.newaxis])
    assert data.labels.tolist() == [0, 200]
    assert len(MNIST(train=False, root=str(tmp_path))) == 1


def test_minist_data_names_a_folder_and_root_goes_before_it(tmp_path, monkeypatch):
    (tmp_path / "environment").mkdir()
    (tmp_path / "root").mkdir()
    monkeypatch.setenv("MINIST_DATA", str(write(tmp_path / "environment", ARRAY, [1, 2])))
    assert MNIST().labels.tolist() == [1, 2]
    assert MNIST(root=write(tmp_path / "root", ARRAY, [3, 4])).labels.tolist() == [3, 4]


@pytest.mark.parametrize("first", ["/my/fashion-mnist", "test", 0, None])
def test_a_folder_in_the_place_of_train_is_refused(first):
    """PyTorch's MNIST has root first, and a string would count as True."""
    with pytest.raises(TypeError, match=r"train must be True or False, not .* MNIST\(root=folder"):
        MNIST(first)


def test_an_empty_minist_data_means_the_package(monkeypatch):
    monkeypatch.setenv("MINIST_DATA", "")
    assert len(MNIST(train=False)) == 10_000


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_a_folder_without_the_files_is_named_with_what_was_looked_for(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    names = "found neither t10k-images-idx3-ubyte nor t10k-images-idx3-ubyte.gz"
    with pytest.raises(FileNotFoundError, match=f"{folder}: {names}"):
        MNIST(train=False, root=tmp_path / folder)


def test_images_and_labels_of_unequal_number_are_refused(tmp_path):
    write(tmp_path, ARRAY, [1, 2, 3])
    with pytest.raises(ValueError, match="found 2 images and 3 labels in the train files"):
        MNIST(root=tmp_path)


def test_labels_in_the_place_of_images_are_refused(tmp_path):
    write(tmp_path, [1, 2], [1, 2])
    with pytest.raises(ValueError, match=r"images-idx3-ubyte: .* \(N, H, W\), found \(2,\)"):
        MNIST(root=tmp_path)


def test_images_in_the_place_of_labels_are_refused(tmp_path):
    write(tmp_path, ARRAY, ARRAY)
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte: .* \(N\), found \(2, 3, 4\)"):
        MNIST(root=tmp_path)
