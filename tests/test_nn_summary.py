"""The summary of a network: layers, shapes, parameters, FLOPs, memory, connections."""

import doctest
import json

import numpy as np
import pytest

from tinygrad_cnn import models, nn
from tinygrad_cnn.errors import OptionError, ShapeError
from tinygrad_cnn.nn import functional as F  # noqa: N812
from tinygrad_cnn.nn import summaries


def rows(model, shape):
    return {row.path: row for row in nn.summary(model, shape).rows}


def test_original_lenet5_has_the_connections_of_the_paper():
    found = nn.summary(models.LeNet5Original(), (1, 1, 32, 32))
    by_path = {row.path: row.connections for row in found.rows}
    assert {name: by_path[name] for name in ("c1", "s2", "c3", "s4", "c5", "f6", "output")} == {
        "c1": 122_304,
        "s2": 5_880,
        "c3": 151_600,
        "s4": 2_000,
        "c5": 48_120,
        "f6": 10_164,
        "output": 840,
    }
    assert found.connections == 340_908
    assert found.parameters == 60_000


def test_modern_lenet5_is_summarised_layer_by_layer():
    found = rows(models.LeNet5(), (1, 1, 28, 28))
    assert list(found)[:3] == ["conv1", "relu1", "pool1"]
    conv1 = found["conv1"]
    assert (conv1.kind, conv1.output_shape, conv1.parameters) == ("Conv2d", (1, 6, 28, 28), 156)
    assert conv1.flops == 2 * 25 * 6 * 28 * 28 + 6 * 28 * 28
    assert conv1.bytes == 4 * 6 * 28 * 28
    # Sparse interactions and shared parameters: what the dense layer for the same map would have.
    assert conv1.connections == 26 * 6 * 28 * 28
    assert conv1.dense_parameters == (784 + 1) * 6 * 28 * 28
    assert found["pool1"].dense_parameters is None
    assert found["fc1"].connections == found["fc1"].parameters == found["fc1"].dense_parameters == 48_120
    assert sum(row.parameters for row in found.values()) == 61_706


def test_flops_and_memory_grow_with_the_batch_and_connections_do_not():
    one, four = (nn.summary(models.LeNet5(), (n, 1, 28, 28)) for n in (1, 4))
    assert four.flops == 4 * one.flops
    assert four.bytes == 4 * one.bytes
    assert four.connections == one.connections
    assert four.rows[0].output_shape == (4, 6, 28, 28)


def test_transposed_and_grouped_convolutions_count_their_own_connections():
    found = rows(nn.Sequential(nn.ConvTranspose2d(4, 2, 3, bias=False), nn.Conv2d(2, 4, 3, groups=2)), (1, 4, 5, 5))
    assert found["0"].connections == 4 * 5 * 5 * 2 * 9
    assert found["0"].dense_parameters == 4 * 25 * 2 * 49
    assert found["1"].connections == 4 * 25 * (9 + 1)


def test_resnet18_has_the_connections_that_its_paper_counts():
    found = nn.summary(models.resnet18(), (1, 3, 224, 224))
    assert round(found.connections / 1e9, 1) == 1.8  # table 1 of He et al.: 1.8e9 multiply-adds


def test_functions_in_forward_belong_to_the_module_that_calls_them():
    class Net(nn.Module):
        def __init__(self):
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            return F.relu(self.conv(x))

    found = rows(Net(), (1, 1, 4, 4))
    assert list(found) == ["", "conv"]
    assert found[""].kind == "Net"
    assert found[""].flops == 8
    assert found[""].output_shape == (1, 2, 2, 2)


def test_a_module_called_twice_counts_its_parameters_once():
    layer = nn.Linear(3, 3)
    found = nn.summary(nn.Sequential(layer, nn.ReLU(), layer), (1, 3))
    assert [row.parameters for row in found.rows] == [12, 0, 0]
    assert [row.connections for row in found.rows] == [12, 0, 12]
    assert found.parameters == 12


def test_containers_have_no_row_and_frozen_parameters_are_told_apart():
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), nn.Linear(2, 1))
    net[0].requires_grad_(False)
    found = nn.summary(net, (1, 3))
    assert [row.path for row in found.rows] == ["0.0", "0.1", "1"]
    assert (found.parameters, found.trainable_parameters) == (11, 3)


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    net[2].eval()
    before = {name: t.array.copy() for name, t in net.state_dict().items()}
    nn.summary(net, (2, 3))
    assert [module.training for module in net.modules()] == [True, True, True, False]
    for name, t in net.state_dict().items():
        np.testing.assert_array_equal(t.array, before[name])


def test_the_type_of_the_parameters_decides_that_of_the_input():
    net = nn.Linear(3, 4).double()
    assert nn.summary(net, (1, 3)).rows[0].bytes == 32


def test_rows_are_plain_data():
    found = nn.summary(models.MLP(hidden=(5,)), (1, 1, 28, 28))
    text = json.dumps(found.as_dicts())
    assert json.loads(text)[2]["path"] == "fc1"


def test_the_table_shows_every_layer_and_the_totals():
    text = str(nn.summary(models.LeNet5(), (1, 1, 28, 28)))
    lines = text.splitlines()
    assert lines[0] == "LeNet5, input 1×1×28×28"
    assert any("conv1" in line and "3,692,640" in line and "122,304" in line for line in lines)
    assert lines[-1] == "61,706 parameters (247kB), all trained; 429,342 connections per image"
    assert repr(nn.summary(nn.Linear(2, 2), (1, 2))) == str(nn.summary(nn.Linear(2, 2), (1, 2)))
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("shape", [28, (3,), (1, 0, 3), "1x28x28", (1, 2.5)])
def test_a_shape_without_batch_is_refused(shape):
    with pytest.raises(OptionError, match="shape with the batch"):
        nn.summary(nn.Linear(3, 4), shape)


def test_an_input_the_network_cannot_take_is_an_error_and_restores_the_mode():
    net = nn.Linear(3, 4)
    with pytest.raises(ShapeError):
        nn.summary(net, (1, 5))
    assert net.training


def test_examples_in_the_documentation_run():
    assert doctest.testmod(summaries).failed == 0
