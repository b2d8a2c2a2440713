"""Bands, Winograd's way to compute a convolution of a fused program, against patches of one output."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tinygrad_cnn.backend import fused, patches
from tinygrad_cnn.backend.fused import Convolution, Linear, Parameters, Program

NONE = ((0, 0), (0, 0))


def run(layers, chosen, shapes, dtype, tile=None):
    """Return (loss, gradients, logits) of two runs in a row of a program with these patches on fixed numbers."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fused, "choose_patches", lambda layers: list(chosen))
        rng = np.random.default_rng(1)
        parameters = Parameters(shapes, dtype)
        parameters.flat[...] = rng.normal(0, 0.3, len(parameters.flat))
        channels, size = layers[0].channels[0], layers[0].size
        x, labels = rng.normal(size=(3, channels, *size)).astype(dtype), rng.integers(0, 4, 3)
        program = Program(layers, parameters, 3, tile=tile, threads=1)
        gradients = parameters.empty()
        for _ in range(2):  # what the first run leaves in the buffers must not matter
            loss = program.run(x, labels, gradients)
        return loss, gradients.copy(), program.logits.copy()


def simple(layers):
    """Return patches of one output each."""
    return [patches.Patch(layer, (1, 1), (1, 1), (1, 1)) for layer in layers]


@given(
    kernel=st.sampled_from([(1, 5), (3, 5), (5, 5)]),
    pool=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)]),
    padding=st.sampled_from([NONE, ((2, 2), (2, 2)), ((0, 2), (1, 3))]),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    relu=st.booleans(),
    biased=st.booleans(),
    phases=st.sampled_from([(1, 1), (1, 2)]),
    tile=st.integers(1, 3),
    size=st.sampled_from([(6, 8), (8, 6), (10, 12)]),
)
def test_bands_equal_patches(kernel, pool, padding, channels, relu, biased, phases, tile, size):
    """Between two other convolutions, of which the last reads it with padding around it."""
    before = Convolution(0, 1, (1, channels[0]), size, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), False, (1, 1))
    layer = Convolution(2, 3 if biased else None, channels, size, kernel, (1, 1), padding, (1, 1), relu, pool)
    assume(min(layer.output) >= 2 and patches.Band.fits(layer))
    band, first = patches.Band(layer, phases), patches.Patch(before, (1, 1), (1, 1), phases)
    assume(band.reads(phases))
    free = 3 + biased
    after = Convolution(
        free, None, (channels[1], 2), layer.pooled, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), True, (1, 1)
    )
    features = 2 * layer.pooled[0] * layer.pooled[1]
    layers = [before, layer, after, Linear(free + 1, free + 2, (features, 4), False)]
    shapes = [(channels[0], 1, 3, 3), (channels[0],), (channels[1], channels[0], *kernel)]
    shapes += [(channels[1],)] * biased + [(2, channels[1], 3, 3), (4, features), (4,)]
    ours = run(layers, [first, band, *simple([after])], shapes, "float64", tile)
    expected = run(layers, simple([before, layer, after]), shapes, "float64")
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-11)


def test_bands_as_first_layer_and_with_two_processors():
    layer = Convolution(0, 1, (2, 3), (10, 12), (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), True, (2, 2))
    layers, shapes = [layer, Linear(2, 3, (90, 4), False)], [(3, 2, 5, 5), (3,), (4, 90), (4,)]
    ours, expected = (run(layers, chosen, shapes, "float64") for chosen in ([patches.Band(layer)], simple([layer])))
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-11)


def test_bands_are_about_as_exact_as_direct_sums():
    layer = Convolution(0, 1, (6, 16), (14, 14), (5, 5), (1, 1), NONE, (1, 1), True, (2, 2))
    layers, shapes = [layer, Linear(2, 3, (400, 4), False)], [(16, 6, 5, 5), (16,), (4, 400), (4,)]
    _, *exact = run(layers, simple([layer]), shapes, "float64")
    errors = {}
    for name, chosen in [("direct", simple([layer])), ("bands", [patches.Band(layer)])]:
        _, *found = run(layers, chosen, shapes, "float32")
        errors[name] = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, exact, strict=True)]
    assert max(errors["direct"]) < 2e-6
    assert max(errors["bands"]) < 4e-6, errors


@pytest.mark.parametrize(
    "changed",
    [
        {"kernel": (5, 3)},
        {"kernel": (4, 5)},
        {"stride": (1, 2)},
        {"dilation": (2, 1)},
        {"size": (15, 14)},
        {"size": (14, 15)},
    ],
)
def test_what_bands_cannot_do(changed):
    options = {"size": (14, 14), "kernel": (5, 5), "stride": (1, 1), "dilation": (1, 1), **changed}
    layer = Convolution(0, 1, (6, 16), padding=NONE, relu=True, pool=(1, 1), **options)
    assert not patches.Band.fits(layer)
    assert not any(isinstance(one, patches.Band) for one in patches.choose_patches([layer]))


@pytest.mark.parametrize("unpacked", [False, True])
def test_bands_are_for_lenet_where_small_products_are_fast(unpacked, monkeypatch):
    """The choice for the network that this was made for."""
    monkeypatch.setattr(patches, "most_unpacked", lambda: 1_000_000 * unpacked)
    first = Convolution(0, 1, (1, 6), (28, 28), (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), True, (2, 2))
    second = Convolution(2, 3, (6, 16), (14, 14), (5, 5), (1, 1), NONE, (1, 1), True, (2, 2))
    chosen = patches.choose_patches([first, second])
    assert [type(one) for one in chosen] == [patches.Patch, patches.Band if unpacked else patches.Patch]
    assert chosen[0].result_phases == chosen[1].phases == ((1, 2) if unpacked else (2, 2))


def test_bands_are_for_wider_layers_everywhere(monkeypatch):
    monkeypatch.setattr(patches, "most_unpacked", lambda: 0)
    layer = Convolution(0, 1, (32, 64), (14, 14), (5, 5), (1, 1), NONE, (1, 1), True, (2, 2))
    assert [type(one) for one in patches.choose_patches([layer])] == [patches.Band]
