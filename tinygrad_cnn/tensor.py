"""Tensor: an array with operators that record, methods as in NumPy, and `backward()`."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar, SupportsIndex

from . import autodiff, graph, ops
from .backend import (
    Device,
    bool_,
    current_device,
    default_float,
    device_of,
    float32,
    float64,
    generator,
    int64,
    is_float,
    is_number,
    namespace,
    on_host,
    to_host,
)
from .backend.delivery import deliver_as
from .backend.device import CPU, namespaces
from .backend.dtypes import as_dtype
from .backend.exposure import expose
from .errors import DeviceError, DTypeError, GraphError, OptionError, ShapeError
from .graph import Traced
from .op import operator

__all__ = ["Tensor", "arange", "eye", "from_dlpack", "full", "grad", "ones", "rand", "randn", "tensor", "zeros"]


# Inside the class, `bool` and `float` are methods, as in PyTorch.
Bool = bool
Float = float


def _alias(value: Any, other: Any, names: tuple[str, str], default: Any) -> Any:
    """Merge an argument and its PyTorch name (`axis`/`dim`, `keepdims`/`keepdim`)."""
    if other is None:
        return value
    if value is not default:
        raise TypeError(f"give {names[0]} or {names[1]}, not both: they mean the same")
    return other


def _axis(axis: Any, dim: Any) -> Any:
    return axis if dim is None else _alias(axis, dim, ("axis", "dim"), None)


def _keep(keepdims: bool, keepdim: bool | None) -> bool:
    return keepdims if keepdim is None else bool(_alias(keepdims, keepdim, ("keepdims", "keepdim"), False))


def _one_shape(shape: tuple[Any, ...]) -> Any:
    """Accept `f(2, 3)` as well as `f((2, 3))`."""
    if len(shape) == 1 and (isinstance(shape[0], (tuple, list)) or shape[0] is None):
        return shape[0]
    return shape


def _with_plain_arrays(data: Any) -> Any:
    """Join tensors in nested lists into one array, so that they keep their type; leave everything else as it is."""
    if not isinstance(data, (list, tuple)) or not data:
        return data
    first = data[0]
    if not isinstance(first, (list, tuple, Traced)):
        return data
    rows = [row.array if isinstance(row, Traced) else _with_plain_arrays(row) for row in data]
    if not all(hasattr(row, "shape") and row.shape == rows[0].shape for row in rows):
        return rows if isinstance(first, Traced) else data
    return namespace(*rows).stack(rows)


def _as_array(data: Any, dtype: Any, device: Device | None) -> Any:
    """Copy data into a new array on a device: the given one, that of the tensors or the GPU's array, or the current."""
    given = data
    data = _with_plain_arrays(data.array if isinstance(data, Traced) else data)
    known = hasattr(data, "dtype")
    if device is None:
        device = current_device()
        if data is not given or not on_host(data):  # a NumPy array names no device
            with suppress(DeviceError):
                device = device_of(data)
    xp = device.xp
    try:
        # Another library may refuse on the way over what is told better here.
        array = data if known and not on_host(data) and type(data) in namespaces else CPU.asarray(data)
    except (ValueError, TypeError) as error:
        raise DTypeError(f"cannot make a tensor of {type(data).__name__}: {error}") from error
    if not is_number(array.dtype):
        raise DTypeError(
            f"cannot make a tensor of {type(data).__name__} with element type {array.dtype}; "
            "element types are float16, bfloat16, float32, float64, integers and bool"
        )
    if dtype is None:
        dtype = default_float if array.dtype.kind == "f" and not known else array.dtype
    dtype = as_dtype(dtype)
    if not array.dtype.isnative:
        array = array.astype(as_dtype(array.dtype))  # no device knows the other byte order
    with device.context():
        return xp.array(device.asarray(array), dtype=dtype, copy=True, subok=False, order="K")


class Size(int):
    """A number of elements that can be called: `x.size` counts as in NumPy, `x.size()` and `x.size(0)` as in PyTorch.

    >>> x = ones(2, 3)
    >>> x.size, x.size(), x.size(-1)
    (6, (2, 3), 3)
    """

    shape: tuple[int, ...]

    def __new__(cls, shape: tuple[int, ...]) -> Size:
        size = super().__new__(cls, math.prod(shape))
        size.shape = shape
        return size

    def __call__(self, dim: int | None = None) -> Any:
        if dim is None:
            return self.shape
        if not -len(self.shape) <= dim < len(self.shape):
            raise ShapeError(f"size: shape {self.shape} has no axis {dim}")
        return self.shape[dim]


# What to write for methods that tensors of other libraries have.
_INSTEAD = {
    "add_": "x += y under no_grad()",
    "indices": "x.argmax(axis); here x.max(axis) gives the values alone",
    "mm": "x @ y",
    "mul_": "x *= y under no_grad()",
    "norm": "(x * x).sum().sqrt()",
    "sub_": "x -= y under no_grad()",
    "type": "x.to(dtype='float32')",
    "values": "x.max(axis) itself, which gives the values alone",
}


