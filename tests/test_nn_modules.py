"""Modules: what they hold, what they say, what they save; layers equal PyTorch's from the same weights."""

import numpy as np
import pytest

from tinygrad_cnn import Tensor, manual_seed, nn, no_grad
from tinygrad_cnn.errors import CheckpointError, OptionError, ShapeError, TinygradError
from tinygrad_cnn.nn import functional as F  # noqa: N812 - the usual name


class Block(nn.Module):
    def __init__(self):
        self.first = nn.Linear(2, 3)
        self.scale = nn.Parameter([1.0, 2.0, 3.0])
        self.offset = Tensor([0.5])
        self.layers = [nn.Linear(3, 3), nn.ReLU()]
        self.named = {"head": nn.Linear(3, 1, bias=False)}
        self._private = Tensor([9.0])
        self.number = 3

    def forward(self, x):
        x = self.first(x) * self.scale + self.offset
        for layer in self.layers:
            x = layer(x)
        return self.named["head"](x)


PARAMETERS = [
    "first.weight",
    "first.bias",
    "scale",
    "layers.0.weight",
    "layers.0.bias",
    "named.head.weight",
]


def test_parameters_are_found_in_the_order_written_in_lists_and_dicts_too():
    block = Block()
    assert [name for name, _ in block.named_parameters()] == PARAMETERS
    assert [name for name, _ in block.named_buffers()] == ["offset"]
    assert [name for name, _ in block.named_modules()] == ["", "first", "layers.0", "layers.1", "named.head"]
    assert list(block.state_dict()) == [*PARAMETERS[:3], "offset", *PARAMETERS[3:]]


def test_no_base_init_has_to_be_called_and_every_parameter_gets_a_gradient():
    block = Block()
    assert block.training
    block(Tensor([[1.0, 2.0]])).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    block.zero_grad()
    assert all(p.grad is None for p in block.parameters())


def test_a_shared_parameter_is_listed_once_and_saved_under_both_names():
    class Tied(nn.Module):
        def __init__(self):
            self.a = nn.Linear(2, 2)
            self.b = nn.Linear(2, 2)
            self.b.weight = self.a.weight

    tied = Tied()
    assert [name for name, _ in tied.named_parameters()] == ["a.weight", "a.bias", "b.bias"]
    assert "b.weight" in tied.state_dict()


def test_modes_reach_every_module_below():
    block = Block()
    block.eval()
    assert not any(m.training for m in block.modules())
    block.train()
    assert all(m.training for m in block.modules())


def test_freezing_stops_gradients():
    block = Block()
    block.first.requires_grad_(False)
    block(Tensor([[1.0, 2.0]])).sum().backward()
    assert block.first.weight.grad is None
    assert block.scale.grad is not None
    assert [name for name, _ in block.named_parameters()] == PARAMETERS


def test_moving_to_another_type_keeps_the_objects():
    block = Block()
    weight = block.first.weight
    assert block.double() is block
    assert block.first.weight is weight
    assert {t.dtype.name for _, t in block.named_tensors()} == {"float64"}
    assert block(Tensor(np.ones((1, 2)))).dtype == np.float64
    with pytest.raises(OptionError, match="another float type"):
        block.to("int64")


# Saving and loading


def test_a_state_dict_is_a_copy_that_loads_back():
    a, b = Block(), Block()
    state = a.state_dict()
    before = a.first.weight.tolist()
    state["first.weight"].fill_(7)
    assert a.first.weight.tolist() == before
    b.load_state_dict(state)
    assert b.first.weight.tolist() == [[7, 7], [7, 7], [7, 7]]
    assert b.scale.tolist() == a.scale.tolist()
    state["scale"].fill_(0)
    assert b.scale.tolist() == a.scale.tolist()


def test_loading_is_strict_and_changes_nothing_if_anything_is_wrong():
    block = Block()
    before = {name: t.tolist() for name, t in block.state_dict().items()}
    state = block.state_dict()
    del state["scale"]
    state["first.weight"] = Tensor(np.ones((2, 3)))
    state["more"] = Tensor([1.0])
    with pytest.raises(CheckpointError) as caught:
        block.load_state_dict(state)
    for part in ("first.weight has shape (2, 3), expected (3, 2)", "scale is missing", "more is not known"):
        assert part in str(caught.value)
    assert {name: t.tolist() for name, t in block.state_dict().items()} == before
    del state["first.weight"]
    assert block.load_state_dict(state, strict=False) == (["first.weight", "scale"], ["more"])


