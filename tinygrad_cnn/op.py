"""Op: one differentiable operation, described once and used by everything else.

The engine, the gradient checks, the documentation table, the pictures, the counters and the exercises all read this
record. Ops are registered in `TABLE` under their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import Parameter, Signature, signature
from typing import Any

from .backend import default_float, device_of, float32, float64, is_float, is_half, is_number, overflowing, widened
from .backend.device import namespaces
from .backend.exposure import exposed, seal
from .errors import DeviceError, DTypeError, TinygradError
from .graph import Node, Traced, casting, next_index, state

__all__ = ["TABLE", "Op", "op", "operator"]

TABLE: dict[str, Op] = {}

Rule = Callable[..., Any]
Sample = tuple[tuple[Any, ...], dict[str, Any]]
ErrorSample = tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]

_HOST: Any = next(iter(namespaces))  # the class of NumPy's arrays
_NUMPY = namespaces[_HOST]
_WEAK = (float, int, bool, type(None))
_FLOATS = "fV"  # kinds of the results that can carry a gradient; of kind V there is only bfloat16
_EXACT = 256  # whole numbers up to here are floats of 16 bits, both kinds


_KEPT = 256  # normal forms of options per op


def _never_changes(value: Any) -> bool:
    if value.__class__ is tuple:
        return all(map(_never_changes, value))
    return value is None or value.__class__ in (int, float, str, bool)


class Op:
    """A forward rule and, per input, a rule for its gradient.

    Called on arrays, an op computes. Called on `Traced` values, it also records. The gradient rules are written with
    ops, so on arrays they are plain array code and on `Traced` values they are differentiable themselves.

    Attributes:
        name: the name of the forward function.
        forward: `forward(xp, *arrays, **options) -> array`.
        inputs: names of the positional inputs; for a variadic op the one name behind the star.
        variadic: whether the op takes any number of inputs: `forward(xp, *arrays, axis)`.
        vjps: input name -> `vjp(g, y, *inputs, **options)` -> gradient of that input. Rules of a variadic op take
            the position of the input as first argument.
        together: `together(g, y, *inputs, **options)` -> the gradients of all inputs at once, on plain arrays, where
            they share work; or None, and the rules one by one have to do. It says the same as they do, so a rule that
            is registered later takes its place.
        texts: input name -> that rule as one line of mathematics, for pictures.
        constants: inputs through which no gradient flows (labels, masks, indices, the switches of a pool).
        shape: `shape(*input_shapes, **options)` -> output shape; raises `ShapeError` or `OptionError`.
        flops: `flops(output_shape, *input_shapes, **options)` -> number of floating point operations.
        broadcasts: whether inputs are broadcast against each other; the walk then sums their gradients back.
        halves: what forward does with float16 and bfloat16. "widen": it gets them as float32, and the result is rounded
            once. "keep": it gets them as they are, since it moves them or rounds once by itself. "product": as "keep"
            on devices whose matrix products add up in float32, as "widen" on the CPU.
        switches: `switches(xp, y, *arrays, **options)` -> integer array that says on which smooth piece of the
            function the inputs are (signs of a relu, positions of maxima); None for smooth ops.
        family, source: for the documentation table.
        samples: `samples(rng)` yields `(arrays, options)` on which tests, docs and benchmarks try this op.
        error_samples: `error_samples(rng)` yields `(arrays, options, error type, part of its message)`.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        *,
        shape: Callable[..., tuple[int, ...]],
        flops: Callable[..., int],
        family: str,
        source: str,
        convert: dict[str, Callable[[Any], Any]],
        constants: tuple[str, ...],
        broadcasts: bool,
    ) -> None:
        _, *parameters = signature(forward).parameters.values()  # the first one is xp
        positional = [p for p in parameters if p.kind is not Parameter.KEYWORD_ONLY]
        self.name = forward.__name__
        self.forward = forward
        self.inputs = tuple(p.name for p in positional)
        self.variadic = any(p.kind is Parameter.VAR_POSITIONAL for p in positional)
        self.optional = frozenset(p.name for p in positional if p.default is None)
        self.option_names = frozenset(p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY)
        self.defaults = {
            p.name: p.default
            for p in parameters
            if p.kind is Parameter.KEYWORD_ONLY and p.default is not Parameter.empty
        }
        self.usual: dict[str, Any] | None = None  # the completed defaults, once they were needed
        self.convert = convert
        self._completed: dict[tuple[Any, ...], tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.shape = shape
        self.flops = flops
        self.family = family
        self.source = source
        self.constants = constants
        self.broadcasts = broadcasts
        self.halves = "widen"
        self.vjps: dict[str, Rule] = {}
        self.texts: dict[str, str] = {}
        self.rules: tuple[Rule | None, ...] = (None,) * len(self.inputs)
        self.together: Callable[..., Any] | None = None
        self.switches: Callable[..., Any] | None = None
        self.samples: Callable[[Any], Iterator[Sample]] | None = None
        self.error_samples: Callable[[Any], Iterator[ErrorSample]] | None = None
        self.__name__ = forward.__name__
        self.__qualname__ = forward.__qualname__
        self.__module__ = forward.__module__
        self.__doc__ = forward.__doc__
        self.__signature__: Signature = signature(forward).replace(parameters=parameters)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def vjp(self, name: str, text: str = "") -> Callable[[Rule], Rule]:
        """Register the decorated function as the gradient rule of input `name`; `text` is its formula."""
        if name not in self.inputs:
            raise TypeError(f"{self.name} has no input {name!r}; its inputs are {self.inputs}")

        def register(rule: Rule) -> Rule:
            self.vjps[name] = rule
            self.texts[name] = text
            self.rules = tuple(self.vjps.get(n) for n in self.inputs)
            self.together = None
            return rule

        return register

    def all_vjps(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Register the function that computes the gradients of all inputs together, after the rules it stands for."""
        self.together = rule
        return rule

    def sample(self, generator: Callable[[Any], Iterator[Sample]]) -> Callable[[Any], Iterator[Sample]]:
        """Register the inputs on which tests, docs and benchmarks try this op."""
        self.samples = generator
        return generator

    def error_sample(self, generator: Callable[[Any], Iterator[ErrorSample]]) -> Callable[[Any], Iterator[ErrorSample]]:
        """Register inputs that must be refused, with the type and part of the message of the error."""
        self.error_samples = generator
        return generator

    def switch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register the function that says on which smooth piece the inputs are."""
        self.switches = function
        return function

    def rule(self, position: int) -> Rule | None:
        """Return the gradient rule of the input at `position`, called as `rule(g, y, *inputs, **options)`."""
        if not self.variadic:
            return self.rules[position]
        if position < len(self.inputs) - 1:
            return self.rules[position]
        rule = self.rules[-1]
        if rule is None:
            return None

        def at_position(g: Any, y: Any, *inputs: Any, **options: Any) -> Any:
            return rule(position, g, y, *inputs, **options)

        return at_position

    def complete(self, options: dict[str, Any]) -> dict[str, Any]:
        """Fill in defaults and bring options into their normal form.

        A layer gives the same objects at every call, so their normal form is kept. Objects are compared by identity,
        since 1, 1.0 and True are equal, but not all of them are legal; and only those that never change are kept.
        """
        key = (*options, *map(id, options.values()))
        known = self._completed.get(key)
        if known is not None:
            return known[1].copy()
        completed = self._complete(options)
        if all(map(_never_changes, options.values())):
            if len(self._completed) >= _KEPT:
                self._completed.clear()
            # With the options, so that none of these ids is given to another object.
            self._completed[key] = tuple(options.values()), completed.copy()
        return completed

    def _complete(self, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if name not in self.option_names:
                unknown = ", ".join(sorted(options.keys() - self.option_names))
                raise TypeError(f"{self.name}() has no option {unknown}; its options are {sorted(self.option_names)}")
        options = {**self.defaults, **options}
        for name, convert in self.convert.items():
            if name in options:
                options[name] = convert(options[name])
        return options

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if options:
            options = self.complete(options)
        elif self.defaults:
            if self.usual is None:
                self.usual = self.complete(options)
            options = self.usual.copy()
        cast = casting.get()
        if cast is not None:
            inputs = cast(self.name, inputs)
        traced = xp = dtype = None
        requires_grad = mixed = replaced = foreign = False
        arrays = []
        for x in inputs:
            if isinstance(x, Traced):
                traced = x
                if x.requires_grad:
                    requires_grad = True
                x = x.array
            elif x.__class__ in namespaces:
                foreign = True
            elif x.__class__ not in _WEAK:
                x = _plain(self, x, inputs)
                replaced = True
            space = namespaces.get(x.__class__)
            if space is not None:
                if xp is None:
                    xp = space
                    dtype = x.dtype
                elif xp is not space:
                    raise _mixed_devices(self, inputs)
                elif x.dtype is not dtype and x.dtype != dtype:
                    mixed = True
            arrays.append(x)
        if xp is None:
            xp = _NUMPY
            arrays = _with_one_array(arrays)
        if mixed:
            arrays = self._one_float_type(inputs, arrays)
        if replaced:  # rules get the inputs as they were given, but arrays in place of lists and NumPy scalars
            inputs = tuple([x if isinstance(x, Traced) else a for x, a in zip(inputs, arrays, strict=True)])
        mode = state.mode
        observers = mode.observers
        if observers:
            for observer in observers:
                observer.op_started(self, inputs, options)
        try:
            if mixed or (dtype is not float32 and dtype is not None and dtype.itemsize == 2):
                output = self._with_halves(xp, arrays, options)
            else:
                output = self.forward(xp, *arrays, **options)
        except TinygradError:
            raise
        except Exception as error:
            self._explain(error, inputs, arrays, options)
            raise
        if output.__class__ not in namespaces:
            output = xp.asarray(output)  # NumPy's arithmetic returns scalars where an array has no axes
        if traced is None:
            result = output
        elif (
            requires_grad
            and mode.recording
            and output.dtype.kind in _FLOATS
            and (self._passes_gradient(inputs) if self.constants else self.vjps)
        ):
            index = next_index()
            node = Node(self, inputs, options, output, index, mode.scope)
            if exposed or foreign:
                node.seals = _seals(inputs, output)
            result = traced.result_type.made(output, node, index)
        else:
            if dtype is not None and dtype.kind in "iub" and output.dtype.kind == "f":
                output = self._default_float(inputs, output)
            result = traced.result_type.made(output)
        if observers:
            for observer in observers:
                observer.op_finished(self, inputs, options, output, result)
        return result

    def _is_constant(self, position: int) -> bool:
        return self.inputs[min(position, len(self.inputs) - 1)] in self.constants

    def _deciding(self, arrays: list[Any], count: list[bool]) -> list[Any]:
        """Return the float types that decide about that of the result: those of constants only if there are no others.

        Args:
            arrays: the inputs.
            count: which of them are arrays that have a say.
        """
        floats: dict[bool, list[Any]] = {True: [], False: []}
        for i, (a, counts) in enumerate(zip(arrays, count, strict=True)):
            if counts and is_float(a.dtype):
                floats[self._is_constant(i)].append(a.dtype)
        return floats[False] or floats[True]

    def _one_float_type(self, inputs: tuple[Any, ...], arrays: list[Any]) -> list[Any]:
        """Let floats decide the type: NumPy would make float64 of float32 and a whole number, or a NumPy scalar.

        Arrays of whole numbers, and NumPy scalars of any type, take the widest float type of the arrays they meet.
        Inputs through which no gradient flows (conditions, labels, masks) stay as they are.
        """
        if len(arrays) > len(self.inputs) and not self.variadic:
            return arrays  # too many inputs: forward will say so
        is_array = [a.__class__ in namespaces for a in arrays]
        is_scalar = [not isinstance(x, Traced) and x.__class__ not in namespaces for x in inputs]
        for a, known in zip(arrays, is_array, strict=True):
            if known and not is_number(a.dtype):
                raise DTypeError(f"{self.name}: cannot compute with elements of type {a.dtype}")
        deciding = self._deciding(arrays, [a and not s for a, s in zip(is_array, is_scalar, strict=True)])
        if not deciding:
            return arrays
        constant = [self._is_constant(i) for i in range(len(arrays))]
        widest = max(deciding, key=lambda dtype: int(dtype.itemsize))
        if widest.itemsize == 2 and any(dtype != widest for dtype in deciding):
            widest = float32  # neither of float16 and bfloat16 holds the other
        with overflowing():
            return [
                a.astype(widest)
                if is_array[i] and ((is_scalar[i] and is_float(a.dtype)) or (not constant[i] and a.dtype.kind in "iu"))
                else a
                for i, a in enumerate(arrays)
            ]

    def _with_halves(self, xp: Any, arrays: list[Any], options: dict[str, Any]) -> Any:
        """Run forward where a float of 16 bits may be among the inputs: by default in float32, rounding once.

        NumPy has no products of bfloat16, makes float32 of bfloat16 and a Python float, rounds Python floats to
        float16 before it multiplies with them, and rounds every step of a longer computation.
        """
        is_array = [a.__class__ in namespaces for a in arrays]
        deciding = set(self._deciding(arrays, is_array))
        halves = {a.dtype for a, known in zip(arrays, is_array, strict=True) if known and is_half(a.dtype)}
        if not halves:
            return self.forward(xp, *arrays, **options)
        kept = self.halves == "keep" or (self.halves == "product" and xp is not _NUMPY)
        inexact = any(a.__class__ is float or (a.__class__ is int and not -_EXACT <= a <= _EXACT) for a in arrays)
        if not kept or len(halves) > 1 or inexact:
            arrays = [widened(a) if known else a for a, known in zip(arrays, is_array, strict=True)]
        with overflowing():
            output = self.forward(xp, *arrays, **options)
            narrow = len(deciding) == 1 and deciding <= halves and "dtype" not in self.option_names
            return output.astype(deciding.pop()) if narrow and is_float(output.dtype) else output

    def _default_float(self, inputs: tuple[Any, ...], output: Any) -> Any:
        """Let tensors of whole numbers become float32, as Python floats do; NumPy would make float64 of them."""
        types = [getattr(x.array if isinstance(x, Traced) else x, "dtype", None) for x in inputs]
        if "dtype" in self.option_names or any(t is not None and is_float(t) for t in types):
            return output
        return output.astype(default_float, copy=False)

    def _passes_gradient(self, inputs: tuple[Any, ...]) -> bool:
        """Whether some input that requires a gradient has a rule."""
        return any(isinstance(x, Traced) and x.requires_grad and self.rule(i) is not None for i, x in enumerate(inputs))

    def _explain(self, error: Exception, inputs: tuple[Any, ...], arrays: list[Any], options: dict[str, Any]) -> None:
        """Raise an error in the caller's terms for a forward that failed, if one can be given."""
        needed = len(self.inputs) - len(self.optional)
        if not self.variadic and not needed <= len(inputs) <= len(self.inputs):
            raise TypeError(
                f"{self.name}() takes {needed}{'' if not self.optional else f' to {len(self.inputs)}'} inputs "
                f"({', '.join(self.inputs)}), got {len(inputs)}"
            ) from error
        missing = self.option_names - options.keys()
        if missing:
            raise TypeError(f"{self.name}() needs the option {', '.join(sorted(missing))}") from error
        self.shape(*[getattr(a, "shape", () if a is not None else None) for a in arrays], **options)


_NO_OPTIONS: dict[str, Any] = {}  # of all nodes of operators; nobody writes to the options of a node


def operator(op: Op, ufunc_name: str, *, reflected: bool = False) -> Callable[[Any, Any], Any]:
    """Return an op on two inputs as a method of tensors: `method(a, b)` is `op(a, b)`, or `op(b, a)` if reflected.

    It is the op, by a shorter way where nothing is to be converted, checked or shown: the other operand is a tensor of
    the same type or a Python number, both are float32 or float64 on the host, nobody observes, and no type is cast.
    Everything else goes through the op itself, and so does what fails, to be explained there.

    Args:
        op: has two inputs with gradients, and no options.
        ufunc_name: what NumPy calls its forward function.
        reflected: whether the tensor is the second input.
    """
    if op.constants or op.defaults or not op.vjps:
        raise TypeError(f"{op.name} cannot be an operator: it has options, or inputs without a gradient")
    forward, ufunc = op.forward, getattr(_NUMPY, ufunc_name)
    new = object.__new__

    def method(a: Any, b: Any) -> Any:
        x = a.array
        dtype = x.dtype if x.__class__ is _HOST else None
        traced, requires_grad = a, a.requires_grad
        if isinstance(b, Traced):
            y = b.array
            if y.__class__ is not _HOST or y.dtype is not dtype:
                dtype = None
            traced, requires_grad = b, requires_grad or b.requires_grad
        else:
            y = b
            if y.__class__ is not float and y.__class__ is not int:
                dtype = None
        mode = state.mode
        if (
            (dtype is not float32 and dtype is not float64)
            or mode.observers
            or casting.get() is not None
            or op.forward is not forward
        ):
            return op(b, a) if reflected else op(a, b)
        if reflected:
            x, y = y, x
        try:
            output = ufunc(x, y, out=...) if _ELLIPSIS else ufunc(x, y)
        except Exception:
            return op(b, a) if reflected else op(a, b)
        if output.__class__ is not _HOST:
            output = _NUMPY.asarray(output)
        # What `Traced.made` and `Node` do, without their calls.
        result = new(traced.result_type)
        result.array = output
        result.index = index = next_index()
        result.grad = result.hooks = result.name = result.node = None
        if requires_grad and mode.recording:
            result.requires_grad = True
            result.node = node = new(Node)
            node.op = op
            node.inputs = inputs = (b, a) if reflected else (a, b)
            node.options = _NO_OPTIONS
            node.output = output
            node.index = index
            node.scope = mode.scope
            node.hooks = None
            node.seals = _seals(inputs, output) if exposed else None
        else:
            result.requires_grad = False
        return result

    return method


def _knows_ellipsis() -> bool:
    """Return whether NumPy's functions take `out=...` for an array where there would be a scalar: from 2.3 on."""
    try:
        _NUMPY.add(1.0, 1.0, out=...)
    except TypeError:
        return False
    return True


_ELLIPSIS = _knows_ellipsis()


def _seals(inputs: tuple[Any, ...], output: Any) -> tuple[int | None, ...] | None:
    arrays = [x.array if isinstance(x, Traced) else x for x in inputs]
    given = [x is a and a.__class__ in namespaces for x, a in zip(inputs, arrays, strict=True)]
    return seal([*arrays, output], [*given, False])


def _plain(op: Op, x: Any, inputs: tuple[Any, ...]) -> Any:
    """Bring an input that is neither tensor, array nor Python number into the form of an array."""
    array = _NUMPY.asarray(x)
    if not is_number(array.dtype):
        raise DTypeError(
            f"{op.name}: cannot compute with {type(x).__name__} {x!r:.60}; give a tensor, an array or a number"
        )
    if array.dtype == _NUMPY.float64 and not hasattr(x, "dtype"):
        array = array.astype(default_float)  # a list of Python floats, like one Python float, promotes nothing
    for other in inputs:  # what has no device of its own goes where the others are
        there = namespaces.get((other.array if isinstance(other, Traced) else other).__class__)
        if there is not None:
            return array if there is _NUMPY else there.asarray(array)
    return array


def _with_one_array(arrays: list[Any]) -> list[Any]:
    """Turn one of several Python numbers into an array, a float if there is one; a float becomes float32."""
    numbers = [i for i, a in enumerate(arrays) if a is not None]
    if not numbers:
        return arrays
    chosen = next((i for i in numbers if isinstance(arrays[i], float)), numbers[0])
    dtype = default_float if isinstance(arrays[chosen], float) else None
    return [_NUMPY.asarray(a, dtype=dtype) if i == chosen else a for i, a in enumerate(arrays)]


def _mixed_devices(op: Op, inputs: tuple[Any, ...]) -> DeviceError:
    places = []
    for name, x in zip(op.inputs * (len(inputs) if op.variadic else 1), inputs, strict=False):
        array = x.array if isinstance(x, Traced) else x
        if array.__class__ in namespaces:
            places.append(f"{name} is on {device_of(array)}")
    return DeviceError(f"{op.name}: {', '.join(places)}; bring them together with .to('{places[0].split()[-1]}')")


def op(
    *,
    shape: Callable[..., tuple[int, ...]],
    flops: Callable[..., int],
    family: str,
    source: str = "",
    convert: dict[str, Callable[[Any], Any]] | None = None,
    constants: tuple[str, ...] = (),
    broadcasts: bool = False,
) -> Callable[[Callable[..., Any]], Op]:
    """Turn `forward(xp, ...)` into an `Op` and register it under its own name."""

    def register(forward: Callable[..., Any]) -> Op:
        made = Op(
            forward,
            shape=shape,
            flops=flops,
            family=family,
            source=source,
            convert=convert or {},
            constants=constants,
            broadcasts=broadcasts,
        )
        if TABLE.setdefault(made.name, made) is not made:
            raise TypeError(f"two ops are named {made.name!r}")
        return made

    return register
