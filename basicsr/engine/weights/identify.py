"""The network that weights are of: from what they say, else from their keys and shapes."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from basicsr.archs import ARCHS, base_type, build_network, known_base_type, network_names, spandrel_arch
from basicsr.engine.weights.about import About, about
from basicsr.engine.weights.known import recognised
from basicsr.errors import UserError, first_ten
from basicsr.options import Options, resolve_input
from basicsr.sections import Component, PathOptions
from basicsr.utils.checkpoint import read_weights
from basicsr.utils.keys import StateDict, aligned, match, shapes_of, stripped

NOT_ITS = (KeyError, IndexError, ZeroDivisionError)  # what `infer_options` raises on the weights of another arch


def metadata_of_published(weights: Path) -> dict[str, str]:
    """What a file that is a published checkpoint could say of itself; {}: it is none."""
    try:
        network = identify(weights)
    except UserError:
        return {}
    known = recognised(weights, network)
    return About(network, known.patch, known.base_size).as_metadata() if known else {}


def identify(weights: Path, arch: str | None = None, param_key: str | None = None) -> dict[str, Any]:
    """The options of the network that weights are of, without TLC: from their metadata, else from their keys and shapes.

    Of an arch that is named and has no `infer_options`, they are its constructor's.

    Args:
        weights: a checkpoint file. arch: a type name, with or without the suffix Local, where it is known.
        param_key: see `read_weights`.

    Raises:
        UserError: no checkpoint; an unknown arch, or weights of another one; weights of none, with what the nearest one lacks.
    """
    said = about(weights).network
    if arch is None:
        return _from_tensors(read_weights(weights, param_key), str(weights)) if said is None else _as_said(said, weights)
    base = known_base_type(arch, "--net")
    if said is not None:
        if said["type"] != base:
            raise UserError(f"{weights}: these are not the weights of {base}, but of {said['type']}.")
        return said
    if not hasattr(ARCHS.get(base, "--net"), "infer_options"):  # it has the constructor's, unless they are said
        return {"type": base}
    tensors = read_weights(weights, param_key)
    if not (options := _inferred(base, tensors)):
        raise UserError(f"{weights}: these are not the weights of {base}; they have {first_ten(tensors)}.")
    return {"type": base, **options}


def _from_tensors(tensors: StateDict, source: str) -> dict[str, Any]:
    """A registered network, or else one that spandrel knows."""
    try:
        return from_shapes(tensors, source)
    except UserError as error:
        found = spandrel_arch.identify(tensors, source)
        if found is None and not spandrel_arch.is_here():
            more = f"the package spandrel, which is not here, knows more networks: {spandrel_arch.EXTRA}"
            raise UserError(f"{str(error).removesuffix('.')}; {more}.") from None
        if found is None:
            raise
        return found


def _as_said(network: dict[str, Any], weights: Path) -> dict[str, Any]:
    name = network["type"]
    if name.startswith(spandrel_arch.PREFIX):
        return network
    if ":" in name:  # a file that came from anywhere does not decide what is imported
        raise UserError(f"{weights}: these are weights of `{name}`; give --net {name} to import it.")
    if name not in ARCHS:
        raise ARCHS.unknown(name, str(weights), network_names())
    return network


def from_shapes(tensors: StateDict, source: str) -> dict[str, Any]:
    """The options of the network that tensors are of, from their keys and shapes alone; they may be on the meta device.

    source: what messages call the tensors.

    Raises:
        UserError: they fit no registered arch; with what the nearest one lacks.
    """
    nearest, lacks = {}, None
    options = {name: _inferred(name, tensors) for name in ARCHS.names()}
    for name in sorted(options, key=lambda name: not options[name]):  # first those whose keys are there
        network = {"type": name, **options[name]}
        try:
            with torch.device("meta"):
                net = build_network(network)
        except UserError:  # shapes that no net has, or an arch with options that have to be given
            continue
        found = match(net, aligned(net, tensors, source)[0])
        if found.fits:
            return network
        if lacks is None or len(found.matching) > len(lacks.matching):
            nearest, lacks = network, found
    none = f"{source}: these are the weights of none of {', '.join(ARCHS.names())}"
    if lacks is None or not lacks.matching:
        raise UserError(f"{none}; they have {first_ten(tensors)}.")
    raise UserError(f"{none}; nearest is {nearest['type']}: {lacks}.")


def _inferred(name: str, tensors: StateDict) -> dict[str, Any]:
    """The options that the shapes show, whatever stands in front of the keys; none where they are those of another arch."""
    for _, own in stripped(tensors):
        with contextlib.suppress(AttributeError, *NOT_ITS):
            return ARCHS.get(name).infer_options(shapes_of(own))
    return {}


def options_for_weights(
    opt: Options, weights: str | Path, arch: str | None = None, more: Mapping[str, Any] | None = None
) -> Options:
    """`opt` with the network that weights are of, and these weights; with TLC, unless `arch` or `more` says otherwise.

    Args:
        weights: a path as given on the command line.
        arch: a type name, with or without the suffix Local; None: the weights tell it, and TLC is on.
        more: options of the network that were given by hand; they win.

    Raises:
        UserError: see `identify`.
    """
    network_g, path = network_and_path(weights, arch, opt.path.param_key)
    how = {"param_key": opt.path.param_key, "strict_load_g": opt.path.strict_load_g}
    update = {"network_g": Component(**{**network_g, **(more or {})}), "path": PathOptions(**path, **how)}
    return opt.model_copy(update=update)


def network_and_path(
    weights: str | Path, arch: str | None, param_key: str | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """network_g and path of a YAML file for these weights."""
    file = resolve_input(weights)
    network_g = identify(file, arch, param_key)
    if arch is None or base_type(arch) != arch:
        imported = ":" in network_g["type"]  # of spandrel: `identify` imports nothing else unasked
        network_g = {**network_g, "tlc": True} if imported else {**network_g, "type": network_g["type"] + "Local"}
    return network_g, {"pretrain_network_g": str(file.resolve())}