def test_loading_keeps_type_and_identity_and_is_seen_by_the_graph():
    block = Block()
    weight = block.first.weight
    y = block(Tensor([[1.0, 2.0]])).sum()
    block.load_state_dict({name: t.double() for name, t in block.state_dict().items()})
    assert block.first.weight is weight
    assert weight.dtype == np.float32
    with pytest.raises(TinygradError, match="edited in place"):
        y.backward()


# Hooks


def test_forward_hooks_see_and_may_replace_inputs_and_outputs():
    layer, seen = nn.Linear(1, 1), []
    before = layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    after = layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)) or output + 100)
    with no_grad():
        expected = F.linear(Tensor([[2.0]]), layer.weight, layer.bias)
        assert layer(Tensor([[1.0]])).item() == pytest.approx(expected.item() + 100)
        assert seen[0][0][0].tolist() == [[2]]
        before()
        after()
        assert layer(Tensor([[2.0]])).item() == pytest.approx(expected.item())


def test_a_backward_hook_sees_the_gradients_of_this_call_alone():
    layer, seen = nn.Linear(2, 1), []
    layer.register_full_backward_hook(lambda module, inputs, output: seen.append((inputs[0].tolist(), output.tolist())))
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    (layer(x) * 3 + x.sum()).sum().backward()
    assert seen == [([pytest.approx((3 * layer.weight.array[0]).tolist())], [[3]])]
    assert x.grad.tolist() == [pytest.approx((3 * layer.weight.array[0] + 1).tolist())]


# Containers


def test_sequential_is_a_list_that_computes():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(net) == 3
    assert isinstance(net[1], nn.ReLU)
    assert isinstance(net[-1], nn.Linear)
    assert [type(m).__name__ for m in net[1:]] == ["ReLU", "Linear"]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    x = Tensor([[1.0, 2.0]])
    assert net(x).item() == pytest.approx(net[2](net[1](net[0](x))).item())
    named = nn.Sequential({"conv": nn.Linear(2, 2), "act": nn.ReLU()})
    assert list(named.state_dict()) == ["conv.weight", "conv.bias"]
    assert isinstance(named.conv, nn.Linear)
    with pytest.raises(OptionError, match="not a module"):
        nn.Sequential(3)


def test_lists_and_dicts_of_modules():
    class Net(nn.Module):
        def __init__(self):
            self.items = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
            self.heads = nn.ModuleDict({"a": nn.Linear(1, 1)})

    net = Net()
    assert [n for n, _ in net.named_parameters()][::2] == ["items.0.weight", "items.1.weight", "heads.a.weight"]
    assert "a" in net.heads
    assert len(net.items) == 2
    with pytest.raises(NotImplementedError):
        net.items(Tensor([1.0]))


def test_repr_shows_the_tree():
    assert repr(nn.Sequential(nn.Linear(2, 3), nn.ReLU())) == (
        "Sequential(\n  (0): Linear(in_features=2, out_features=3, bias=True)\n  (1): ReLU()\n)"
    )


# Layers against PyTorch


