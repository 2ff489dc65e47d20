"""Weights that speak for themselves: whose they are, with which options, and on which patches they were trained.

Training writes that into their metadata. Of other weights, keys and shapes tell the network; nothing tells the patches.
"""

import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basicsr import __version__
from basicsr.archs import (
    ARCHS,
    base_type,
    build_network,
    is_local,
    known_base_type,
    network_names,
    plain_name,
    tlc_words,
    with_tlc,
)
from basicsr.errors import UserError, first_ten
from basicsr.options import Options, resolve_input
from basicsr.sections import Component, DatasetOptions, PathOptions
from basicsr.utils.checkpoint import load_weights, read_metadata, read_weights
from basicsr.utils.keys import StateDict, aligned, match, shapes_of, stripped

ASSUMED = 256  # side of the training patches, in pixels, where nothing says it: the published networks'
NOT_ITS = (KeyError, IndexError, ZeroDivisionError)  # what `infer_options` raises on the weights of another arch


@dataclasses.dataclass(frozen=True)
class About:
    """What weights say of themselves; None: they do not.

    network: {"type": name, **constructor arguments}, without TLC.
    train_size: side of the training patches. base_size: of the window that suits the weights.
    """

    network: dict[str, Any] | None = None
    train_size: int | None = None
    base_size: int | None = None

    def as_metadata(self) -> dict[str, str]:
        sizes = {"train_size": self.train_size, "base_size": self.base_size}
        texts = {key: str(size) for key, size in sizes.items() if size is not None}
        if self.network is not None:
            arguments = {key: value for key, value in self.network.items() if key != "type"}
            texts |= {"arch": str(self.network["type"]), "network": json.dumps(arguments, default=str)}
        return {**texts, "version": __version__}


def about(file: Path) -> About:
    """What the metadata of a checkpoint file say; words that are not as `as_metadata` writes them say nothing.

    Raises:
        UserError: no such file, or not a checkpoint.
    """
    found = read_metadata(file)
    sizes = {key: int(found[key]) for key in ("train_size", "base_size") if re.fullmatch(r"[1-9]\d{0,5}", found.get(key, ""))}
    try:
        arguments = json.loads(found.get("network", ""))
    except (ValueError, RecursionError):
        arguments = None
    network = {**arguments, "type": found["arch"]} if isinstance(arguments, dict) and "arch" in found else None
    return About(network, **sizes)


def about_training(opt: Options) -> About:
    """What the weights of a training are to say of themselves."""
    network_g = opt.network_g.as_dict()
    window = tlc_words(network_g).get("base_size")
    return About(with_tlc(network_g, False), patch_of(opt.datasets.get("train")), window if isinstance(window, int) else None)


def patch_of(train: DatasetOptions | None) -> int | None:
    """Side of the patches of a training, or None.

    Of progressive learning, what makes TLC's default window, 1.5 patches, as large as the largest patch: 256 for Restormer's
    128 to 384, as published; but no less than the smallest.
    """
    if train is None:
        return None
    if train.progressive:
        sides = [stage.gt_size for stage in train.progressive]
        return max(min(sides), 2 * max(sides) // 3)
    return train.arguments.get("gt_size")


def with_training_patch(
    network_g: dict[str, Any], weights: Path | None, train: DatasetOptions | None = None
) -> tuple[dict[str, Any], str]:
    """The one place that decides on which patches TLC takes a network to have been trained, where its options do not say.

    What they say comes first; then the weights, then the training data of the same file, and at last 256.

    Returns:
        The options of the network, complete; and where train_size is from, in words, or "" where they said it.
    """
    given = {word: value for word, value in tlc_words(network_g).items() if value is not None}
    if not is_local(network_g) or "train_size" in given:
        return network_g, ""
    said = about(weights) if weights else About()
    if said.train_size:
        found, origin = {"train_size": said.train_size, "base_size": said.base_size}, "from the weights"
    elif patch := patch_of(train):
        found, origin = {"train_size": patch}, "from datasets.train"
    else:
        found, origin = {"train_size": ASSUMED}, "assumed, as nothing says it: --train-size N"
    return with_tlc(network_g, True, **{**found, **given}), origin


def build_with_weights(
    network_g: dict[str, Any],
    weights: Path | None,
    train: DatasetOptions | None = None,
    *,
    where: str = "network_g",
    **how: Any,
) -> nn.Module:
    """The net of these options with its weights, if any; its `tlc_report` tells where the training patch is from.

    Args:
        train: see `with_training_patch`. where: the YAML path of the options. how: see `load_weights`.

    Raises:
        UserError: options or weights that do not fit.
    """
    network_g, origin = with_training_patch(network_g, weights, train)
    net = build_network(network_g, where)
    if origin:
        net.tlc_report = dataclasses.replace(net.tlc_report, origin=origin)
    if weights:
        try:
            load_weights(net, weights, **how)
        except UserError as error:
            raise _of_another_arch(weights, network_g, where, how.get("param_key")) or error from None
    return net


def _of_another_arch(weights: Path, network_g: Mapping[str, Any], where: str, param_key: str | None) -> UserError | None:
    """What to say of weights that do not fit since they are those of another arch; None where they are not."""
    base = base_type(str(network_g["type"]))
    try:
        found = identify(weights, param_key=param_key)["type"]
    except UserError:  # they tell nothing
        return None
    if found == base:
        return None
    return UserError(
        f"{weights}: these are the weights of {found}, not of {plain_name(base)}; name other weights, or write "
        f"`type: {found}` with its options in {where}."
    )


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
        return from_shapes(read_weights(weights, param_key), str(weights)) if said is None else _as_said(said, weights)
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


def _as_said(network: dict[str, Any], weights: Path) -> dict[str, Any]:
    name = network["type"]
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
    for name in ARCHS.names():
        network = {"type": name, **_inferred(name, tensors)}
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
        network_g = {**network_g, "type": network_g["type"] + "Local"}  # registered: `identify` imports nothing unasked
    return network_g, {"pretrain_network_g": str(file.resolve())}
