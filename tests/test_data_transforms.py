"""Transforms: the type and the input stay, one seed gives one result, and each does to a picture what its name says."""

import numpy as np
import pytest

from tinygrad_cnn.data import transforms as t
from tinygrad_cnn.errors import DTypeError, OptionError, ShapeError

EVERY = [
    t.Noise(0.2),
    t.Shift(2),
    t.Crop(5),
    t.Warp(rotate=20, shear=10, scale=(0.8, 1.2), shift=1.5, elastic=10),
    t.Rotate(30),
    t.Shear(20),
    t.Resize((0.7, 1.3)),
    t.ElasticDistortion(),
    t.HorizontalFlip(),
    t.VerticalFlip(),
    t.Brightness(),
    t.Contrast(),
    t.Saturation(),
    t.Sometimes(t.Noise(0.2)),
    t.Compose([t.Shift(1), t.Noise(0.1)]),
    t.digits(),
]


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def images(n=40, c=3, h=9, w=8, dtype=np.float32):
    return rng(1).random((n, c, h, w)).astype(dtype)


def name(transform):
    return type(transform).__name__


@pytest.mark.parametrize("transform", EVERY, ids=name)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_type_is_kept_and_the_input_is_left_alone(transform, dtype):
    x = images(dtype=dtype)
    x.flags.writeable = False
    y = transform(x, rng())
    assert y.dtype == dtype
    assert not np.shares_memory(x, y)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("transform", EVERY, ids=name)
def test_one_seed_gives_one_result_and_images_draw_numbers_of_their_own(transform):
    x = np.broadcast_to(images(1), (40, 3, 9, 8))
    first = transform(x, rng(1))
    assert np.array_equal(first, transform(x, rng(1)))
    assert not np.array_equal(first, transform(x, rng(2)))
    assert len(np.unique(first.reshape(40, -1), axis=0)) > 1


@pytest.mark.parametrize("transform", EVERY, ids=name)
def test_memory_layout_makes_no_difference(transform):
    x = images(6)
    batch_last = np.ascontiguousarray(x.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    assert np.allclose(transform(x, rng()), transform(batch_last, rng()), atol=1e-6)


@pytest.mark.parametrize("transform", EVERY, ids=name)
def test_what_is_no_batch_of_float_images_is_refused(transform):
    with pytest.raises(DTypeError, match="scale them first"):
        transform(np.zeros((2, 3, 9, 8), np.uint8), rng())
    with pytest.raises(ShapeError, match=r"images have shape \(n, c, h, w\), got \(9, 8\)"):
        transform(np.zeros((9, 8), np.float32), rng())
    with pytest.raises(DTypeError, match="transforms work on arrays, got list"):
        transform([[0.5]], rng())


NOTHING = [
    t.Noise(0),
    t.Shift(0),
    t.Crop((9, 8)),
    t.Warp(),
    t.Rotate(0),
    t.Shear(0),
    t.Resize((1, 1)),
    t.HorizontalFlip(0),
    t.VerticalFlip(0),
    t.Brightness((1, 1)),
    t.Contrast((1, 1)),
    t.Saturation((1, 1)),
    t.Sometimes(t.Noise(1), 0),
    t.Compose([]),
    t.digits(0),
]


@pytest.mark.parametrize("transform", NOTHING, ids=name)
def test_a_change_of_no_size_changes_nothing(transform):
    x = images()
    assert np.allclose(transform(x, rng()), x, atol=1e-6)


def test_a_shift_moves_whole_pixels_and_fills_what_comes_in():
    x = images(200, 1)
    y = t.Shift(2, fill=7)(x, rng())
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=7)
    found = set()
    for image, wide in zip(y[:, 0], padded[:, 0], strict=True):
        places = [(i, j) for i in range(5) for j in range(5) if np.array_equal(image, wide[i : i + 9, j : j + 8])]
        assert len(places) == 1
        found.update(places)
    assert len(found) == 25


def test_a_crop_has_the_size_asked_for_and_must_fit():
    assert t.Crop((4, 6))(images(), rng()).shape == (40, 3, 4, 6)
    assert t.Crop(12, padding=2)(images(), rng()).shape == (40, 3, 12, 12)
    with pytest.raises(ShapeError, match="a window of 10 x 10 does not fit into images of 9 x 8 with padding 0"):
        t.Crop(10)(images(), rng())


class Largest:
    """A stand-in generator whose uniform draws are the upper bound."""

    def uniform(self, low, high, size):
        return np.full(size, high)


def test_a_rotation_by_a_quarter_turns_counterclockwise():
    x = images(2, 2, 7, 7)
    y = t.Rotate(90)(x, Largest())
    assert np.allclose(y, np.rot90(x, 1, axes=(2, 3)), atol=1e-5)


def test_a_warp_shifts_down_and_right():
    x = images(2, 1)
    y = t.Warp(shift=2.0, fill=5)(x, Largest())
    assert np.allclose(y[:, :, 2:, 2:], x[:, :, :-2, :-2], atol=1e-6)
    assert (y[:, :, :2] == 5).all()
    assert (y[:, :, :, :2] == 5).all()
    half = t.Warp(shift=0.5)(x, Largest())
    mean = (x[:, :, 1:, 1:] + x[:, :, :-1, 1:] + x[:, :, 1:, :-1] + x[:, :, :-1, :-1]) / 4
    assert np.allclose(half[:, :, 1:, 1:], mean, atol=1e-6)