def pairs(torch):
    """Yield (ours, theirs, input shape) for every layer that exists on both sides."""
    for name, arguments, options, shape in [
        ("Linear", (3, 4), {}, (2, 3)),
        ("Linear", (3, 4), {"bias": False}, (2, 5, 3)),
        ("Conv2d", (2, 4, 3), {"padding": 1, "stride": 2}, (2, 2, 7, 6)),
        ("Conv2d", (2, 4, (3, 5)), {"groups": 2, "bias": False, "padding": "same"}, (2, 2, 7, 6)),
        ("ConvTranspose2d", (2, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1}, (2, 2, 3, 4)),
        ("MaxPool2d", (2,), {}, (2, 2, 6, 6)),
        ("MaxPool2d", (3, 2, 1), {"ceil_mode": True}, (2, 2, 6, 6)),
        ("AvgPool2d", (3, 2, 1), {"count_include_pad": False}, (2, 2, 6, 6)),
        ("LPPool2d", (2, 2), {}, (2, 2, 6, 6)),
        ("AdaptiveAvgPool2d", ((3, 2),), {}, (2, 2, 7, 6)),
        ("AdaptiveMaxPool2d", (3,), {}, (2, 2, 7, 6)),
        ("Flatten", (), {}, (2, 3, 4)),
        ("ReLU", (), {}, (3, 4)),
        ("ReLU", (True,), {}, (3, 4)),
        ("LeakyReLU", (0.2,), {}, (3, 4)),
        ("LeakyReLU", (0.2, True), {}, (3, 4)),
        ("ELU", (0.5,), {}, (3, 4)),
        ("GELU", (), {}, (3, 4)),
        ("SiLU", (), {}, (3, 4)),
        ("Sigmoid", (), {}, (3, 4)),
        ("Tanh", (), {}, (3, 4)),
        ("Softplus", (), {}, (3, 4)),
        ("Softmax", (1,), {}, (3, 4)),
        ("LogSoftmax", (1,), {}, (3, 4)),
        ("BatchNorm1d", (4,), {}, (6, 4)),
        ("BatchNorm2d", (3,), {"eps": 1e-3, "momentum": 0.3}, (4, 3, 2, 2)),
        ("BatchNorm2d", (3,), {"affine": False}, (4, 3, 2, 2)),
        ("BatchNorm2d", (3,), {"momentum": None}, (4, 3, 2, 2)),
        ("BatchNorm2d", (3,), {"track_running_stats": False}, (4, 3, 2, 2)),
        ("LayerNorm", ((3, 4),), {}, (2, 3, 4)),
        ("LayerNorm", (4,), {"elementwise_affine": False}, (2, 3, 4)),
        ("LocalResponseNorm", (3,), {"k": 2.0}, (2, 5, 3, 3)),
        ("Identity", (), {}, (2, 3)),
        ("Dropout", (0.0,), {}, (2, 3)),
    ]:
        their_layer = getattr(torch.nn, name)(*arguments, **options).double()
        yield getattr(nn, name)(*arguments, **options).double(), their_layer, shape


def test_layers_equal_pytorchs_from_the_same_weights_in_training_and_evaluation():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for ours, theirs, shape in pairs(torch):
        state = {name: t.numpy() for name, t in theirs.state_dict().items()}
        assert list(ours.state_dict()) == list(state), f"{ours}: names differ from PyTorch's"
        for name, value in state.items():
            if value.dtype.kind == "f":
                state[name] = value + rng.uniform(0, 1, value.shape)
        ours.load_state_dict(state)
        theirs.load_state_dict({name: torch.tensor(v) for name, v in state.items()})
        for mode in (True, True, False):
            ours.train(mode)
            theirs.train(mode)
            values = rng.normal(size=shape)
            x, z = Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
            y, w = ours(x), theirs(z * 1)  # some of theirs write to their input
            assert np.allclose(y.array, w.detach().numpy(), atol=1e-10), repr(ours)
            (y * y).sum().backward()
            (w * w).sum().backward()
            assert np.allclose(x.grad.array, z.grad.numpy(), atol=1e-8), repr(ours)
            for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                assert np.allclose(p.grad.array, q.grad.numpy(), atol=1e-8), f"{ours}: {name}"
        for name, value in ours.state_dict().items():
            assert np.allclose(value.array, theirs.state_dict()[name].numpy()), f"{ours}: {name}"


def test_starting_values_have_pytorchs_bounds():
    torch = pytest.importorskip("torch")
    manual_seed(0)
    for name, arguments in (("Linear", (100, 50)), ("Conv2d", (8, 16, 5)), ("ConvTranspose2d", (8, 16, 5))):
        ours, theirs = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
        assert ours.weight.shape == tuple(theirs.weight.shape)
        assert ours.bias.shape == tuple(theirs.bias.shape)
        bound = np.abs(ours.weight.array).max()  # of thousands of uniform numbers: the bound itself, nearly
        assert bound == pytest.approx(theirs.weight.abs().max().item(), rel=0.01)
        assert 0.5 * bound < np.abs(ours.bias.array).max() <= bound * 1.01
        assert abs(ours.weight.array.mean()) < 0.1 * bound


