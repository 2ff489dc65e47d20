"""Networks by name. `build_network` is the one way from options to a net."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from basicsr.archs.hinet_arch import HINet
from basicsr.archs.local_arch import convert_network, tlc_options
from basicsr.archs.mprnet_arch import MPRNet
from basicsr.archs.nafnet_arch import NAFNet
from basicsr.archs.restormer_arch import Restormer
from basicsr.errors import UserError, did_you_mean
from basicsr.registry import ARCHS

__all__ = [
    "ARCHS",
    "HINet",
    "MPRNet",
    "NAFNet",
    "Restormer",
    "base_type",
    "build_network",
    "is_local",
    "known_base_type",
    "network_names",
    "plain_name",
    "tlc_words",
    "with_tlc",
    "with_words",
]
_TLC_WORDS = tuple(inspect.signature(tlc_options).parameters)


def network_names() -> list[str]:
    """Every registered arch and its -Local variant."""
    return sorted([*ARCHS.names(), *(name + "Local" for name in ARCHS.names())])


def base_type(name: str) -> str:
    """The arch behind a type name: 'HINetLocal' -> 'HINet'. Imported ones have no suffix: 'my_file:MyNet' stays as it is."""
    return name if name in ARCHS or ":" in name else name.removesuffix("Local")


def plain_name(name: str) -> str:
    """What tables call the network of a type name, without TLC: 'HINetLocal' -> 'HINet', 'my_file:MyNet' -> 'MyNet'."""
    return base_type(name).rpartition(":")[2]


def known_base_type(name: str, where: str) -> str:
    """`base_type`; UserError with the nearest known name when there is no such arch."""
    base = base_type(name)
    if ":" not in base and base not in ARCHS:
        raise ARCHS.unknown(name, where, network_names())
    return base


def build_network(opt: Mapping[str, Any], where: str = "network_g") -> nn.Module:
    """Build `{"type": name, **constructor arguments}`.

    A type with the suffix `Local` (any registered arch) is that arch passed through `basicsr.tlc.convert`; it takes the
    converter's options (`tlc_options`) beside the arch's own. `tlc: {...}` with those
    options does the same for the plain type name.

    Raises:
        UserError: an unknown type or option (with the nearest valid name), or an ill-typed value; `where` is the YAML path.
    """
    arguments = dict(opt)
    name = arguments.pop("type", None)
    if name is None:
        raise UserError(f"{where}.type: no network is named; add `type: ...`, one of {', '.join(network_names())}.")
    tlc = arguments.pop("tlc", None)
    base = known_base_type(str(name), f"{where}.type")
    tlc_where = f"{where}.tlc"
    if base != name:
        if tlc:
            raise UserError(f"{where}.tlc: `{name}` is local by its name; write `type: {base}` with tlc, or leave tlc out.")
        tlc = {key: arguments.pop(key) for key in _TLC_WORDS if key in arguments}
        tlc_where = where
        known = [*inspect.signature(ARCHS.get(base)).parameters, *_TLC_WORDS]
        for key in arguments:
            if key not in known:
                raise UserError(
                    f"{where}.{key}: {name} has no option `{key}`.{did_you_mean(key, known)} Its options: {', '.join(known)}."
                )
    # The layout of the weights becomes that of all maps: 1x1 and depthwise convolutions and the norm over channels run several
    # times faster on CPUs. `prepare_for_inference` and the models choose again, by device.
    net = ARCHS.build(base, arguments, where)
    for value in (*net.parameters(), *net.buffers()):
        if value.ndim == 4:  # `net.to` would fail on those of five dimensions
            value.data = value.data.contiguous(memory_format=torch.channels_last)
    return net if tlc is None or tlc is False else convert_network(net, {} if tlc is True else tlc, tlc_where)


def is_local(opt: Mapping[str, Any]) -> bool:
    """Whether these options of a network turn TLC on."""
    return base_type(str(opt["type"])) != opt["type"] or bool(opt.get("tlc"))


def with_tlc(opt: Mapping[str, Any], on: bool, **words: Any) -> dict[str, Any]:
    """The options of the same network with TLC on (its own window, or the default one) or off.

    words: options of TLC that replace its own, such as base_size=96; only with TLC on.
    """
    by_name = base_type(str(opt["type"])) != opt["type"]
    if not on:
        dropped = _TLC_WORDS if by_name else ("tlc",)
        kept = {key: value for key, value in opt.items() if key not in dropped}
        return {**kept, "type": base_type(str(opt["type"]))} if is_local(opt) else dict(opt)
    if by_name:
        return {**opt, **words}
    tlc = opt.get("tlc") or True
    if words and (tlc is True or isinstance(tlc, Mapping)):  # else it is wrong, which is said when the net is built
        tlc = {**tlc_words(opt), **words}
    return {**opt, "tlc": tlc}


def with_words(opt: Mapping[str, Any], **words: Any) -> dict[str, Any]:
    """The options of the same network with TLC on and these options of TLC, such as base_size; None leaves what is there."""
    return with_tlc(opt, True, **{name: value for name, value in words.items() if value is not None})


def tlc_words(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The options of TLC among these options of a network, in either spelling."""
    if base_type(str(opt["type"])) != opt["type"]:
        return {word: opt[word] for word in _TLC_WORDS if word in opt}
    return dict(opt["tlc"]) if isinstance(opt.get("tlc"), Mapping) else {}
