"""Pictures of a network at work: the numbers are right, and every picture is drawn in both themes."""

import numpy as np
import pytest
from tinygrad_cnn.viz import at_work, at_work_maps

from tinygrad_cnn import Tensor, data, grad, models, nn, no_grad, train
from tinygrad_cnn.cli import main
from tinygrad_cnn.cli.networks import note
from tinygrad_cnn.errors import OptionError, ShapeError
from tinygrad_cnn.optim import Adam
from tinygrad_cnn.train import save_checkpoint


@pytest.fixture(scope="module")
def digits():
    return data.mnist().test.take(np.arange(64))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A LeNet-5 after a few steps, and the checkpoint of its training."""
    images = data.mnist().train
    model = models.LeNet5()
    path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
    train.fit(
        model,
        data.DataLoader(data.Subset(images, range(640)), 64, seed=0),
        optimizer=Adam(model.parameters(), lr=0.002),
        epochs=2,
        checkpoint=path,
        note=note("lenet5", 10, (1, 28, 28), images.normalise),
    )
    return model, path


def test_activations_are_those_of_the_layers(run, digits):
    model, image = run[0], digits[0][:1]
    layers = {layer.name: layer for layer in at_work_maps.activations(model, image)}
    assert list(layers)[:3] == ["conv1", "relu1", "pool1"]
    with no_grad():
        x = model.relu1(model.conv1(Tensor(image)))
    assert np.array_equal(layers["relu1"].values, x.numpy())
    assert layers["pool2"].values.shape == (1, 16, 5, 5)


def test_saliency_is_the_gradient_of_the_score(run, digits):
    model, image = run[0], digits[0][3]
    step = 1e-2
    found = at_work_maps.saliency(model, image, label=4)
    i, j = np.unravel_index(found.argmax(), found.shape)
    ends = []
    for sign in (1, -1):
        moved = image.astype(np.float64)
        moved[0, i, j] += sign * step
        with no_grad():
            ends.append(model(Tensor(moved[None].astype(np.float32)))[0, 4].item())
    assert found[i, j] == pytest.approx(abs(ends[0] - ends[1]) / (2 * step), rel=0.05)


def test_occlusion_is_zero_where_there_is_nothing_to_cover(run, digits):
    drop = at_work_maps.occlusion(run[0], digits[0][0], size=3)
    assert drop.shape == (28, 28)
    assert drop[0, 0] == pytest.approx(0, abs=1e-6)
    assert np.abs(drop).max() > 1e-4


def test_grad_cam_follows_its_formula(run, digits):
    model, image = run[0], digits[0][:1]
    with no_grad():
        a = model.relu2(model.conv2(model.pool1(model.relu1(model.conv1(Tensor(image))))))
    a = Tensor(a.numpy(), requires_grad=True)
    score = model.fc3(model.relu4(model.fc2(model.relu3(model.fc1(model.flatten(model.pool2(a)))))))[0, 5]
    g = grad(score, [a])[0].numpy()[0]
    expected = np.maximum((g.mean(axis=(1, 2))[:, None, None] * a.numpy()[0]).sum(0), 0)
    expected = at_work_maps.resized(expected / expected.max(), (28, 28))
    np.testing.assert_allclose(at_work_maps.grad_cam(model, image, 5), expected, atol=1e-5)
    np.testing.assert_allclose(at_work_maps.grad_cam(model, image, 5, layer="relu2"), expected, atol=1e-5)


def test_explaining_leaves_the_model_as_it_was(run, digits):
    model = run[0]
    model.train()
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    at_work.explanations(model, digits[0][0])
    assert all(module.training for module in model.modules())
    assert all(np.array_equal(before[name], p.numpy()) for name, p in model.named_parameters())


def test_a_convolution_moves_with_the_image_and_maxima_stay_more_often(run, digits):
    s = at_work_maps.equivariance(run[0], digits[0][0])
    assert s.error < 1e-5
    assert 0 <= s.detector_stays < s.pooled_stays < 1


def test_a_layer_that_is_not_equivariant_is_found_out(digits):
    class Marked(nn.Module):
        def __init__(self):
            self.conv = nn.Conv2d(1, 2, 3, padding=1)
            self.fc = nn.Linear(2 * 28 * 28, 10)

        def forward(self, x):
            ramp = Tensor(np.linspace(0, 1, 28, dtype=np.float32))
            return self.fc(self.conv(x * ramp).flatten(1))

    assert at_work_maps.equivariance(Marked(), digits[0][0]).error > 1e-3


def test_shifting_moves_pixels_and_fills_with_background():
    x = np.arange(12.0).reshape(1, 3, 4)
    assert at_work_maps.shifted(x, 1, -1)[0].tolist() == [[0, 0, 0, 0], [1, 2, 3, 0], [5, 6, 7, 0]]
    with pytest.raises(OptionError, match="out of sight"):
        at_work_maps.shifted(x, 3, 0)


def test_resizing_keeps_a_ramp_and_a_constant():
    ramp = np.arange(4.0)[None] * np.ones((4, 1))
    bigger = at_work_maps.resized(ramp, (8, 8))
    assert np.allclose(bigger[:, 1:-1], (np.arange(1, 7) + 0.5) / 2 - 0.5)
    assert np.allclose(at_work_maps.resized(np.ones((3, 5)), (7, 2)), 1)


def test_gradients_vanish_through_sigmoids_and_not_through_relus():
    images, labels = data.mnist().train.take(np.arange(500))
    sigmoid = at_work_maps.gradient_norms("sigmoid", images, labels, steps=3)
    relu = at_work_maps.gradient_norms("relu", images, labels, steps=3)
    assert sigmoid.shape == (3, 8)
    assert (sigmoid[:, -1] > 1000 * sigmoid[:, 0]).all()
    assert (relu[:, -1] < 10 * relu[:, 0]).all()


def test_every_picture_is_drawn_in_the_dark_too(run, digits, tmp_path):
    model, theme = run[0], "dark"
    images, labels = digits
    result = train.evaluate(model, data.DataLoader(data.Subset(data.mnist().test, range(100)), 100))
    sheets = {
        "filters": at_work.filters(model, theme=theme),
        "features": at_work.feature_maps(model, images[0], theme=theme),
        "why": at_work.explanations(model, images[0], theme=theme),
        "shift": at_work.shift(model, images[0], theme=theme),
        "curves": at_work.curves([{"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.9}], theme=theme),
        "confusion": at_work.confusion(result, theme=theme),
        "mistakes": at_work.mistakes(data.mnist().test.images, result, most=8, theme=theme),
        "vanishing": at_work.vanishing(images, labels, depth=3, steps=2, theme=theme),
    }
    for name, sheet in sheets.items():
        assert sheet.text
        assert sheet.save(tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "conv1, conv2" in sheets["filters"].text


def test_a_dense_network_has_no_filters_and_is_explained_without_grad_cam(digits):
    model = models.build("mlp")
    with pytest.raises(OptionError, match="no convolution"):
        at_work.filters(model)
    with pytest.raises(OptionError, match="no convolution"):
        at_work.shift(model, digits[0][0])
    assert at_work.explanations(model, digits[0][0]).text
    assert at_work.feature_maps(model, digits[0][0]).text


def test_a_deep_network_is_shown_in_a_choice_of_its_layers():
    model = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1) for _ in range(40)], nn.Flatten(), nn.Linear(64, 3))
    sheet = at_work.feature_maps(model, np.ones((8, 8), np.float32))
    assert sheet.text.startswith("maps of 24 layers")
    assert "24 of 41 layers" in sheet.figure.texts[0].get_text()


def test_two_drawings_of_the_same_numbers_are_the_same_file(run, digits, tmp_path):
    for form in ("svg", "pdf", "png"):
        files = [at_work.curves([{"train_loss": 0.5}]).save(tmp_path / f"{i}.{form}").read_bytes() for i in range(2)]
        assert files[0] == files[1]


def test_wrong_arguments_are_refused(run, digits, tmp_path):
    model, image = run[0], digits[0][0]
    with pytest.raises(ShapeError, match="one image is needed"):
        at_work.feature_maps(model, digits[0])
    with pytest.raises(OptionError, match=r"label must lie in 0 \.\. 9"):
        at_work.explanations(model, image, 10)
    with pytest.raises(OptionError, match="no layer 'nothing' gives maps"):
        at_work.explanations(model, image, layer="nothing")
    with pytest.raises(OptionError, match="theme"):
        at_work.filters(model, theme="pink")
    with pytest.raises(OptionError, match=r"'\.gif'"):
        at_work.filters(model).save(tmp_path / "a.gif")
    with pytest.raises(OptionError, match="size must lie"):
        at_work_maps.occlusion(model, image, size=0)
    with pytest.raises(OptionError, match="history is empty"):
        at_work.curves([])


@pytest.mark.parametrize("what", ["filters", "features", "why", "shift", "curves"])
def test_the_command_shows_a_trained_network(run, what, tmp_path, capsys):
    out = tmp_path / f"{what}.png"
    assert main(["show", what, str(run[1]), "--out", str(out), "--digit", "4"]) == 0
    assert out.stat().st_size > 5000
    assert str(out) in capsys.readouterr().out


def test_the_command_draws_the_graph_of_a_trained_network(run, tmp_path):
    words = ["draw", str(run[1]), "--out", str(tmp_path / "graph.svg"), "--color-by", "gradient", "--batch-size", "2"]
    assert main(words) == 0
    assert "gradient norm" in (tmp_path / "graph.svg").read_text()


def test_the_command_shows_mistakes_and_confusion(run, tmp_path, monkeypatch):
    test = data.mnist().test
    few = data.ArrayDataset(test.images[:20], test.labels[:20], normalise=test.normalise)
    monkeypatch.setattr(data, "mnist", lambda *_, **__: data.digits.Splits(few, few))
    for what in ("mistakes", "confusion"):
        assert main(["show", what, str(run[1]), "--out", str(tmp_path / f"{what}.svg")]) == 0


def test_the_command_explains_what_is_wrong(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["show", "filters"]) == 1
    assert "no trained network" in capsys.readouterr().err
    assert main(["show", "why", str(run[1]), "--digit", "10000"]) == 1
    assert "--digit must lie in 0 .. 9999" in capsys.readouterr().err
    save_checkpoint(tmp_path / "odd.safetensors", {"note": {}})
    assert main(["show", "curves", str(tmp_path / "odd.safetensors")]) == 1
    assert "no history" in capsys.readouterr().err
