"""A net of some options with its weights, and on which patches TLC takes it to have been trained."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from basicsr.archs import base_type, build_network, is_local, plain_name, tlc_words, with_tlc
from basicsr.engine.weights.about import About, about, patch_of
from basicsr.engine.weights.identify import identify
from basicsr.engine.weights.known import of_network, recognised
from basicsr.engine.weights.patches import trained
from basicsr.errors import UserError
from basicsr.sections import DatasetOptions
from basicsr.utils.checkpoint import load_weights

ASSUMED = 256  # side of the training patches, in pixels, where nothing says it: the published networks'


def with_training_patch(
    network_g: dict[str, Any], weights: Path | None, train: DatasetOptions | None = None
) -> tuple[dict[str, Any], str]:
    """The one place that decides on which patches TLC takes a network to have been trained, where its options do not say.

    What they say comes first; then the weights, then the table of those that were published, then the training data of the
    same file, then the published ones of the same network, and at last 256.

    Returns:
        The options of the network, complete; and where train_size is from, in words, or "" where they said it.
    """
    given = {word: value for word, value in tlc_words(network_g).items() if value is not None}
    if not is_local(network_g) or "train_size" in given:
        return network_g, ""
    said = about(weights) if weights else About()
    if said.train_size:
        found, origin = {"train_size": said.train_size, "base_size": said.base_size}, "from the weights"
    elif published := recognised(weights, network_g) if weights else None:
        found, origin = {"train_size": published.patch, "base_size": published.base_size}, f"as published: {published.name}"
        origin += f", whose training ended at {published.ended_at}" if published.ended_at else ""
    elif weights and (other := trained(plain_name(str(network_g["type"])), weights.stem)):
        found, origin = {"train_size": other.patch}, f"as published checkpoints of {other.network}"
        origin += f", whose training ended at {other.ended_at}" if other.ended_at else ""
    elif patch := patch_of(train):
        found, origin = {"train_size": patch}, "from datasets.train"
    elif weights and (alike := of_network(network_g)):
        found = {"train_size": alike.patch, "base_size": alike.base_size}
        origin = f"assumed, as {alike.name} of the same network was: --train-size N"
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
