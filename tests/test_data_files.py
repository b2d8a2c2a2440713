"""MNIST in the package, and folders of IDX files: whole ones are read, damaged ones are refused with a reason."""

import gzip
import hashlib
import lzma
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tinygrad_cnn import data
from tinygrad_cnn.data import digits
from tinygrad_cnn.errors import DataError, OptionError


def idx(values, magic=None, sizes=None):
    kinds = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}
    head = struct.pack(">I", kinds[values.dtype.name] << 8 | values.ndim) if magic is None else magic
    return (
        head
        + struct.pack(f">{values.ndim}I", *(sizes or values.shape))
        + values.astype(values.dtype.newbyteorder(">")).tobytes()
    )


@pytest.fixture
def folder(tmp_path):
    """A small data set in MNIST's form; `folder.write(stem, bytes)` replaces one of its files."""
    rng = np.random.default_rng(0)

    class Folder:
        path = tmp_path
        train = rng.integers(0, 256, (6, 5, 4), dtype=np.uint8)
        test = rng.integers(0, 256, (3, 5, 4), dtype=np.uint8)

        def write(self, name, content):
            (tmp_path / name).write_bytes(content)

    made = Folder()
    made.write("train-images-idx3-ubyte", idx(made.train))
    made.write("train-labels-idx1-ubyte", idx(np.arange(6, dtype=np.uint8)))
    made.write("t10k-images-idx3-ubyte.gz", gzip.compress(idx(made.test)))
    made.write("t10k-labels-idx1-ubyte.gz", gzip.compress(idx(np.arange(3, dtype=np.uint8))))
    return made