def test_losses_as_modules_equal_the_functions():
    x, labels = Tensor(np.random.default_rng(0).normal(size=(3, 4))), np.array([0, 2, 3])
    weights = np.array([1.0, 2.0, 0.5, 1.0])
    assert nn.CrossEntropyLoss(weights, label_smoothing=0.1)(x, labels).item() == pytest.approx(
        F.cross_entropy(x, labels, weights, label_smoothing=0.1).item()
    )
    assert nn.NLLLoss(weights, ignore_index=2)(F.log_softmax(x, 1), labels).item() == pytest.approx(
        F.cross_entropy(x, labels, weights, ignore_index=2).item()
    )
    t = Tensor(np.abs(x.array) % 1)
    for module, function in (
        (nn.MSELoss(reduction="sum"), lambda: F.mse_loss(x, t, reduction="sum")),
        (nn.L1Loss(), lambda: F.l1_loss(x, t)),
        (nn.HuberLoss(delta=0.3), lambda: F.huber_loss(x, t, delta=0.3)),
        (nn.SmoothL1Loss(beta=0.3), lambda: F.smooth_l1_loss(x, t, beta=0.3)),
        (nn.BCEWithLogitsLoss(), lambda: F.bce_with_logits(x, t)),
    ):
        assert module(x, t).item() == pytest.approx(function().item())


# What is random, and what PyTorch does not have


def test_dropout_keeps_the_expectation_and_scales_what_it_keeps():
    x = Tensor(np.ones((200, 200)), requires_grad=True)
    y = F.dropout(x, 0.2)
    assert set(np.unique(y.array)) == {0, 1.25}
    assert abs(y.mean().item() - 1) < 0.02
    y.sum().backward()
    assert np.array_equal(x.grad.array, y.array)
    assert F.dropout(x, 0.2, training=False) is x
    assert F.dropout(x, 1.0).sum().item() == 0
    maps = F.dropout2d(Tensor(np.ones((20, 30, 2, 2))), 0.5).array
    assert set(np.unique(maps.sum(axis=(2, 3)))) == {0, 8}
    for p in (-0.1, 1.1, "half", True):
        with pytest.raises(OptionError, match="from 0 to 1"):
            F.dropout(x, p)


def test_gaussian_pooling_weighs_by_the_distance_from_the_centre():
    x = np.random.default_rng(0).normal(size=(1, 2, 6, 6))
    y = F.gaussian_pool2d(x, 3, sigma=0.8, stride=2, padding=1).array
    for c, i, j in np.ndindex(2, 3, 3):
        total = weight = 0.0
        for p, q in np.ndindex(3, 3):
            row, column = 2 * i + p - 1, 2 * j + q - 1
            if 0 <= row < 6 and 0 <= column < 6:
                share = np.exp(-((p - 1) ** 2 + (q - 1) ** 2) / (2 * 0.8**2))
                total, weight = total + share * x[0, c, row, column], weight + share
        assert np.isclose(y[0, c, i, j], total / weight)
    constant = F.gaussian_pool2d(np.full((1, 1, 5, 5), 3.0), 3, stride=1, padding=1)
    assert np.allclose(constant.array, 3)


@pytest.mark.parametrize(("padding", "size"), [("valid", 5), ("same", 7), ("full", 9)])
def test_padding_by_name_gives_the_size_it_promises(padding, size):
    x, w = np.ones((1, 1, 7, 7)), np.ones((1, 1, 3, 3))
    assert F.conv2d(x, w, padding=padding).shape[2:] == (size, size)
    assert F.conv2d(x, w, padding=padding, dilation=1).sum().item() == pytest.approx(
        {"valid": 25 * 9, "same": 19 * 19, "full": 49 * 9}[padding]
    )