class Tensor(Traced):
    """An array of numbers with automatic differentiation.

    Args:
        data: numbers, nested lists of them, an array or a tensor. It is always copied: a later write to `data` changes
            nothing here. Python floats become float32, arrays keep their type.
        dtype: element type: float16, bfloat16 (extra `amp`), float32, float64, an integer type or bool.
        device: "cpu", "cuda", "cuda:1" or a `Device`. Default: that of a tensor or of a GPU's array,
            and for everything else what `use_device()` says.
        requires_grad: record what is computed from this tensor, so that `backward()` can fill in `grad`.
        name: a name for pictures and messages.

    Raises:
        DTypeError: `data` is not numeric, or a tensor of integers is to require a gradient.

    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = (x * x).sum()
    >>> y.backward()
    >>> x.grad
    Tensor([2., 4., 6.], dtype=float32)
    """

    __slots__ = ()
    __hash__ = object.__hash__
    __array_priority__: ClassVar[float] = 1000.0

    def __init__(
        self,
        data: Any,
        dtype: Any = None,
        device: Device | str | None = None,
        requires_grad: Bool = False,
        name: str | None = None,
    ) -> None:
        place = Device(device) if isinstance(device, str) else device
        self.array = _as_array(data, dtype, place)
        self.grad = None
        self.hooks = None
        self.index = graph.next_index()
        self.name = name
        self.node = None
        self.requires_grad = False
        if requires_grad:
            self.requires_grad_()

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> Any:
        """The element type, a NumPy dtype on every device."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return int(self.array.ndim)

    @property
    def size(self) -> Size:
        """The number of elements, as in NumPy; `size()` is the shape and `size(0)` one axis of it, as in PyTorch."""
        return Size(self.array.shape)

    def numel(self) -> int:
        """Return the number of elements."""
        return int(self.array.size)

    def dim(self) -> int:
        """Return the number of axes."""
        return int(self.array.ndim)

    @property
    def nbytes(self) -> int:
        """The memory of the elements, in bytes."""
        return int(self.array.nbytes)

    @property
    def device(self) -> Device:
        """Where the elements are."""
        return device_of(self.array)

    @property
    def T(self) -> Tensor:  # noqa: N802 - NumPy's name
        """The tensor with its axes reversed."""
        return self.transpose()

    @property
    def mT(self) -> Tensor:  # noqa: N802 - NumPy's name
        """The tensor with its last two axes exchanged: the transposed matrices."""
        return self.swapaxes(-1, -2)

    @property
    def data(self) -> Any:
        """The array itself. Handing it out puts its memory under watch: a write to it after an op has read it makes
        `backward()` raise instead of being wrong. Assigning replaces the values without recording."""
        expose(self.array, graph.next_index())
        return self.array

    @data.setter
    def data(self, value: Any) -> None:
        array = _as_array(value, None, self.device)
        if array.shape != self.array.shape:
            raise ShapeError(f"data has shape {self.shape}, cannot be replaced by an array of shape {array.shape}")
        self.array = array.astype(self.array.dtype, copy=False)
        self.edited()

    def __len__(self) -> int:
        if not self.array.ndim:
            raise TypeError("a tensor without axes has no length")
        return len(self.array)

    def __repr__(self) -> str:
        import numpy as np  # the text of numbers is NumPy's on every device

        body = np.array2string(to_host(self.array), separator=", ", prefix="Tensor(", threshold=100, edgeitems=3)
        parts = [body]
        if self.array.size == 0:
            parts = [f"[], shape={self.shape}"]
        parts.append(f"dtype={self.dtype}")
        device = self.device
        if device.kind != "cpu":
            parts.append(f"device='{device}'")
        if self.node is not None:
            parts.append(f"made_by={self.node.op.name}")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        if self.name is not None:
            parts.append(f"name={self.name!r}")
        return f"Tensor({', '.join(parts)})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Show a notebook the values and the graph that they were computed by."""
        from .viz.notebook import tensor_bundle

        return tensor_bundle(self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    # Out of the tensor

    def numpy(self) -> Any:
        """Return the values as a NumPy array. On the CPU it shares memory with the tensor, which is then watched: see
        `data`."""
        if self.device.kind == "cpu":
            return self.data
        return to_host(self.array)

    def item(self) -> Any:
        """Return the one element as a Python number.

        Raises:
            ShapeError: there is not exactly one element.
        """
        if self.array.size != 1:
            raise ShapeError(f"item() needs a tensor with one element, this one has shape {self.shape}")
        return self.array.item()

    def tolist(self) -> Any:
        """Return the values as nested lists of Python numbers."""
        return to_host(self.array).tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.array.ndim or self.array.dtype.kind not in "iu":
            raise TypeError(
                f"only a whole number without axes can be an index, this is {self.dtype} of shape {self.shape}"
            )
        return int(self.array.item())

    def __bool__(self) -> Bool:
        if self.array.size != 1:
            raise ShapeError(
                f"the truth of a tensor of shape {self.shape} is not defined; use .any(), .all() or compare one element"
            )
        return bool(self.array.item())

    def __array__(self, dtype: Any = None, copy: Bool | None = None) -> Any:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"a {self.dtype} tensor cannot become a {dtype} array without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """NumPy's own functions and operators on tensors: `np.exp(x)` and `array + x` are recorded too."""
        function = _UFUNCS.get(ufunc.__name__)
        if method != "__call__" or kwargs or function is None:
            return NotImplemented
        return function(*inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """NumPy's other functions: `np.sum(x)` and a few more are recorded; all others compute on the values alone."""
        recorded = _FUNCTIONS.get(function.__name__) if function.__module__ == "numpy" else None
        if recorded is not None:
            return recorded(*args, **kwargs)
        return function(*_values_in(args), **{name: _values_in(value) for name, value in kwargs.items()})

    def __dlpack__(self, **options: Any) -> Any:
        """Share memory with another library by the DLPack protocol."""
        if self.requires_grad:
            raise GraphError("a tensor that requires a gradient cannot be shared by DLPack; share .detach() instead")
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    # Differentiation

    def requires_grad_(self, requires_grad: Bool = True) -> Tensor:
        """Say whether gradients are wanted for this leaf, and return it.

        Raises:
            DTypeError: the elements are not floats.
            GraphError: the tensor was computed from others; use `detach()`.
        """
        if requires_grad and not is_float(self.dtype):
            raise DTypeError(
                f"only float tensors can require a gradient, this one holds {self.dtype}; use .astype('float32')"
            )
        if self.node is not None and not requires_grad:
            raise GraphError("this tensor was computed from others that require gradients; use .detach() to cut it off")
        self.requires_grad = requires_grad or self.node is not None
        return self

    def backward(self, gradient: Any = None, retain_graph: Bool | None = None, create_graph: Bool = False) -> None:
        """Add the gradient of this tensor with respect to every leaf x that requires one to `x.grad`.

        Args:
            gradient: what flows in from above, of this shape; only a tensor with one element does without.
            retain_graph: keep the graph, to walk it again. Default: the value of `create_graph`.
            create_graph: record the gradients themselves, so that they can be differentiated again.

        Raises:
            GraphError: nothing was recorded, no gradient to start with, a graph walked twice, or an array edited since.
        """
        autodiff.backward(self, gradient, retain_graph=retain_graph, create_graph=create_graph)

    def detach(self) -> Tensor:
        """Return the values cut off from the graph. Those of a leaf are copied, since optimizers write to leaves."""
        array = self.array
        if self.node is None and self.requires_grad:
            array = array.copy()
        detached: Tensor = Tensor.made(array)
        return detached

    def __reduce__(self) -> Any:
        """Let `copy` and `pickle` make a new leaf: the index of a tensor must never exist twice."""
        if self.node is not None:
            raise GraphError(
                f"a tensor that was computed (by {self.node.op.name}) cannot be copied together with its graph; "
                "copy .detach(), or use .clone() for a copy that gradients flow through"
            )
        return _leaf_again, (type(self), self.array, self.requires_grad, self.name, self.grad)

    def clone(self) -> Tensor:
        """Return a copy that gradients flow through."""
        result: Tensor = ops.astype(self, dtype=self.dtype)
        return result

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
        """Call `hook(gradient)` when the gradient of this tensor is complete; what it returns replaces the gradient.

        Returns:
            A function that removes the hook.

        Raises:
            GraphError: the tensor needs no gradient.
        """
        if not self.requires_grad:
            raise GraphError("a hook needs a tensor that requires a gradient; this one does not")
        owner: Any = self if self.node is None else self.node
        if owner.hooks is None:
            owner.hooks = []
        owner.hooks.append(hook)

        def remove() -> None:
            if hook in owner.hooks:
                owner.hooks.remove(hook)

        return remove

    def retain_grad(self) -> None:
        """Keep the gradient of a tensor that is no leaf in `grad`, too."""
        if self.node is not None and not any(isinstance(hook, _KeepGrad) for hook in self.node.hooks or ()):
            self.register_hook(_KeepGrad(self))

    # Devices and types

    def to(self, *targets: Any, device: Any = None, dtype: Any = None) -> Tensor:
        """Return the tensor elsewhere or in another type: `x.to("cuda")`, `x.to(float64)`, `x.to("cuda", float16)`.

        Gradients flow back through the move. A tensor that is there already is returned as it is.
        """
        for target in targets:
            if isinstance(target, Device) or (
                isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda", "standin")
            ):
                device = target
            elif isinstance(target, Tensor):
                device, dtype = target.device, target.dtype
            else:
                dtype = target
        result = self
        if device is not None:
            place = device if isinstance(device, Device) else Device(device)
            if place != result.device:
                result = ops.to_device(result, device=place)
        if dtype is not None and as_dtype(dtype) != result.dtype:
            result = ops.astype(result, dtype=as_dtype(dtype))
        return result

    def cpu(self) -> Tensor:
        """Return the tensor in main memory."""
        return self.to("cpu")

    def cuda(self, index: int = 0) -> Tensor:
        """Return the tensor on an NVIDIA GPU."""
        return self.to(f"cuda:{index}")

    def astype(self, dtype: Any) -> Tensor:
        """Return the tensor in another element type."""
        return self.to(dtype=dtype)

    def float(self) -> Tensor:
        """Return the tensor as float32."""
        return self.to(dtype=float32)

    def half(self) -> Tensor:
        """Return the tensor as float16."""
        return self.to(dtype="float16")

    def bfloat16(self) -> Tensor:
        """Return the tensor as bfloat16 (extra `amp`)."""
        return self.to(dtype="bfloat16")

    def double(self) -> Tensor:
        """Return the tensor as float64."""
        return self.to(dtype=float64)

    def long(self) -> Tensor:
        """Return the tensor as int64."""
        return self.to(dtype=int64)

    def bool(self) -> Tensor:
        """Return the tensor as booleans: whether each element differs from 0."""
        return self.to(dtype=bool_)

    # Shape

    def reshape(self, *shape: Any) -> Tensor:
        """Return the same elements in another shape; one size may be -1."""
        result: Tensor = ops.reshape(self, shape=_one_shape(shape))
        return result

    view = reshape

    def view_as(self, other: Tensor) -> Tensor:
        """Return the same elements in the shape of another tensor."""
        return self.reshape(other.shape)

    def transpose(self, *axes: Any) -> Tensor:
        """Return the tensor with its axes in the given order (default: reversed), as in NumPy."""
        order = _one_shape(axes)
        result: Tensor = ops.transpose(self, axes=order if order else None)
        return result

    def permute(self, *axes: Any) -> Tensor:
        """Return the tensor with its axes in the given order."""
        result: Tensor = ops.transpose(self, axes=_one_shape(axes))
        return result

    def t(self) -> Tensor:
        """Return the transposed matrix.

        Raises:
            ShapeError: there are more than two axes.
        """
        if self.ndim > 2:
            raise ShapeError(f"t() transposes matrices, this tensor has shape {self.shape}; use .mT or .permute()")
        return self.transpose()

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        """Return the tensor with two axes exchanged."""
        result: Tensor = ops.swapaxes(self, axis1, axis2)
        return result

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Return the tensor with the axes from `start_dim` to `end_dim` joined into one."""
        result: Tensor = ops.flatten(self, start_dim, end_dim)
        return result

    def ravel(self) -> Tensor:
        """Return all elements along one axis."""
        return self.reshape(-1)

    def squeeze(self, axis: Any = None, dim: Any = None) -> Tensor:
        """Return the tensor without its axes of size 1: all of them, or those named."""
        result: Tensor = ops.squeeze(self, _axis(axis, dim))
        return result

    def unsqueeze(self, axis: Any = None, dim: Any = None) -> Tensor:
        """Return the tensor with a new axis of size 1 at position `axis`."""
        result: Tensor = ops.expand_dims(self, _axis(axis, dim))
        return result

    def expand(self, *shape: Any) -> Tensor:
        """Return the tensor stretched to `shape`; -1 keeps a size."""
        target = ops.shapes.as_shape(_one_shape(shape))
        extra = len(target) - self.ndim
        target = tuple(self.shape[i - extra] if n == -1 and i >= extra else n for i, n in enumerate(target))
        result: Tensor = ops.broadcast_to(self, shape=target)
        return result

    def broadcast_to(self, shape: Any) -> Tensor:
        """Return the tensor stretched to `shape`."""
        result: Tensor = ops.broadcast_to(self, shape=shape)
        return result

    def flip(self, axis: Any = None) -> Tensor:
        """Return the tensor with the order of its elements reversed along `axis`."""
        result: Tensor = ops.flip(self, axis)
        return result

    def split(self, sections: Any, axis: int = 0) -> list[Tensor]:
        """Return the tensor cut along `axis` into equal parts, or before each of the given positions."""
        result: list[Tensor] = ops.split(self, sections, axis)
        return result

    def pad(self, widths: Any, value: Float = 0.0) -> Tensor:
        """Return the tensor framed with `value`; `widths` holds (before, after) for every axis."""
        result: Tensor = ops.pad(self, widths=widths, value=value)
        return result

    def contiguous(self) -> Tensor:
        """Return the tensor itself: every op accepts every memory layout."""
        return self

    def __getitem__(self, index: Any) -> Tensor:
        result: Tensor = ops.getitem(self, index=index)
        return result

    def __setitem__(self, index: Any, value: Any) -> None:
        if self.requires_grad and graph.is_recording():
            raise GraphError(
                "a tensor that requires a gradient cannot be written to while recording: the gradient of what it held "
                "before would be lost; build the new values with where() or concatenate(), or write under no_grad()"
            )
        array = self.array.copy()
        xp = namespace(array)
        if isinstance(value, Traced):
            if namespace(value.array) is not xp:
                raise DeviceError(
                    f"cannot write values on {device_of(value.array)} into a tensor on {self.device}; "
                    f"bring them over with .to('{self.device}')"
                )
            value = value.array
        elif not isinstance(value, (int, float, bool)):
            value = xp.asarray(value)
        array[ops.shapes.placed(xp, ops.shapes.plain_index(index))] = value
        self.array = array
        self.edited()

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in _INSTEAD]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.ndim:
            raise TypeError("a tensor without axes cannot be iterated over")
        return (self[i] for i in range(len(self)))

    # Reductions

    def sum(self, axis: Any = None, keepdims: Bool = False, *, dim: Any = None, keepdim: Bool | None = None) -> Tensor:
        """Return the sum over `axis` (default: all elements)."""
        result: Tensor = ops.sum(self, axis=_axis(axis, dim), keepdims=_keep(keepdims, keepdim))
        return result

    def mean(self, axis: Any = None, keepdims: Bool = False, *, dim: Any = None, keepdim: Bool | None = None) -> Tensor:
        """Return the mean over `axis` (default: all elements)."""
        result: Tensor = ops.mean(self, axis=_axis(axis, dim), keepdims=_keep(keepdims, keepdim))
        return result

    def var(
        self,
        axis: Any = None,
        keepdims: Bool = False,
        correction: int = 0,
        *,
        dim: Any = None,
        keepdim: Bool | None = None,
    ) -> Tensor:
        """Return the variance over `axis`, divided by n - correction (0 as in NumPy; PyTorch has 1)."""
        result: Tensor = ops.var(self, axis=_axis(axis, dim), keepdims=_keep(keepdims, keepdim), correction=correction)
        return result

    def std(
        self,
        axis: Any = None,
        keepdims: Bool = False,
        correction: int = 0,
        *,
        dim: Any = None,
        keepdim: Bool | None = None,
    ) -> Tensor:
        """Return the square root of the variance."""
        result: Tensor = ops.std(self, _axis(axis, dim), _keep(keepdims, keepdim), correction)
        return result

    def max(
        self,
        axis: Any = None,
        keepdims: Bool = False,
        ties: str = "first",
        *,
        dim: Any = None,
        keepdim: Bool | None = None,
    ) -> Tensor:
        """Return the maximum over `axis` (default: all elements); `ties` is "first" or "split"."""
        result: Tensor = ops.amax(self, axis=_axis(axis, dim), keepdims=_keep(keepdims, keepdim), ties=ties)
        return result

    def min(
        self,
        axis: Any = None,
        keepdims: Bool = False,
        ties: str = "first",
        *,
        dim: Any = None,
        keepdim: Bool | None = None,
    ) -> Tensor:
        """Return the minimum over `axis` (default: all elements); `ties` is "first" or "split"."""
        result: Tensor = ops.amin(self, axis=_axis(axis, dim), keepdims=_keep(keepdims, keepdim), ties=ties)
        return result

    def argmax(
        self,
        axis: int | None = None,
        keepdims: Bool = False,
        *,
        dim: int | None = None,
        keepdim: Bool | None = None,
    ) -> Tensor:
        """Return the position of the first maximum."""
        result: Tensor = ops.argmax(self, axis=_axis(axis, dim), keepdims=_keep(keepdims, keepdim))
        return result

    def argmin(
        self,
        axis: int | None = None,
        keepdims: Bool = False,
        *,
        dim: int | None = None,
        keepdim: Bool | None = None,
    ) -> Tensor:
        """Return the position of the first minimum."""
        result: Tensor = ops.argmin(self, axis=_axis(axis, dim), keepdims=_keep(keepdims, keepdim))
        return result

    def prod(self, axis: Any = None, keepdims: Bool = False, *, dim: Any = None, keepdim: Bool | None = None) -> Tensor:
        """Return the product over `axis` (default: all elements)."""
        result: Tensor = ops.prod(self, axis=_axis(axis, dim), keepdims=_keep(keepdims, keepdim))
        return result

    def cumsum(self, axis: int | None = None, *, dim: int | None = None) -> Tensor:
        """Return the running sum along `axis` (default: of all elements in order)."""
        axis = _axis(axis, dim)
        result: Tensor = ops.cumsum(self.ravel(), axis=0) if axis is None else ops.cumsum(self, axis=axis)
        return result

    def any(self) -> Bool:
        """Return whether any element differs from 0."""
        return bool(self.array.any().item())

    def all(self) -> Bool:
        """Return whether all elements differ from 0."""
        return bool(self.array.all().item())

    def logsumexp(
        self, axis: Any = None, keepdims: Bool = False, *, dim: Any = None, keepdim: Bool | None = None
    ) -> Tensor:
        """Return ln Σ e^x over `axis`, without overflow."""
        result: Tensor = ops.logsumexp(self, axis=_axis(axis, dim), keepdims=_keep(keepdims, keepdim))
        return result

    def softmax(self, axis: int | None = None, *, dim: int | None = None) -> Tensor:
        """Return e^x / Σ e^x along `axis`."""
        result: Tensor = ops.softmax(self, axis=_axis(axis, dim))
        return result

    def log_softmax(self, axis: int | None = None, *, dim: int | None = None) -> Tensor:
        """Return ln softmax along `axis`."""
        result: Tensor = ops.log_softmax(self, axis=_axis(axis, dim))
        return result

    # Elementwise

    def abs(self) -> Tensor:
        """Return |x|; the derivative at 0 is 0."""
        result: Tensor = ops.absolute(self)
        return result

    def exp(self) -> Tensor:
        """Return e^x."""
        result: Tensor = ops.exp(self)
        return result

    def log(self) -> Tensor:
        """Return ln x."""
        result: Tensor = ops.log(self)
        return result

    def log1p(self) -> Tensor:
        """Return ln(1 + x)."""
        result: Tensor = ops.log1p(self)
        return result

    def sqrt(self) -> Tensor:
        """Return the square root."""
        result: Tensor = ops.sqrt(self)
        return result

    def tanh(self) -> Tensor:
        """Return tanh x."""
        result: Tensor = ops.tanh(self)
        return result

    def sigmoid(self) -> Tensor:
        """Return 1 / (1 + e^-x)."""
        result: Tensor = ops.sigmoid(self)
        return result

    def softplus(self) -> Tensor:
        """Return ln(1 + e^x)."""
        result: Tensor = ops.softplus(self)
        return result

    def relu(self, at_zero: Any = "left") -> Tensor:
        """Return max(x, 0); `at_zero` chooses the derivative at 0: "left" (0), "right" (1), "average" or a number."""
        result: Tensor = ops.relu(self, at_zero=at_zero)
        return result

    def leaky_relu(self, negative_slope: Any = 0.01, at_zero: Any = "left") -> Tensor:
        """Return x where it is positive, else `negative_slope` x."""
        result: Tensor = ops.leaky_relu(self, negative_slope=negative_slope, at_zero=at_zero)
        return result

    def elu(self, alpha: Any = 1.0) -> Tensor:
        """Return x where it is positive, else alpha (e^x - 1)."""
        result: Tensor = ops.elu(self, alpha=alpha)
        return result

    def gelu(self, approximate: str = "none") -> Tensor:
        """Return x Φ(x)."""
        result: Tensor = ops.gelu(self, approximate)
        return result

    def clip(self, low: Any = None, high: Any = None) -> Tensor:
        """Return x limited to [low, high]; the derivative at both ends is 1."""
        result: Tensor = ops.clip(self, low=low, high=high)
        return result

    def clamp(self, min: Any = None, max: Any = None) -> Tensor:
        """Return x limited to [min, max]: `clip` with PyTorch's names."""
        return self.clip(min, max)

    def maximum(self, other: Any, ties: str = "first") -> Tensor:
        """Return the larger of each pair of elements."""
        result: Tensor = ops.maximum(self, other, ties=ties)
        return result

    def minimum(self, other: Any, ties: str = "first") -> Tensor:
        """Return the smaller of each pair of elements."""
        result: Tensor = ops.minimum(self, other, ties=ties)
        return result

    def where(self, condition: Any, other: Any) -> Tensor:
        """Return this tensor where the condition holds, `other` elsewhere."""
        result: Tensor = ops.where(condition, self, other)
        return result

    def pow(self, exponent: Any) -> Tensor:
        """Return x ** exponent."""
        result: Tensor = ops.power(self, exponent)
        return result

    def matmul(self, other: Any) -> Tensor:
        """Return the matrix product."""
        result: Tensor = ops.matmul(self, other)
        return result

    def eq(self, other: Any) -> Tensor:
        """Return where the elements are equal."""
        result: Tensor = ops.equal(self, other)
        return result

    # Operators

    __add__ = operator(ops.add, "add")
    __radd__ = operator(ops.add, "add", reflected=True)
    __sub__ = operator(ops.sub, "subtract")
    __rsub__ = operator(ops.sub, "subtract", reflected=True)
    __mul__ = operator(ops.mul, "multiply")
    __rmul__ = operator(ops.mul, "multiply", reflected=True)
    __truediv__ = operator(ops.div, "true_divide")
    __rtruediv__ = operator(ops.div, "true_divide", reflected=True)
    __pow__ = operator(ops.power, "power")
    __rpow__ = operator(ops.power, "power", reflected=True)

    def __matmul__(self, other: Any) -> Any:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return ops.matmul(other, self)

    def __neg__(self) -> Any:
        return ops.neg(self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return ops.absolute(self)

    def __invert__(self) -> Any:
        if self.dtype != bool_:
            raise DTypeError(f"~ inverts booleans, this tensor holds {self.dtype}")
        return ops.equal(self, False)

    def __lt__(self, other: Any) -> Any:
        return ops.less(self, other)

    def __le__(self, other: Any) -> Any:
        return ops.less_equal(self, other)

    def __gt__(self, other: Any) -> Any:
        return ops.greater(self, other)

    def __ge__(self, other: Any) -> Any:
        return ops.greater_equal(self, other)

    def __eq__(self, other: Any) -> Any:
        return ops.equal(self, other)

    def __ne__(self, other: Any) -> Any:
        return ops.not_equal(self, other)

    def _in_place(self, function: Any, other: Any) -> Any:
        """Replace the values of a tensor nobody differentiates by `function(self, other)`; otherwise make a new one.

        While recording, `x += y` binds the name x to the recorded sum, as for any immutable value. Under `no_grad()`
        a leaf, such as a parameter, gets new values and stays the same object.
        """
        if self.requires_grad and graph.is_recording():
            if self.node is None:
                raise GraphError(
                    f"a leaf that requires a gradient ({self.name or 'shape ' + str(self.shape)}) cannot be changed in "
                    "place while recording; do it under no_grad(), or write x = x + y to go on with the sum"
                )
            return function(self, other)
        if isinstance(other, Traced) and other.requires_grad and graph.is_recording():
            return function(self, other)
        with graph.no_grad():
            result = function(self, other)
        if result.array.shape != self.array.shape:
            raise ShapeError(
                f"an in-place operation cannot change the shape {self.shape} to {tuple(result.array.shape)}"
            )
        if is_float(result.array.dtype) and not is_float(self.array.dtype):
            raise DTypeError(
                f"the result holds {result.array.dtype} and does not fit into this tensor of {self.array.dtype}; "
                "write x = x + y for a new tensor, or convert this one with .astype('float32')"
            )
        self.array = result.array.astype(self.array.dtype, copy=False)
        self.edited()
        return self

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(ops.add, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(ops.sub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(ops.mul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(ops.div, other)

    def __ipow__(self, other: Any) -> Any:
        return self._in_place(ops.power, other)

    def copy_(self, other: Any) -> Tensor:
        """Give this leaf the values of `other` (of the same shape) without recording, and return it."""
        self.data = other.array if isinstance(other, Traced) else other
        return self

    def fill_(self, value: Any) -> Tensor:
        """Give every element of this leaf the same value without recording, and return it.

        A slice is a value of its own, not a window: write `x[0] = 1`, since `x[0].fill_(1)` leaves x as it is.
        """
        self.array = namespace(self.array).full_like(self.array, value)
        self.edited()
        return self

    def zero_(self) -> Tensor:
        """Set every element of this leaf to 0 without recording, and return it."""
        return self.fill_(0)


def _leaf_again(kind: type[Tensor], array: Any, requires_grad: bool, name: str | None, grad: Any) -> Tensor:
    leaf: Tensor = kind.made(array.copy())
    leaf.requires_grad, leaf.name, leaf.grad = requires_grad, name, grad
    return leaf


class _KeepGrad:
    """The hook of `retain_grad`: adds the gradient to that of a tensor, which it does not keep alive."""

    def __init__(self, target: Tensor) -> None:
        self.target = weakref.ref(target)

    def __call__(self, g: Tensor) -> None:
        target = self.target()
        if target is not None:
            target.grad = g if target.grad is None else target.grad + g


class _Elsewhere:
    """The name of a method that tensors of other libraries have: not there, and says what to write instead."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, x: Any, kind: type) -> Any:
        owner = f"{kind.__name__!r} object" if x is not None else f"type object {kind.__name__!r}"
        text = f"{owner} has no attribute {self.name!r}; use {_INSTEAD[self.name]}"
        raise AttributeError(text, name=self.name, obj=kind if x is None else x)


# No __getattr__: with one, Python looks up every attribute of a tensor three times as slowly.
for _name in _INSTEAD:
    setattr(Tensor, _name, _Elsewhere(_name))

Tensor.result_type = Tensor
deliver_as(Tensor.made)

_UFUNCS: dict[str, Callable[..., Any]] = {
    "add": ops.add,
    "subtract": ops.sub,
    "multiply": ops.mul,
    "divide": ops.div,
    "true_divide": ops.div,
    "power": ops.power,
    "matmul": ops.matmul,
    "negative": ops.neg,
    "absolute": ops.absolute,
    "exp": ops.exp,
    "expm1": ops.expm1,
    "log": ops.log,
    "log1p": ops.log1p,
    "sqrt": ops.sqrt,
    "tanh": ops.tanh,
    "sin": ops.sin,
    "cos": ops.cos,
    "sign": ops.sign,
    "maximum": ops.maximum,
    "minimum": ops.minimum,
    "greater": ops.greater,
    "greater_equal": ops.greater_equal,
    "less": ops.less,
    "less_equal": ops.less_equal,
    "equal": ops.equal,
    "not_equal": ops.not_equal,
}


def _values_in(value: Any) -> Any:
    """Replace tensors in nested lists and tuples by their arrays."""
    if isinstance(value, Tensor):
        return value.numpy()
    if isinstance(value, (list, tuple)):
        return type(value)(_values_in(v) for v in value)
    return value


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "amax": lambda a, axis=None, keepdims=False: ops.amax(a, axis=axis, keepdims=keepdims),
    "amin": lambda a, axis=None, keepdims=False: ops.amin(a, axis=axis, keepdims=keepdims),
    "argmax": lambda a, axis=None, keepdims=False: ops.argmax(a, axis=axis, keepdims=keepdims),
    "argmin": lambda a, axis=None, keepdims=False: ops.argmin(a, axis=axis, keepdims=keepdims),
    "clip": lambda a, low=None, high=None: ops.clip(a, low=low, high=high),
    "concatenate": lambda arrays, axis=0: ops.concatenate(*arrays, axis=axis),
    "cumsum": lambda a, axis=None: a.cumsum(axis),
    "einsum": ops.einsum,
    "expand_dims": ops.expand_dims,
    "flip": ops.flip,
    "mean": lambda a, axis=None, keepdims=False: ops.mean(a, axis=axis, keepdims=keepdims),
    "moveaxis": ops.moveaxis,
    "prod": lambda a, axis=None, keepdims=False: ops.prod(a, axis=axis, keepdims=keepdims),
    "ravel": lambda a: a.ravel(),
    "reshape": lambda a, shape: ops.reshape(a, shape=shape),
    "squeeze": ops.squeeze,
    "stack": lambda arrays, axis=0: ops.stack(*arrays, axis=axis),
    "std": lambda a, axis=None, ddof=0, keepdims=False: ops.std(a, axis, keepdims, ddof),
    "sum": lambda a, axis=None, keepdims=False: ops.sum(a, axis=axis, keepdims=keepdims),
    "swapaxes": ops.swapaxes,
    "transpose": lambda a, axes=None: ops.transpose(a, axes=axes),
    "var": lambda a, axis=None, ddof=0, keepdims=False: ops.var(a, axis=axis, keepdims=keepdims, correction=ddof),
    "where": lambda condition, *choices: ops.where(condition, *choices) if choices else _values_in(condition).nonzero(),
}
_FUNCTIONS |= {"max": _FUNCTIONS["amax"], "min": _FUNCTIONS["amin"]}


# Making tensors


def tensor(
    data: Any,
    dtype: Any = None,
    device: Device | str | None = None,
    requires_grad: bool = False,
    name: str | None = None,
) -> Tensor:
    """Return a tensor with a copy of `data`; see `Tensor`."""
    return Tensor(data, dtype, device, requires_grad, name)


def _place(device: Device | str | None) -> Device:
    if device is None:
        return current_device()
    return device if isinstance(device, Device) else Device(device)


def _finished(array: Any, requires_grad: bool) -> Tensor:
    made: Tensor = Tensor.made(array)
    return made.requires_grad_() if requires_grad else made


def _sizes(shape: tuple[Any, ...]) -> tuple[int, ...]:
    sizes = ops.shapes.as_shape(_one_shape(shape))
    if any(n < 0 for n in sizes):
        raise ShapeError(f"a shape has no negative sizes, got {sizes}")
    return sizes


def full(
    shape: Any, fill_value: Any, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False
) -> Tensor:
    """Return a tensor with the same value everywhere; a float becomes float32 unless `dtype` says otherwise."""
    if isinstance(fill_value, (Traced, list, tuple)) or not hasattr(fill_value, "__float__"):
        raise OptionError(f"full: fill_value must be one number, got {type(fill_value).__name__}")
    if dtype is None:
        kind = type(fill_value)
        dtype = bool_ if kind is bool else int64 if kind is int else default_float
    place = _place(device)
    with place.context():
        return _finished(place.xp.full(_sizes((shape,)), fill_value, dtype=as_dtype(dtype)), requires_grad)


def zeros(*shape: Any, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor of zeros, float32 unless `dtype` says otherwise."""
    return full(_sizes(shape), 0.0, dtype or default_float, device, requires_grad)


def ones(*shape: Any, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor of ones, float32 unless `dtype` says otherwise."""
    return full(_sizes(shape), 1.0, dtype or default_float, device, requires_grad)


def arange(
    start: Any, stop: Any = None, step: Any = 1, dtype: Any = None, device: Device | str | None = None
) -> Tensor:
    """Return start, start + step, ... up to, but not including, stop; whole numbers give int64, others float32."""
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise OptionError("arange: step must not be 0")
    if dtype is None:
        dtype = int64 if all(isinstance(v, int) for v in (start, stop, step)) else default_float
    place = _place(device)
    with place.context():
        return _finished(place.xp.arange(start, stop, step).astype(as_dtype(dtype)), False)


def eye(
    n: SupportsIndex, m: SupportsIndex | None = None, dtype: Any = None, device: Device | str | None = None
) -> Tensor:
    """Return the n x m matrix (default: square) with ones on its diagonal."""
    columns = None if m is None else int(m)
    place = _place(device)
    with place.context():
        return _finished(place.xp.eye(int(n), columns, dtype=as_dtype(dtype or default_float)), False)


def _random(draw: str, shape: tuple[Any, ...], dtype: Any, device: Device | str | None, requires_grad: bool) -> Tensor:
    place = _place(device)
    dtype = as_dtype(dtype or default_float)
    if not is_float(dtype):
        raise DTypeError(f"random numbers are floats, got dtype {dtype}")
    wide = dtype if dtype.itemsize >= 4 else float32
    with place.context():
        values = getattr(generator(place), draw)(size=_sizes(shape), dtype=wide)
        return _finished(place.xp.asarray(values).astype(dtype, copy=False), requires_grad)


def rand(*shape: Any, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False) -> Tensor:
    """Return numbers drawn uniformly from [0, 1), from the generator that `manual_seed()` seeds."""
    return _random("random", shape, dtype, device, requires_grad)


def randn(*shape: Any, dtype: Any = None, device: Device | str | None = None, requires_grad: bool = False) -> Tensor:
    """Return numbers drawn from the normal distribution with mean 0 and variance 1."""
    return _random("standard_normal", shape, dtype, device, requires_grad)


def from_dlpack(other: Any) -> Tensor:
    """Return a tensor that shares memory with an array of another library, by the DLPack protocol.

    The memory is watched, as if handed out by `Tensor.data`.
    """
    kind, _ = other.__dlpack_device__()
    place = Device("cpu") if kind == 1 else Device("cuda")
    array = place.xp.from_dlpack(other)
    if not is_number(array.dtype):
        raise DTypeError(f"cannot make a tensor with element type {array.dtype}")
    result: Tensor = Tensor.made(array)
    expose(result.array, graph.next_index())
    return result


def _as_sequence(values: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [values] if isinstance(values, Tensor) else list(values)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> list[Any]:
    """Return the gradients of the outputs with respect to the inputs, without touching any `grad`.

    >>> x = Tensor(3.0, requires_grad=True)
    >>> (dx,) = grad(x**3, x, create_graph=True)
    >>> (ddx,) = grad(dx, x)
    >>> dx.item(), ddx.item()
    (27.0, 18.0)
    """
    return autodiff.gradients(
        _as_sequence(outputs),
        _as_sequence(inputs),
        grad_outputs,
        retain_graph=retain_graph,
        create_graph=create_graph,
        allow_unused=allow_unused,
    )