def test_mnist_in_the_package_is_the_original_byte_for_byte():
    train, test = data.mnist()
    assert (train.images.shape, test.images.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    head = struct.pack(">IIII", 0x803, 60000, 28, 28)
    assert hashlib.sha256(head + train.images.tobytes()).hexdigest() == digits._SHA256["train-images-idx3-ubyte"]
    head = struct.pack(">II", 0x801, 10000)
    labels = test.labels.astype(np.uint8).tobytes()
    assert hashlib.sha256(head + labels).hexdigest() == digits._SHA256["t10k-labels-idx1-ubyte"]
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_the_licence_and_the_digests_stand_beside_the_data():
    text = (Path(digits.__file__).parent / "files" / "MNIST.txt").read_text()
    assert "Creative Commons Attribution-Share Alike 3.0" in text
    assert all(f"{digest}  {name}" in text for name, digest in digits._SHA256.items())


def test_the_digits_are_decoded_once_and_cannot_be_written_to():
    first, second = data.mnist(), data.mnist(normalise="centred")
    assert first.train.images is second.train.images
    with pytest.raises(ValueError, match="read-only"):
        first.test.images[0] = 0


@pytest.mark.parametrize("damage", ["flipped bit", "cut off", "missing", "other data"])
def test_a_damaged_file_of_the_package_says_install_again(damage, tmp_path, monkeypatch):
    for file in digits._FILES.iterdir():
        if file.name.endswith("labels-idx1-ubyte.xz") or file.name.startswith("t10k"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    # The training images are big; a small stand-in with its own digest keeps this quick.
    small = idx(np.zeros((2, 28, 28), np.uint8))
    (tmp_path / "train-images-idx3-ubyte.xz").write_bytes(lzma.compress(small))
    digests = {**digits._SHA256, "train-images-idx3-ubyte": hashlib.sha256(small).hexdigest()}
    victim = tmp_path / "t10k-images-idx3-ubyte.xz"
    content = bytearray(victim.read_bytes())
    if damage == "flipped bit":
        content[700_000] ^= 4
    elif damage == "cut off":
        del content[1_000_000:]
    elif damage == "other data":
        content = bytearray(lzma.compress(idx(np.zeros((10000, 28, 28), np.uint8))))
    victim.write_bytes(content)
    if damage == "missing":
        victim.unlink()
    monkeypatch.setattr(digits, "_FILES", tmp_path)
    monkeypatch.setattr(digits, "_SHA256", digests)
    monkeypatch.setattr(digits, "_packaged", digits._packaged.__wrapped__)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.* install .*again"):
        data.mnist()


def test_a_folder_of_plain_and_gzip_files_is_read(folder):
    train, test = data.mnist(folder.path, normalise=None)
    assert np.array_equal(train.images[:, 0], folder.train)
    assert np.array_equal(test.take(slice(0, 3))[0][:, 0], folder.test)
    assert test.labels.tolist() == [0, 1, 2]
    assert train.classes == 10


def test_of_a_plain_and_a_compressed_copy_the_plain_one_is_read(folder):
    folder.write("train-images-idx3-ubyte.gz", b"never looked at")
    assert np.array_equal(data.mnist(folder.path).train.images[:, 0], folder.train)


def test_names_with_a_dot_and_a_test_prefix_are_known_too(folder):
    (folder.path / "train-images-idx3-ubyte").rename(folder.path / "train-images.idx3-ubyte")
    (folder.path / "t10k-images-idx3-ubyte.gz").rename(folder.path / "test-images-idx3-ubyte.gz")
    assert len(data.mnist(folder.path).test) == 3


def test_emnist_images_are_turned_upright_and_its_parts_are_chosen_by_name(tmp_path):
    images = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for part, label in (("letters", 26), ("balanced", 46)):
        for split in ("train", "test"):
            (tmp_path / f"emnist-{part}-{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
            labels = gzip.compress(idx(np.array([1, label], np.uint8)))
            (tmp_path / f"emnist-{part}-{split}-labels-idx1-ubyte.gz").write_bytes(labels)
    with pytest.raises(DataError, match="several data sets: emnist-balanced, emnist-letters; choose one with name="):
        data.mnist(tmp_path)
    train, _ = data.mnist(tmp_path, name="emnist-letters")
    assert np.array_equal(train.images[:, 0], images.swapaxes(1, 2))
    assert train.classes == 27
    with pytest.raises(DataError, match="no data set 'emnist-digits'"):
        data.mnist(tmp_path, name="emnist-digits")


GOOD = np.zeros((6, 5, 4), np.uint8)
DAMAGES = {
    "empty": (b"", "0 bytes are no IDX file"),
    "header cut off": (idx(GOOD)[:10], "header is cut off after 10 bytes"),
    "truncated": (idx(GOOD)[:-1], r"announces 6 x 5 x 4 values \(120 bytes\), but the file has only 135"),
    "too long": (idx(GOOD) + b"\0", "more than that follows"),
    "wrong magic": (b"\x89PNG" + idx(GOOD)[4:], "0x89504e47, which is not the magic number"),
    "unknown type": (b"\0\0\x0a\x03" + idx(GOOD)[4:], "not the magic number"),
    "labels for images": (idx(np.zeros(6, np.uint8)), "array of 1 axes of uint8; images have 3 axes"),
    "floats for bytes": (idx(GOOD.astype(np.float32)), "axes of float32"),
    "gigantic": (idx(GOOD, sizes=(2**32 - 1,) * 3), "the file has only 136 bytes"),
    "wrong count": (idx(GOOD[:5]), r"holds 5 images, but .* 6 labels; the files do not belong together"),
    "none at all": (idx(GOOD[:0]), r"holds no images: its sizes are \(0, 5, 4\)"),
    "other size": (idx(np.zeros((6, 7, 4), np.uint8)), "training images are 7 x 4 pixels, test images 5 x 4"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_file_of_images_is_refused_with_the_reason(folder, damage, suffix):
    content, message = DAMAGES[damage]
    (folder.path / "train-images-idx3-ubyte").unlink()
    folder.write(f"train-images-idx3-ubyte{suffix}", gzip.compress(content) if suffix else content)
    if suffix and damage == "truncated":
        message = "only 119 bytes follow; the file is cut off"
    if suffix and damage == "gigantic":
        message = r"but the file has only \d+ bytes"
    with pytest.raises(DataError, match=message) as caught:
        data.mnist(folder.path)
    if damage != "other size":
        assert "train-images" in str(caught.value)


@pytest.mark.parametrize("damage", ["cut off", "flipped bit", "no gzip"])
def test_damaged_gzip_data_are_refused(folder, damage):
    path = folder.path / "t10k-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    if damage == "cut off":
        del content[-20:]
    elif damage == "flipped bit":
        content[-6] ^= 1  # the checksum
    else:
        content[:2] = b"PK"
    path.write_bytes(content)
    with pytest.raises(DataError, match="the compressed data are damaged or cut off"):
        data.mnist(folder.path)


def test_a_gigantic_header_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "big.gz"
    path.write_bytes(gzip.compress(idx(GOOD, sizes=(60_000, 28_000, 28_000))))
    tracemalloc.start()
    with pytest.raises(DataError, match="announces 60000 x 28000 x 28000 values"):
        data.read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_file_above_the_limit_is_refused_and_the_limit_can_be_raised(tmp_path):
    path = tmp_path / "values.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((64, 64), np.uint8))))
    with pytest.raises(DataError, match="more than the limit of 4,095; raise it with max_bytes"):
        data.read_idx(path, max_bytes=4095)
    assert data.read_idx(path, max_bytes=4096).shape == (64, 64)


def test_a_label_out_of_range_is_named(folder):
    folder.write("train-labels-idx1-ubyte", idx(np.array([0, 1, 9, 10, 2, 3], np.uint8)))
    with pytest.raises(DataError, match="label 10 of train image 3 is out of range: 10 classes are 0 to 9"):
        data.mnist(folder.path)
    assert data.mnist(folder.path, classes=11).train.classes == 11


def test_a_missing_file_or_folder_is_named(folder, tmp_path):
    (folder.path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="no file with the labels of the test set"):
        data.mnist(folder.path)
    with pytest.raises(DataError, match="there is no folder"):
        data.mnist(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is not a folder"):
        data.mnist(folder.path / "train-labels-idx1-ubyte")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no IDX files; expected are train-images-idx3-ubyte"):
        data.mnist(tmp_path / "empty")
    with pytest.raises(DataError, match="cannot be read"):
        data.read_idx(tmp_path / "nothing")
    with pytest.raises(OptionError, match="give the folder as root"):
        data.mnist(name="emnist-letters")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
def test_every_type_of_idx_is_read_in_native_byte_order(tmp_path, dtype):
    values = np.arange(-3 if dtype != "uint8" else 0, 9).astype(dtype).reshape(3, -1)
    (tmp_path / "values").write_bytes(idx(values))
    read = data.read_idx(tmp_path / "values")
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    assert np.array_equal(read, values)


def test_normalisations_have_the_ranges_they_promise():
    def first(choice):
        return data.mnist(normalise=choice).train.take(slice(0, 1000))[0]

    unit = first("unit")
    assert np.array_equal(unit, first(None) / np.float32(255))
    assert (first("centred").min(), first("centred").max()) == (-1, 1)
    assert np.allclose([first("lecun").min(), first("lecun").max()], [-0.1, 1.175], atol=1e-6)
    whole = data.mnist(normalise="standard").train.take(slice(None))[0]
    assert abs(float(whole.mean(dtype=np.float64))) < 1e-5
    assert abs(float(whole.std(dtype=np.float64)) - 1) < 1e-5
    assert all(first(c).dtype == np.float32 for c in ("unit", "centred", "lecun", "standard"))
    assert first(lambda x: x[:, :, ::2]).shape == (1000, 1, 14, 28)
    with pytest.raises(OptionError, match="'imagenet' is not known; choose one of 'unit'"):
        first("imagenet")
