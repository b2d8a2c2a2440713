"""ImageNet's winners: published parameter counts; names, logits and gradients of torchvision and timm."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from on_devices import there

from tinygrad_cnn import Tensor, models, nn, randn
from tinygrad_cnn.errors import OptionError
from tinygrad_cnn.models import registry
from tinygrad_cnn.nn import functional as F  # noqa: N812
from tinygrad_cnn.nn import init, layers

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = json.loads(lzma.decompress((FIXTURES / "model_names.json.xz").read_bytes()))
LOGITS = np.load(FIXTURES / "model_logits.npz")

# As published by torchvision and timm; for the other networks by the papers' tables of layers.
PARAMETERS = {
    "alexnet": 61_100_840,
    "alexnet-original": 60_965_224,
    "zfnet": 62_357_608,
    "overfeat-fast": 145_920_872,
    "overfeat-accurate": 144_656_488,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "googlenet": 13_004_888,
    "sppnet": 77_037_672,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "se-resnet18": 11_779_624,
    "se-resnet34": 21_960_416,
    "se-resnet50": 28_088_024,
    "se-resnet101": 49_326_872,
    "se-resnet152": 66_821_848,
}


@pytest.fixture
def weightless(monkeypatch):
    """Make layers whose weights are one zero seen many times, so that 140 million of them take no memory."""

    def uniform(shape, bound, device, dtype):
        parameter = nn.Parameter.made(np.broadcast_to(np.float32(0), shape))
        parameter.requires_grad = True
        return parameter

    monkeypatch.setattr(layers, "uniform", uniform)
    monkeypatch.setattr(init, "_draw", lambda *_: there(np.zeros(())))
    monkeypatch.setattr(init, "_fill", lambda tensor, _: tensor)


def shapes(model):
    return {name: list(tensor.shape) for name, tensor in model.named_tensors()}


@pytest.mark.usefixtures("weightless")
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
    assert sum(p.size for p in models.build(name).parameters()) == PARAMETERS[name]


def test_every_network_of_the_registry_is_counted_here_or_with_the_digits():
    assert set(models.NAMES) == {*PARAMETERS, "lenet5", "lenet5-original", "mlp", "logistic"}
    assert all(len(registry.entry(name).input_shape) == 3 and registry.entry(name).text for name in models.NAMES)


@pytest.mark.usefixtures("weightless")
@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_have_the_names_and_shapes_of_torchvision_and_timm(name):
    ours = {"vgg16_bn": lambda: models.vgg16(batch_norm=True)}
    ours |= {f"seresnet{n}": lambda n=n: models.ResNet(n, squeeze=True) for n in (18, 50, 152)}
    model = ours[name]() if name in ours else models.build(name)
    assert shapes(model) == NAMES[name]


def filled(wanted):
    """The values of make_model_fixtures.py: one generator, the names in alphabetical order."""
    rng = np.random.default_rng(2012)
    values = {}
    for name in sorted(wanted):
        shape = wanted[name]
        draw = rng.random(shape)
        if len(shape) > 1:
            values[name] = (draw * 2 - 1) * np.sqrt(6 / np.prod(shape[1:]))
        elif name.endswith(("running_var", "weight")):
            values[name] = draw + 0.5
        else:
            values[name] = (draw - 0.5) / 5 if shape else np.zeros((), dtype=np.int64)
    return values


SMALL = {
    "alexnet": lambda: models.AlexNet(10, dropout=0.0, hidden=16),
    "vgg11": lambda: models.vgg11(num_classes=10, dropout=0.0, hidden=16),
    "googlenet": lambda: models.GoogLeNet(10, dropout=0.0, dropout_aux=0.0),
    "resnet18": lambda: models.resnet18(num_classes=10),
    "resnet50": lambda: models.resnet50(num_classes=10),
    "seresnet18": lambda: models.se_resnet18(num_classes=10),
}


@pytest.mark.parametrize("key", [key.removesuffix(" logits") for key in LOGITS.files if key.endswith(" logits")])
def test_logits_and_gradients_are_those_of_torchvision_and_timm(key, monkeypatch):
    name, side, batch_statistics = key.split()
    monkeypatch.setattr(init, "_draw", lambda *_: there(np.zeros(())))  # the values are replaced anyway
    model = SMALL[name]().double()
    model.load_state_dict(filled({name: tuple(t.shape) for name, t in model.named_tensors()}))
    model.train(bool(int(batch_statistics)))
    images = np.random.default_rng(int(side)).random((2, 3, int(side), int(side)))
    outputs = model(Tensor(images))
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    loss = sum(F.cross_entropy(z, [1, 7]) for z in outputs)
    loss.backward()
    np.testing.assert_allclose([z.numpy() for z in outputs], LOGITS[f"{key} logits"], rtol=1e-7)
    found = {name: np.abs(p.grad.array).sum() for name, p in model.named_parameters() if p.grad is not None}
    np.testing.assert_allclose([found[n] for n in sorted(found)], LOGITS[f"{key} gradients"], rtol=1e-6, atol=1e-9)


FORMS = {
    "alexnet-original": (lambda: models.AlexNet(5, form="original", hidden=8), (2, 3, 64, 64)),
    "zfnet": (lambda: models.ZFNet(5, hidden=8), (2, 3, 64, 64)),
    "sppnet": (lambda: models.SPPNet(5, hidden=8), (2, 3, 70, 50)),
    "overfeat-fast": (lambda: models.OverFeat(5, hidden=(8, 8)), (1, 3, 231, 231)),
    "resnet18 for small images": (lambda: models.resnet18(num_classes=5, small_images=True), (2, 3, 8, 8)),
    "se-resnet18 that starts as the identity": (
        lambda: models.se_resnet18(num_classes=5, zero_init_residual=True),
        (2, 3, 33, 33),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forward_and_backward_run_at_small_sizes(name):
    make, shape = FORMS[name]
    model = make()
    logits = model(randn(*shape))
    assert logits.shape == (shape[0], 5)
    F.cross_entropy(logits, list(range(shape[0]))).backward()
    for path, p in model.named_parameters():
        assert p.grad is not None, path
        assert p.grad.shape == p.shape, path
        assert p.grad.dtype == np.float32, path


def test_googlenet_in_training_returns_its_side_classifiers_and_their_loss_counts_a_third():
    model = models.GoogLeNet(4)
    x, labels = randn(2, 3, 32, 32), Tensor([0, 3])
    outputs = model(x)
    parts = [F.cross_entropy(z, labels).item() for z in outputs]
    np.testing.assert_allclose(
        models.googlenet_loss(outputs, labels).item(), parts[0] + 0.3 * (parts[1] + parts[2]), rtol=1e-5
    )
    models.googlenet_loss(outputs, labels).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    logits = model(x)
    assert logits.shape == (2, 4)
    assert models.googlenet_loss(logits, labels).item() == F.cross_entropy(logits, labels).item()
    assert sum(p.size for p in models.GoogLeNet(1000, aux_logits=False).parameters()) == 6_624_904


def test_googlenet_can_undo_the_usual_normalisation_of_its_images():
    model = models.GoogLeNet(3, aux_logits=False, transform_input=True).eval()
    pixels = np.random.default_rng(0).random((2, 3, 32, 32)).astype("float32")
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    usual = (pixels - mean.reshape(3, 1, 1)) / deviation.reshape(3, 1, 1)
    seen = model(Tensor(usual)).array
    model.transform_input = False
    np.testing.assert_allclose(seen, model(Tensor(pixels * 2 - 1)).array, rtol=1e-3, atol=1e-6)


def test_overfeat_gives_a_logit_for_every_position_of_its_window():
    model = models.OverFeat(3, hidden=(4, 4)).eval()
    x = randn(1, 3, 231, 231 + 32)
    logits = model.logit_map(x)
    assert logits.shape == (1, 3, 1, 2)
    np.testing.assert_allclose(model(x).array, logits.array.mean(axis=(2, 3)), rtol=1e-5)


def test_the_pyramid_of_sppnet_has_the_same_length_for_images_of_any_size():
    model = models.SPPNet(3, hidden=4).eval()
    maps = randn(2, 256, 13, 9)
    pyramid = model.pyramid(maps)
    assert pyramid.shape == (2, 256 * 50)
    np.testing.assert_array_equal(pyramid.array[:, -256:], maps.array.max(axis=(2, 3)))


def test_squeeze_and_excitation_weighs_every_map_by_one_number():
    block = models.resnet.SqueezeExcitation(32)
    x = randn(2, 32, 4, 4)
    ratio = block(x).array / x.array
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :, :1, :1], ratio.shape), rtol=1e-4)
    assert ((ratio > 0) & (ratio < 1)).all()


def test_a_residual_block_that_starts_as_the_identity_returns_its_input():
    model = models.resnet18(num_classes=3, zero_init_residual=True).eval()
    x = Tensor(np.abs(np.random.default_rng(0).normal(size=(1, 64, 5, 5))).astype("float32"))
    np.testing.assert_array_equal(model.layer1[0](x).array, x.array)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.ResNet(20), "one of 18, 34, 50, 101, 152, got 20"),
        (lambda: models.VGG(12), "one of 11, 13, 16, 19, got 12"),
        (lambda: models.AlexNet(form="new"), "'modern' or 'original'"),
        (lambda: models.OverFeat(form="slow"), "'fast' or 'accurate'"),
    ],
)
def test_networks_that_do_not_exist_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()
