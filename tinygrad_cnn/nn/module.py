"""Module: a function with tensors of its own.

A module's tensors are the tensors it holds. They are found by walking `vars(self)` in the order written, through lists,
tuples and dicts too; there is nothing to register and no base `__init__` to remember.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .. import graph
from ..backend import Device, device_of, is_float, to_host
from ..backend.dtypes import as_dtype
from ..errors import CheckpointError, OptionError
from ..graph import Scope, state
from ..ops import astype
from ..tensor import Tensor

__all__ = ["Module", "ModuleDict", "ModuleList", "Parameter", "Sequential"]


class Parameter(Tensor):
    """A tensor that a module learns: it requires a gradient from the start, and optimizers find it."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True, dtype: Any = None, device: Any = None) -> None:
        super().__init__(data, dtype=dtype, device=device, requires_grad=requires_grad)


class Module:
    """Base of all layers and models: write the tensors into attributes and the computation into `forward`.

    An attribute holding a `Parameter` (or a tensor that requires a gradient) is a parameter; one holding another tensor
    is a buffer, saved with the parameters but not learned. Names that begin with an underscore are private: what they
    hold is neither.

    >>> from tinygrad_cnn import nn, ones
    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         self.factor = nn.Parameter([2.0])
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> Scale()(ones(3))
    Tensor([2., 2., 2.], dtype=float32, made_by=mul)
    >>> [name for name, _ in Scale().named_parameters()]
    ['factor']
    """

    training: bool = True

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Compute the output of the module. Subclasses write this; users call the module itself."""
        raise NotImplementedError(f"{type(self).__name__} has no forward() method; write one to say what it computes")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        mode = state.mode
        parent, observers = mode.scope, mode.observers
        scope = mode.scope = Scope(self, parent)
        for observer in observers:
            observer.scope_entered(scope)
        try:
            if "_hooks" in self.__dict__:
                return self._call_with_hooks(inputs, options)
            return self.forward(*inputs, **options)
        finally:
            mode.scope = parent
            for observer in observers:
                observer.scope_left(scope)

    # Hooks

    def _register(self, kind: str, hook: Callable[..., Any]) -> Callable[[], None]:
        hooks: list[tuple[str, Callable[..., Any]]] = self.__dict__.setdefault("_hooks", [])
        entry = (kind, hook)
        hooks.append(entry)

        def remove() -> None:
            if entry in hooks:
                hooks.remove(entry)
            if not hooks:
                self.__dict__.pop("_hooks", None)

        return remove

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple[Any, ...]], Any]) -> Callable[[], None]:
        """Call `hook(module, inputs)` before `forward`; what it returns, if anything, replaces the inputs.

        Returns:
            A function that removes the hook.
        """
        return self._register("before", hook)

    def register_forward_hook(self, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> Callable[[], None]:
        """Call `hook(module, inputs, output)` after `forward`; what it returns, if anything, replaces the output.

        Returns:
            A function that removes the hook.
        """
        return self._register("after", hook)

    def register_full_backward_hook(self, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> Callable[[], None]:
        """Call `hook(module, grad_inputs, grad_output)` in the backward pass, when all `grad_inputs` are complete.

        `grad_inputs` has an entry per input (None for those without gradient). The module must return one tensor.

        Returns:
            A function that removes the hook.
        """
        return self._register("backward", hook)

    def _call_with_hooks(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        hooks = list(self.__dict__["_hooks"])
        for kind, hook in hooks:
            if kind == "before":
                replaced = hook(self, inputs)
                if replaced is not None:
                    inputs = replaced if isinstance(replaced, tuple) else (replaced,)
        backward = [hook for kind, hook in hooks if kind == "backward"]
        if not backward or not graph.is_recording():
            output = self.forward(*inputs, **options)
        else:
            output = self._forward_with_backward_hooks(backward, inputs, options)
        for kind, hook in hooks:
            if kind == "after":
                replaced = hook(self, inputs, output)
                if replaced is not None:
                    output = replaced
        return output

    def _forward_with_backward_hooks(
        self, hooks: list[Callable[..., Any]], inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        # Copies of the inputs that only this call reads, so that their gradients are those of this call alone.
        wanted = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
        inputs = tuple(astype(x, dtype=x.dtype) if i in wanted else x for i, x in enumerate(inputs))
        output = self.forward(*inputs, **options)
        if not isinstance(output, Tensor):
            raise OptionError("a backward hook needs a module that returns one tensor")
        if not output.requires_grad:
            return output
        grad_inputs: list[Any] = [None] * len(inputs)
        seen: list[Any] = [None]

        def fire() -> None:
            for hook in hooks:
                hook(self, tuple(grad_inputs), seen[0])

        def at_output(g: Tensor) -> None:
            seen[0] = g
            if not wanted:
                fire()

        def at_input(i: int) -> Callable[[Tensor], None]:
            def note(g: Tensor) -> None:
                grad_inputs[i] = g
                if all(grad_inputs[j] is not None for j in wanted):
                    fire()

            return note

        output.register_hook(at_output)
        for i in wanted:
            inputs[i].register_hook(at_input(i))
        return output

    # The tensors and modules it holds

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) for the modules held directly, those in lists and dicts under names like "layers.0"."""
        for name, value in vars(self).items():
            if not name.startswith("_"):
                yield from _found(name, value, Module)

    def children(self) -> Iterator[Module]:
        """Yield the modules held directly."""
        for _, child in self.named_children():
            yield child

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (path, module) for this module (path "") and all below it, each once."""
        yield from self._walk(prefix, set())

    def _walk(self, prefix: str, seen: set[int]) -> Iterator[tuple[str, Module]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, child in self.named_children():
            yield from child._walk(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it, each once."""
        for _, module in self.named_modules():
            yield module

    def named_tensors(self, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Yield (path, tensor) for every tensor held here and below, in the order written, a shared one each time."""
        yield from self._tensors("", recurse, [])

    def _tensors(self, prefix: str, recurse: bool, above: list[Module]) -> Iterator[tuple[str, Tensor]]:
        if any(module is self for module in above):
            return  # a module that holds one of those that hold it
        for name, value in vars(self).items():
            if name.startswith("_"):
                continue
            for path, found in _found(f"{prefix}{name}", value, (Tensor, Module)):
                if isinstance(found, Tensor):
                    yield path, found
                elif recurse:
                    yield from found._tensors(f"{path}.", True, [*above, self])

    def named_parameters(self, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Yield (path, parameter), each once under its first name."""
        yield from self._once(recurse, lambda t: isinstance(t, Parameter) or t.requires_grad)

    def parameters(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield the parameters, each once."""
        for _, parameter in self.named_parameters(recurse):
            yield parameter

    def named_buffers(self, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Yield (path, tensor) for the tensors that are not learned, each once."""
        yield from self._once(recurse, lambda t: not (isinstance(t, Parameter) or t.requires_grad))

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield the tensors that are not learned, each once."""
        for _, buffer in self.named_buffers(recurse):
            yield buffer

    def _once(self, recurse: bool, wanted: Callable[[Tensor], bool]) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for name, tensor in self.named_tensors(recurse):
            if id(tensor) not in seen and wanted(tensor):
                seen.add(id(tensor))
                yield name, tensor

    def register_buffer(self, name: str, tensor: Tensor | None) -> None:
        """Hold a tensor that is not learned: the same as assigning it to the attribute `name`."""
        setattr(self, name, tensor)

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Hold a parameter: the same as assigning it to the attribute `name`."""
        setattr(self, name, parameter)

    def get_submodule(self, path: str) -> Module:
        """Return the module with this path, such as "features.0".

        Raises:
            OptionError: there is none; the message lists those there are.
        """
        known = dict(self.named_modules())
        if path not in known:
            raise OptionError(
                f"there is no module {path!r} in {type(self).__name__}; there are {sorted(filter(None, known))}"
            )
        return known[path]

    # Modes

    def train(self, mode: bool = True) -> Module:
        """Switch to training: dropout drops and batch normalisation uses the batch. Returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Switch to evaluation: dropout passes everything and batch normalisation uses its running averages."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Learn all parameters, or freeze them. Returns the module."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters (or set them to zeros)."""
        for parameter in self.parameters():
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad = parameter.grad * 0

    def apply(self, function: Callable[[Module], Any]) -> Module:
        """Call `function` with every module below this one and then with this one. Returns the module."""
        for module in reversed(list(self.modules())):
            function(module)
        return self

    def to(self, *targets: Any, device: Any = None, dtype: Any = None) -> Module:
        """Move all tensors to a device, or float tensors to another float type, in place. Returns the module."""
        for target in targets:
            if isinstance(target, (Device, str)) and not _names_dtype(target):
                device = target
            else:
                dtype = target
        place = Device(device) if isinstance(device, str) else device
        kind = None if dtype is None else as_dtype(dtype)
        if kind is not None and not is_float(kind):
            raise OptionError(f"a module can be moved to another float type, not to {kind}")
        for _, tensor in self._once(True, lambda t: True):
            array = tensor.array
            if place is not None and device_of(array) != place:
                array = place.asarray(to_host(array) if place.kind == "cpu" else array)
            if kind is not None and is_float(array.dtype):
                array = array.astype(kind, copy=False)
            if array is not tensor.array:
                tensor.array = array
                tensor.grad = None
                tensor.edited()
        return self

    def cpu(self) -> Module:
        """Move all tensors to main memory."""
        return self.to("cpu")

    def cuda(self, index: int = 0) -> Module:
        """Move all tensors to an NVIDIA GPU."""
        return self.to(f"cuda:{index}")

    def float(self) -> Module:
        """Make all float tensors float32."""
        return self.to(dtype="float32")

    def double(self) -> Module:
        """Make all float tensors float64."""
        return self.to(dtype="float64")

    def half(self) -> Module:
        """Make all float tensors float16."""
        return self.to(dtype="float16")

    def bfloat16(self) -> Module:
        """Make all float tensors bfloat16 (extra `amp`)."""
        return self.to(dtype="bfloat16")

    # Saving and loading

    def state_dict(self) -> dict[str, Tensor]:
        """Return path -> copy of every parameter and buffer, with PyTorch's names."""
        return {name: Tensor(tensor.array, device=tensor.device) for name, tensor in self.named_tensors()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
        """Take over the values of a state dict. Either everything fits and is loaded, or nothing is changed.

        Args:
            state_dict: path -> tensor or array.
            strict: refuse names that are missing or unexpected.

        Returns:
            The missing and the unexpected names (both empty if strict).

        Raises:
            CheckpointError: names are missing or unexpected, or shapes differ; the message lists all of them.
        """
        if not isinstance(state_dict, Mapping):
            pair = isinstance(state_dict, tuple) and len(state_dict) == 2 and isinstance(state_dict[0], Mapping)
            hint = "; load_state_dict_file() gives arrays and metadata: pass the first of the two" if pair else ""
            raise CheckpointError(f"a state dict maps names to arrays, got {type(state_dict).__name__}{hint}")
        own = dict(self.named_tensors())
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        arrays: dict[str, Any] = {}
        wrong = []
        for name, tensor in own.items():
            if name in state_dict:
                try:
                    given = Tensor(state_dict[name], device=tensor.device).array
                except TypeError as error:
                    raise CheckpointError(f"state dict: {name} is no array: {error}") from error
                if given.shape != tensor.array.shape:
                    wrong.append(f"{name} has shape {tuple(given.shape)}, expected {tensor.shape}")
                arrays[name] = given
        problems = [f"{name} is missing" for name in missing] + [f"{name} is not known" for name in unexpected]
        problems = wrong + (problems if strict else [])
        if problems:
            shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
            raise CheckpointError(f"the state dict does not fit {type(self).__name__}: {shown}")
        for name, array in arrays.items():
            tensor = own[name]
            tensor.array = array.astype(tensor.array.dtype, copy=False)
            tensor.edited()
        return missing, unexpected

    # What it looks like

    def extra_repr(self) -> str:
        """Return the options shown between the parentheses of the repr."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        body = "\n  ".join(([extra] if extra else []) + lines)
        return f"{type(self).__name__}(\n  {body}\n)"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Show a notebook what the module is made of."""
        from ..viz.notebook import module_bundle

        return module_bundle(self)


def _names_dtype(target: Any) -> bool:
    return isinstance(target, str) and target.startswith(("float", "bfloat", "int", "uint", "bool"))


def _found(name: str, value: Any, kinds: Any) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) for what is of one of the kinds in an attribute, looking into lists, tuples and dicts."""
    if isinstance(value, kinds):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _found(f"{name}.{i}", item, kinds)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _found(f"{name}.{key}", item, kinds)


class Sequential(Module):
    """Modules one after the other: `Sequential(a, b)(x)` is `b(a(x))`. A dict gives them names."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            named: Iterable[tuple[str, Any]] = modules[0].items()
        else:
            named = ((str(i), module) for i, module in enumerate(modules))
        for name, module in named:
            self._append(name, module)

    def _append(self, name: str, module: Any) -> None:
        if not callable(module):
            raise OptionError(f"{type(self).__name__}: {name} is {type(module).__name__}, not a module or function")
        vars(self)[name] = module

    def _items(self) -> list[Any]:
        return [value for name, value in vars(self).items() if not name.startswith("_") and name != "training"]

    def append(self, module: Module) -> Sequential:
        """Add a module at the end. Returns self."""
        self._append(str(len(self)), module)
        return self

    def forward(self, x: Any) -> Any:
        """Return the output of the last module."""
        for module in self._items():
            x = module(x)
        return x

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def __getitem__(self, index: Any) -> Any:
        items = self._items()
        return type(self)(*items[index]) if isinstance(index, slice) else items[index]


class ModuleList(Sequential):
    """A list of modules that a module holds; unlike `Sequential` it cannot be called."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__(*modules)

    def forward(self, x: Any) -> Any:
        """A list computes nothing."""
        raise NotImplementedError("a ModuleList is a list; call its modules one by one, or use Sequential")

    def __getitem__(self, index: Any) -> Any:
        items = self._items()
        return ModuleList(items[index]) if isinstance(index, slice) else items[index]


class ModuleDict(Module):
    """A dict of modules that a module holds."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        for name, module in (modules or {}).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        if not isinstance(module, Module):
            raise OptionError(f"ModuleDict: {name} is {type(module).__name__}, not a module")
        vars(self)[name] = module

    def __getitem__(self, name: str) -> Module:
        found = vars(self)[name]
        if not isinstance(found, Module):
            raise KeyError(name)
        return found

    def __contains__(self, name: str) -> bool:
        return isinstance(vars(self).get(name), Module)

    def keys(self) -> list[str]:
        """Return the names."""
        return [name for name, _ in self.named_children()]

    def values(self) -> list[Module]:
        """Return the modules."""
        return list(self.children())

    def items(self) -> list[tuple[str, Module]]:
        """Return (name, module) pairs."""
        return list(self.named_children())

    def __len__(self) -> int:
        return len(self.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())
