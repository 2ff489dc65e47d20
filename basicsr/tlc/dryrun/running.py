"""Running a net on the meta device, and leaving it as it was."""

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from basicsr.tlc.dryrun.axes import layout_of, on_meta, place, place_image
from basicsr.tlc.dryrun.positions import follow
from basicsr.tlc.dryrun.shapes import Shapes, tensors_in

State = dict[nn.Module, tuple[dict, dict]]  # each module's own parameters and buffers


Inputs = Callable[[Tensor], tuple] | tuple


@dataclass(frozen=True)
class Setup:
    """How a net is run.

    Attributes:
        inputs: its forward's arguments: a function of the image, or a tuple with the image as `...`.
        stays: whether what asks for another device than meta stays there; only where a net does not run otherwise.
        opaque: the classes of modules whose forwards do not run on meta, and why; they run on zeros, on the net's device.
    """

    inputs: Inputs = (...,)
    stays: bool = False
    opaque: Mapping[type, str] = field(default_factory=dict)

    def arguments(self, image: Tensor) -> tuple:
        """The arguments for an image on meta."""
        given = self.inputs(image) if callable(self.inputs) else self.inputs
        if not isinstance(given, (tuple, list)):
            raise ValueError(f"inputs gives {type(given).__name__}; it is to give a tuple of all that the forward takes")
        return tree_map_only(Tensor, lambda x: x.to("meta"), tuple(image if x is ... else x for x in given))


class _Following(Shapes):
    """What `inputs` makes of the image is where it is in the image."""

    def saw(self, function, args: tuple, kwargs: dict, out: object, operation: object) -> None:
        follow(function, args, kwargs, out)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the collector of cycles, which would look again and again at all that a dry run keeps: a quarter of its time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def dry_run(net: nn.Module, size: tuple[int, ...], shapes: Shapes, setup: Setup) -> object:
    """What the net makes of an image of that size, (N, C, H, W), on meta and under `shapes`; the net is left as it was."""
    image = torch.empty(size, dtype=_dtype(net), device="meta")
    place_image(image)
    with _Following():
        arguments = setup.arguments(image)
    for x in tensors_in(tree_leaves(arguments)):
        if layout_of(x) is None and x.ndim == 4 and x.shape[2:] == image.shape[2:]:
            place_image(x)  # a mask, say, of zeros as large as the image
    return run_on_meta(net, arguments, {}, shapes, setup)


def run_on_meta(net: nn.Module, args: tuple, kwargs: dict[str, object], shapes: Shapes, setup: Setup) -> object:
    """What a net, or a part of one, makes of arguments on meta."""
    # Each module once, but each of its tensors, shared with other modules or not: functional_call replaces names.
    state = {
        f"{path}.{name}".lstrip("."): tensor
        for path, module in net.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    with torch.no_grad(), left_as_found(net), shapes:
        _run_on_zeros(net, shapes, setup.opaque)
        return torch.func.functional_call(net, meta, args, kwargs, tie_weights=False)


def _dtype(net: nn.Module) -> torch.dtype:
    tensors = (tensor for module in net.modules() for own in (module._parameters, module._buffers) for tensor in own.values())
    return next((x.dtype for x in tensors if x is not None and x.is_floating_point()), torch.get_default_dtype())


def _run_on_zeros(net: nn.Module, shapes: Shapes, opaque: Collection[type]) -> None:
    """Let the forwards of opaque modules run so; to be called before their tensors are replaced."""
    state = {module: (dict(module._parameters), dict(module._buffers)) for module in net.modules()}
    for module in net.modules():
        if type(module) in opaque:
            module.forward = _on_zeros(module, module.forward, state, shapes)


def _on_zeros(module: nn.Module, forward: Callable, state: State, shapes: Shapes) -> Callable:
    tensors = (tensor for own in (module, *state) for kind in state[own] for tensor in kind.values() if tensor is not None)
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))

    def run(*args: object, **kwargs: object) -> object:
        if shapes.real:
            return forward(*args, **kwargs)

        def zeros_like(x: Tensor) -> Tensor:
            made = torch.zeros(x.shape, dtype=x.dtype, device=device)
            place(made, layout_of(x))
            return made

        zeros = tree_map_only(Tensor, zeros_like, (args, kwargs))
        with torch.random.fork_rng([device] if device.type == "cuda" else []), _own_tensors(module, state), shapes.on_zeros():
            out = forward(*zeros[0], **zeros[1])
        return tree_map_only(Tensor, on_meta, out)

    return run


@contextmanager
def _own_tensors(module: nn.Module, state: State) -> Iterator[None]:
    """Its own parameters, and copies of its buffers, in the places of those on meta."""
    with ExitStack() as back:
        for part in module.modules():
            own, buffers = state[part]
            copies = {name: tensor if tensor is None else tensor.clone() for name, tensor in buffers.items()}
            for held, tensors in ((part._parameters, own), (part._buffers, copies)):
                back.callback(held.update, dict(held))
                held.update(tensors)
        yield


def shapes_of(output: object) -> list[tuple[int, ...]]:
    return [tuple(part.shape) for part in tensors_in(tuple(tree_leaves(output)))]


@contextmanager
def left_as_found(net: nn.Module):
    """eval() for the run; afterwards each module's attributes, its mode among them, are what they were, and so is what its
    dicts, lists and sets hold: a net may keep tensors of the run, which are on meta."""
    found = _held(net)
    net.eval()
    try:
        yield
    finally:
        for container, held in found:
            if isinstance(container, list):
                container[:] = held
            else:
                container.clear()
                container.update(held)


@contextmanager
def state_watched(module: nn.Module) -> Iterator[list[str]]:
    """A list that holds the names of attributes, of a module or of those in it, that its forward has changed."""
    before, changed = [], []

    def enter(*_: object) -> None:
        before.append((_held(module), [(name, buffer, buffer._version) for name, buffer in module.named_buffers()]))

    def leave(*_: object) -> None:
        held, versions = before.pop()
        changed.extend(name for name, buffer, version in versions if buffer._version != version)
        for container, old in held:
            keys = dict.fromkeys([*container, *old]) if isinstance(container, dict) else []
            changed.extend(str(key) for key in keys if container.get(key, before) is not old.get(key, before))
            if not isinstance(container, dict) and list(map(id, container)) != list(map(id, old)):
                changed.append(type(container).__name__)

    hooks = module.register_forward_pre_hook(enter), module.register_forward_hook(leave)
    try:
        yield changed
    finally:
        for hook in hooks:
            hook.remove()


def _held(net: nn.Module) -> list[tuple]:
    """The modules' attributes, and all dicts, lists and sets among and inside them, each with a copy."""
    found = {id(vars(module)): (vars(module), dict(vars(module))) for module in net.modules()}
    for attributes, _ in list(found.values()):
        _remember((value for name, value in attributes.items() if "_hook" not in name), found)
    return [*found.values()]


def _remember(values: Iterable[object], found: dict[int, tuple]) -> None:
    """All dicts, lists and sets among `values` and inside them, by id, with a copy."""
    for value in values:
        if isinstance(value, (dict, list, set)) and id(value) not in found:
            found[id(value)] = (value, dict(value) if isinstance(value, dict) else list(value))
        elif not isinstance(value, tuple):
            continue
        if value:
            _remember(value.values() if isinstance(value, dict) else value, found)