def test_a_full_correlation_gives_every_pixel_every_element_of_the_kernel():
    x = Tensor(np.random.default_rng(0).normal(size=(1, 1, 4, 5)), requires_grad=True)
    w = np.random.default_rng(1).normal(size=(1, 1, 3, 2))
    F.conv2d(x, w, padding="full").sum().backward()
    assert np.allclose(x.grad.array, w.sum())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.Linear(0, 3), OptionError, "in_features"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), OptionError, "do not divide"),
        (lambda: nn.Conv2d(3, 4, 0), OptionError, "at least 1"),
        (lambda: nn.Conv2d(3, 4, 3, padding="half"), OptionError, "padding must be"),
        (lambda: nn.Conv2d(3, 4, 3)(np.ones((1, 2, 5, 5))), ShapeError, "2 channels"),
        (lambda: nn.Conv2d(3, 4, 3)(np.ones((3, 5, 5))), ShapeError, "4 axes"),
        (lambda: nn.Linear(3, 4)(np.ones((2, 5))), ShapeError, "5 features"),
        (lambda: nn.MaxPool2d(2)(np.ones((2, 5))), ShapeError, "4 axes"),
        (lambda: nn.BatchNorm2d(3)(np.ones((1, 3, 1, 1))), ShapeError, "more than one value"),
        (lambda: F.conv_transpose2d(np.ones((1, 2, 3, 3)), np.ones((3, 1, 2, 2))), ShapeError, "2 channels"),
        (
            lambda: F.conv_transpose2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), output_padding=1),
            OptionError,
            "smaller than stride",
        ),
        (lambda: F.cross_entropy(np.ones((2, 3)), np.array([0])), ShapeError, "one label per row"),
        (lambda: F.cross_entropy(np.ones((2, 3)), np.array([[0], [1]])), ShapeError, "one label per row"),
        (lambda: F.cross_entropy(np.ones((0, 3)), np.zeros(0, int)), ShapeError, "empty batch"),
        (lambda: F.cross_entropy(np.ones((2, 3)), np.array([0, 1]), reduction="max"), OptionError, "reduction"),
        (lambda: F.cross_entropy(np.ones((2, 3)), np.array([0, 1]), label_smoothing=2), OptionError, "label_smoothing"),
        (lambda: F.cross_entropy(np.ones((2, 3)), np.array([0, 1]), np.ones(2)), ShapeError, "class weights"),
        (lambda: F.mse_loss(np.ones((2, 1)), np.ones(2)), ShapeError, "must be equal"),
        (lambda: F.binary_cross_entropy(np.array([2.0]), np.array([1.0])), TinygradError, "probabilities"),
        (lambda: F.lp_pool2d(np.ones((1, 1, 4, 4)), 0, 2), OptionError, "norm_type"),
        (lambda: F.softmax(np.ones(3)), OptionError, "axis"),
        (lambda: nn.Dropout(2), OptionError, "from 0 to 1"),
        (lambda: nn.ReLU(at_zero=3), OptionError, "no subgradient"),
        (lambda: F.adaptive_avg_pool2d(np.ones((1, 1, 4, 4)), 0), ShapeError, "cannot pool"),
        (lambda: nn.LayerNorm((3, 4))(np.ones((2, 4, 3))), ShapeError, "does not end with"),
    ],
)
def test_mistakes_are_named_in_the_callers_words(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(TinygradError, match=r"0 \.\.\. 2"):
        F.cross_entropy(np.ones((2, 3)), np.array([0, 3]))
    with pytest.raises(TinygradError, match="ignore_index"):
        F.cross_entropy(np.ones((2, 3)), np.array([-100, -100]))
    with pytest.raises(TinygradError, match=r"0 \.\.\. 1"):
        F.one_hot(np.array([2]), 2)


def test_losses_are_finite_for_extreme_logits():
    x = Tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = F.cross_entropy(x, np.array([0, 0]))
    loss.backward()
    assert loss.item() == 1e4
    assert np.isfinite(x.grad.array).all()
    b = Tensor([1e4, -1e4], requires_grad=True)
    F.bce_with_logits(b, np.array([0.0, 1.0])).backward()
    assert b.grad.tolist() == [0.5, -0.5]


def test_one_hot_and_pad_are_pytorchs():
    assert F.one_hot(np.array([1, 0, 2])).tolist() == np.eye(3)[[1, 0, 2]].tolist()
    assert F.one_hot(np.array([1]), 4).shape == (1, 4)
    assert F.pad(np.ones((1, 2)), (1, 0)).tolist() == [[0, 1, 1]]


def test_a_state_dict_that_is_none_says_what_to_pass():
    model = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"got tuple; load_state_dict_file\(\) gives arrays and metadata"):
        model.load_state_dict((model.state_dict(), {}))
    with pytest.raises(CheckpointError, match="got list"):
        model.load_state_dict([1])
