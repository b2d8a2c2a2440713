"""A stand-in for the package nvidia-cudnn-frontend: it checks every call and computes convolutions with NumPy.

Its names, arguments and order of calls are those of the package (1.x): graphs of tensors with sizes, strides in
elements and identities; plans that can be left out by what they do to numbers; a plan that runs on addresses. Notes of
the plans are such that only the last one is exact in float32 and adds up in a fixed order.
"""

import ctypes
import enum
import math

import numpy as np

from tinygrad_cnn.backend import numpy_kernels


class data_type(enum.Enum):  # noqa: N801 - the package's name
    FLOAT = "float32"
    HALF = "float16"
    DOUBLE = "float64"


class numerical_note(enum.Enum):  # noqa: N801
    TENSOR_CORE = 0
    DOWN_CONVERT_INPUTS = 1
    REDUCED_PRECISION_REDUCTION = 2
    FFT = 3
    NONDETERMINISTIC = 4
    WINOGRAD = 5
    STRICT_NAN_PROP = 6


class heur_mode(enum.Enum):  # noqa: N801
    A = 0
    B = 1
    FALLBACK = 2


class cudnnGraphNotSupportedError(RuntimeError):  # noqa: N801
    """No plan is left."""


class Handle:
    def __init__(self):
        self.stream = 0


class Tensor:
    def __init__(self, dim, stride, data_type):
        self.dim, self.stride, self.data_type = list(dim), stride, data_type
        self.uid, self.is_output = None, False

    def set_uid(self, uid):
        self.uid = uid
        return self

    def set_output(self, wanted):
        self.is_output = wanted
        return self

    def set_data_type(self, kind):
        self.data_type = kind
        return self

    def set_dim(self, dim):
        self.dim = list(dim)
        return self

    def set_stride(self, stride):
        self.stride = list(stride)
        return self


class FakeCudnn:
    """The module. `fails` is an error that the making of plans raises; `calls` holds what was asked for."""

    __version__ = "1.32.0"
    data_type, numerical_note, heur_mode = data_type, numerical_note, heur_mode
    cudnnGraphNotSupportedError = cudnnGraphNotSupportedError  # noqa: N815

    def __init__(self, fails=None):
        self.fails = fails
        self.handles, self.graphs, self.runs = [], [], []

    def backend_version(self):
        return 92000

    def create_handle(self):
        self.handles.append(Handle())
        return self.handles[-1]

    def set_stream(self, handle, stream):
        assert handle in self.handles
        handle.stream = stream

    def pygraph(self, *, handle, name, io_data_type, intermediate_data_type, compute_data_type):
        assert handle in self.handles
        assert intermediate_data_type is compute_data_type is data_type.FLOAT
        self.graphs.append(Graph(self, io_data_type))
        return self.graphs[-1]


STAGES = ("validate", "build_operation_graph", "create_execution_plans", "check_support", "build_plans")


class Graph:
    def __init__(self, module, io):
        self.module, self.io = module, io
        self.tensors, self.stage, self.node = [], 0, None
        self.plans = [
            {numerical_note.TENSOR_CORE, numerical_note.DOWN_CONVERT_INPUTS},
            {numerical_note.TENSOR_CORE},
            {numerical_note.NONDETERMINISTIC},
            set(),
        ]

    def tensor(self, *, name, dim, stride, data_type):
        assert all(isinstance(n, int) and n > 0 for n in dim)
        assert stride == [math.prod(dim[i + 1 :]) for i in range(len(dim))], "only contiguous arrays are described"
        assert data_type is self.io
        self.tensors.append(Tensor(dim, stride, data_type))
        return self.tensors[-1]

    def _convolution(self, kind, a, b, geometry):
        assert geometry.pop("compute_data_type") is data_type.FLOAT, "float16 is summed in float32"
        assert geometry.pop("name") == kind
        assert set(geometry) == {"pre_padding", "post_padding", "stride", "dilation"}
        assert all(isinstance(v, list) and len(v) == 2 for v in geometry.values())
        result = Tensor([], None, None)
        self.node = (kind, a, b, result, geometry)
        return result

    def conv_fprop(self, *, image, weight, **geometry):
        return self._convolution("conv_fprop", image, weight, geometry)

    def conv_dgrad(self, *, loss, filter, **geometry):
        return self._convolution("conv_dgrad", loss, filter, geometry)

    def conv_wgrad(self, *, image, loss, **geometry):
        return self._convolution("conv_wgrad", image, loss, geometry)

    def _reached(self, name):
        assert STAGES[self.stage] == name, f"{name} where {STAGES[self.stage]} was due"
        self.stage += 1

    def validate(self):
        self._reached("validate")
        _, a, b, y, _ = self.node
        assert len({a.uid, b.uid, y.uid}) == 3
        assert y.is_output
        assert y.data_type is self.io
        assert y.stride == [math.prod(y.dim[i + 1 :]) for i in range(4)]

    def build_operation_graph(self):
        self._reached("build_operation_graph")

    def create_execution_plans(self, modes):
        self._reached("create_execution_plans")
        assert modes == [heur_mode.A, heur_mode.FALLBACK]
        if self.module.fails:
            raise self.module.fails

    def deselect_numeric_notes(self, notes):
        assert STAGES[self.stage] == "check_support", "what is left out before there are plans is lost"
        self.plans = [plan for plan in self.plans if not plan & set(notes)]

    def deselect_workspace_greater_than(self, limit):
        assert limit > 0

    def check_support(self):
        self._reached("check_support")
        if not self.plans:
            raise cudnnGraphNotSupportedError("no plan is left")

    def build_plans(self):
        self._reached("build_plans")

    def get_workspace_size(self):
        return 1000

    def execute(self, addresses, workspace, handle):
        assert self.stage == len(STAGES)
        assert handle in self.module.handles
        assert all(type(address) is int for address in (*addresses.values(), workspace))
        kind, a, b, y, geometry = self.node
        self.module.runs.append((kind, self.plans[0], handle.stream))
        _memory(workspace, [1000], np.uint8)[:] = 0
        first, second, out = (_memory(addresses[t.uid], t.dim, np.dtype(t.data_type.value)) for t in (a, b, y))
        options = {
            "stride": tuple(geometry["stride"]),
            "dilation": tuple(geometry["dilation"]),
            "padding": tuple(zip(geometry["pre_padding"], geometry["post_padding"], strict=True)),
        }
        first, second = first.astype(np.float32), second.astype(np.float32)
        if kind == "conv_fprop":
            out[:] = numpy_kernels.conv2d(first, second, groups=a.dim[1] // b.dim[1], **options)
        elif kind == "conv_dgrad":
            groups, size = y.dim[1] // b.dim[1], tuple(y.dim[2:])
            out[:] = numpy_kernels.conv2d_input_gradient(first, second, size=size, groups=groups, **options)
        else:
            groups, kernel = a.dim[1] // y.dim[1], tuple(y.dim[2:])
            out[:] = numpy_kernels.conv2d_weight_gradient(first, second, kernel=kernel, groups=groups, **options)


def _memory(address, shape, dtype):
    """Return the memory at an address as an array."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)