def test_resize_enlarges_about_the_centre():
    x = np.zeros((1, 1, 9, 9), np.float32)
    x[0, 0, 3:6, 3:6] = 1
    y = t.Resize((1.0, 2.0))(x, Largest())
    assert y.sum() == pytest.approx(4 * 9, rel=0.05)
    assert np.allclose(y, y[:, :, ::-1, ::-1], atol=1e-6)


def test_shear_leans_to_the_right_and_keeps_the_middle_row():
    x = np.zeros((1, 1, 9, 9), np.float32)
    x[0, 0, :, 4] = 1
    y = t.Shear(45)(x, Largest())[0, 0]
    assert np.allclose(y, np.fliplr(np.eye(9)), atol=1e-5)


def test_elastic_distortion_follows_its_formula():
    x = images(2, 1, 12, 10)
    alpha, sigma = 9.0, 2.0
    y = t.ElasticDistortion(alpha, sigma)(x, rng(4))
    draws = rng(4)
    for size in ((2,), (2,), (2,), (2, 2)):
        draws.uniform(0, 0, size)  # angle, lean, scale, shift come first
    field = draws.random((2, 2, 12, 10), dtype=np.float32) * 2 - 1
    for n in range(2):
        smooth = np.zeros((2, 12, 10))
        for i in range(12):
            for j in range(10):
                r, c = np.mgrid[:12, :10]
                weight = np.exp(-((r - i) ** 2 + (c - j) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
                smooth[:, i, j] = (field[:, n] * weight).sum((1, 2))
        for i in range(12):
            for j in range(10):
                r, c = i + alpha * smooth[0, i, j], j + alpha * smooth[1, i, j]
                r0, c0 = int(np.floor(r)), int(np.floor(c))
                value = 0.0
                for k, wk in ((r0, r0 + 1 - r), (r0 + 1, r - r0)):
                    for m, wm in ((c0, c0 + 1 - c), (c0 + 1, c - c0)):
                        if 0 <= k < 12 and 0 <= m < 10:
                            value += wk * wm * x[n, 0, k, m]
                assert y[n, 0, i, j] == pytest.approx(value, abs=1e-4)


def test_flips_mirror_about_p_of_the_images():
    x = images(2000, 1)
    for transform, mirrored in ((t.HorizontalFlip(0.3), x[..., ::-1]), (t.VerticalFlip(0.3), x[:, :, ::-1])):
        y = transform(x, rng())
        changed = (y == mirrored).all((1, 2, 3))
        assert ((y == x).all((1, 2, 3)) ^ changed).all()
        assert 0.25 < changed.mean() < 0.35


def test_sometimes_changes_about_p_of_the_images_and_leaves_the_others():
    x = images(2000)
    y = t.Sometimes(t.Noise(0.1), 0.2)(x, rng())
    assert 0.15 < (y != x).any((1, 2, 3)).mean() < 0.25


def test_brightness_contrast_and_saturation_follow_their_formulas():
    x = images(5)
    f = 1.5
    mean = x.mean((1, 2, 3), keepdims=True)
    grey = np.tensordot(x, np.array([0.299, 0.587, 0.114], np.float32), axes=(1, 0))[:, None]
    assert np.allclose(t.Brightness((f, f), clip=None)(x, rng()), f * x)
    assert np.allclose(t.Contrast((f, f), clip=None)(x, rng()), mean + f * (x - mean), atol=1e-6)
    assert np.allclose(t.Saturation((f, f), clip=None)(x, rng()), grey + f * (x - grey), atol=1e-6)
    assert np.allclose(t.Saturation((0, 0))(x, rng()), grey, atol=1e-6)
    assert t.Brightness((3, 3))(x, rng()).max() == 1
    with pytest.raises(ShapeError, match="colours need 3 channels"):
        t.Saturation()(images(2, 1), rng())


def test_noise_has_the_deviation_asked_for():
    x = np.full((100, 1, 20, 20), 0.5, np.float32)
    assert (t.Noise(0.1)(x, rng()) - x).std() == pytest.approx(0.1, rel=0.02)
    assert t.Noise(9)(x, rng()).min() == 0


def test_resize_to_another_size_keeps_constant_and_linear_images():
    x = np.broadcast_to(np.arange(8, dtype=np.float32), (2, 1, 6, 8))
    assert np.allclose(t.resize(x, (3, 4)), [0.5, 2.5, 4.5, 6.5])
    assert t.resize(x, 16)[0, 0, 0, 1:-1].tolist() == [0.25 + 0.5 * k for k in range(14)]
    assert np.array_equal(t.resize(x, (6, 8)), x)
    with pytest.raises(OptionError, match="sizes are from 1 on"):
        t.resize(x, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: t.Noise(-1),
        lambda: t.Noise(float("nan")),
        lambda: t.Shift(-1),
        lambda: t.Rotate(-5),
        lambda: t.Shear(90),
        lambda: t.Resize((0, 1)),
        lambda: t.Resize((2, 1)),
        lambda: t.ElasticDistortion(1, 0),
        lambda: t.HorizontalFlip(2),
        lambda: t.Brightness((2, 1)),
        lambda: t.Sometimes(t.Noise(), -0.1),
        lambda: t.digits(-1),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(OptionError):
        make()


def test_digits_are_still_centred_and_mostly_the_same_under_the_usual_changes():
    from tinygrad_cnn import data

    x, _ = data.mnist().train.take(slice(0, 500))
    y = t.digits()(x, rng())
    ink = y.sum((1, 2, 3)) / x.sum((1, 2, 3))
    assert 0.5 < ink.min() < ink.max() < 2
    edge = np.concatenate([y[..., 0], y[..., -1], y[:, :, 0], y[:, :, -1]], -1)
    assert edge.mean() < 0.01
