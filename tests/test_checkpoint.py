"""Weights in every wrapper that is met; what a mismatch says; never a run on weights that do not fit."""

import copy
import logging
import os

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from conftest import SMALL_NETS
from torch import nn

from basicsr.archs import ARCHS, build_network
from basicsr.engine.weights import identify
from basicsr.errors import UserError
from basicsr.utils.checkpoint import (
    load_weights,
    read_metadata,
    read_torch,
    read_weights,
    save_safetensors,
    save_torch,
    sha256,
)

NETS = sorted(SMALL_NETS)


def small(name: str, seed: int = 0, **changes: object) -> nn.Module:
    torch.manual_seed(seed)
    return build_network({"type": name, **SMALL_NETS[name], **changes})


def same(net: nn.Module, other: nn.Module) -> bool:
    mine, its = net.state_dict(), other.state_dict()
    return list(mine) == list(its) and all(torch.equal(mine[key], its[key]) for key in mine)


def prefixed(prefix: str, weights: dict) -> dict:
    return {prefix + key: value for key, value in weights.items()}


# What toolboxes put in front of all keys.
FRONTS = ("net.", "generator.", "params.", "netG.module.", "model.net.", "module.model.", "a.b.c.d.", "_orig_mod.net.")
WRAPPERS = {
    "params": lambda w: {"params": w},
    "params_ema": lambda w: {"params_ema": w},
    "params_ema before params": lambda w: {"params": prefixed("", dict.fromkeys(w, torch.zeros(1))), "params_ema": w},
    "state_dict": lambda w: {"epoch": 3, "state_dict": w, "optimizer": {"state": {}}},
    "model": lambda w: {"model": w, "step": 1},
    "bare": lambda w: w,
    "bare, DataParallel": lambda w: prefixed("module.", w),
    "state_dict, DataParallel": lambda w: {"state_dict": prefixed("module.", w)},
    "params, compiled": lambda w: {"params": prefixed("_orig_mod.", w)},
    "both prefixes": lambda w: {"model": prefixed("module._orig_mod.", w)},
    "both prefixes, other order": lambda w: {"model": prefixed("_orig_mod.module.", w)},
    "wrapper in a wrapper": lambda w: {"model": {"state_dict": w, "epoch": 1}},
    "an unknown wrapper": lambda w: {"restorer": w, "optimizer": {"state": {"exp_avg": torch.zeros(1)}}, "epoch": 3},
    "generator beside discriminator": lambda w: {"generator": w, "discriminator": {"a": torch.zeros(1)}},
    "averaged one": lambda w: {"ema": {"decay": 0.9, "module": w}},
    **{f"keys {prefix}": lambda w, prefix=prefix: {"state_dict": prefixed(prefix, w)} for prefix in FRONTS},
    "bare, keys net.": lambda w: prefixed("net.", w),
    "Lightning with a loss": lambda w: {"state_dict": {**prefixed("model.net.", w), "loss.vgg.0.weight": torch.zeros(2)}},
    "mmagic": lambda w: {
        "state_dict": {
            **prefixed("generator.", dict.fromkeys(w, torch.zeros(1))),
            **prefixed("generator_ema.", w),
            "step_counter": torch.zeros(1),
        }
    },
}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(wrapper, old_format, tmp_path):
    source, net = small("NAFNet", 1), small("NAFNet", 2)
    content = WRAPPERS[wrapper](source.state_dict())
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old_format)
    assert not same(net, source)
    load_weights(net, tmp_path / "w.pth")
    assert same(net, source)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("front", ["net.", "netG.module."])
def test_a_prefix_that_all_keys_share_is_left_out_and_said(front, name, tmp_path, caplog):
    source, net = small(name, 1), small(name, 2)
    save_torch(tmp_path / "w.pth", {"state_dict": prefixed(front, source.state_dict())})
    save_safetensors(tmp_path / "w.safetensors", prefixed(front, source.state_dict()))
    for file in (tmp_path / "w.pth", tmp_path / "w.safetensors"):
        with caplog.at_level(logging.INFO, "basicsr"):
            load_weights(net, file)
        assert same(net, source)
        assert f"{file}: the prefix `{front}` of all its keys is left out." in caplog.text
        found = {key: list(v) if isinstance(v, tuple) else v for key, v in identify(file).items()}
        assert found.items() >= {"type": name, **SMALL_NETS[name]}.items()
        assert identify(file, name) == identify(file)


def test_a_prefix_stays_where_the_nets_own_keys_have_it(tmp_path, caplog):
    class Wrapped(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.net = small("NAFNet", seed)

    source, net = Wrapped(1), Wrapped(2)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, "basicsr"):
        load_weights(net, tmp_path / "w.pth")
    assert same(net, source)
    assert "prefix" not in caplog.text
    weights = small("HINet").state_dict()  # another net's: no prefix makes them match
    torch.save(prefixed("net.", weights), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"0 of the net's \d+ keys match; missing: intro"):
        load_weights(small("NAFNet"), tmp_path / "w.pth")


def test_of_several_sets_of_weights_one_must_be_named(tmp_path):
    one, two = small("NAFNet", 1), small("NAFNet", 2)
    for content, says in (
        ({"student": one.state_dict(), "teacher": two.state_dict()}, "several sets of weights: student, teacher"),
        (
            prefixed("student.", one.state_dict()) | prefixed("teacher.", two.state_dict()),
            "several sets of weights that fit: student, teacher",
        ),
        ({"state_dict": {"student": one.state_dict(), "teacher": two.state_dict()}}, "several sets of weights: student"),
    ):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(UserError, match=f"{says}.*path.param_key"):
            load_weights(small("NAFNet"), tmp_path / "w.pth")
        key = "state_dict.teacher" if "state_dict" in content else "teacher"
        net = small("NAFNet", 3)
        load_weights(net, tmp_path / "w.pth", param_key=key)
        assert same(net, two)
        assert identify(tmp_path / "w.pth", param_key=key)["type"] == "NAFNet"


@pytest.mark.parametrize("old_format", [False, True])
def test_numbers_of_numpy_are_admitted_and_nothing_else_for_long(old_format, tmp_path):
    net = small("NAFNet", 1)
    content = {
        "params": net.state_dict(),
        "best": np.float64(30.1),
        "iter": np.int64(7),
        "half": np.float16(1.5),
        "done": np.bool_(True),
        "name": np.str_("x"),
        "curve": np.arange(6.0).reshape(2, 3),
        "far": np.arange(3, dtype=">i4"),
    }
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old_format)
    before = set(torch.serialization.get_safe_globals())
    found = read_torch(tmp_path / "w.pth")
    assert {key: found[key] for key in ("best", "iter", "half", "done", "name")} == {
        "best": 30.1, "iter": 7, "half": 1.5, "done": True, "name": "x"
    }  # fmt: skip
    assert type(found["best"]) is np.float64
    assert found["curve"].values.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["far"].values.tolist() == [0, 1, 2]
    assert set(torch.serialization.get_safe_globals()) == before
    assert list(read_weights(tmp_path / "w.pth")) == list(net.state_dict())


def test_numbers_that_numpy_1_wrote(tmp_path):
    """It called its module numpy.core, which is numpy._core in NumPy 2."""
    torch.save({"a": torch.ones(1), "best": np.float64(30.1)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert b"numpy._core" not in (tmp_path / "w.pth").read_bytes()
    assert read_torch(tmp_path / "w.pth")["best"] == 30.1


def test_the_format_is_told_by_the_content_and_not_by_the_suffix(tmp_path):
    source = small("NAFNet", 1)
    save_safetensors(tmp_path / "a.safetensors", source.state_dict(), {"arch": "NAFNet"})
    save_torch(tmp_path / "b.pth", {"params": source.state_dict(), "metadata": {"arch": "NAFNet"}})
    for old, new in (("a.safetensors", "a.pth"), ("b.pth", "b.safetensors")):
        (tmp_path / old).rename(tmp_path / new)
        net = small("NAFNet", 2)
        load_weights(net, tmp_path / new)
        assert same(net, source)
        assert read_metadata(tmp_path / new) == {"arch": "NAFNet"}


@pytest.mark.parametrize("name", NETS)
def test_every_net_through_pth_and_safetensors(name, tmp_path):
    source = small(name, 1)
    save_torch(tmp_path / "w.pth", {"params": source.state_dict()})
    save_safetensors(tmp_path / "w.safetensors", source.state_dict())
    for file in ("w.pth", "w.safetensors"):
        net = small(name, 2)
        load_weights(net, tmp_path / file)
        assert same(net, source)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("wrapper", ["params", "state_dict"])
def test_the_conversion_keeps_every_value(wrapper, run, tmp_path):
    """.pth -> .safetensors -> .pth, for the net whose tensors have several names."""
    source = small("MPRNet", 1)
    save_torch(tmp_path / "a.pth", {wrapper: {"module." + key: value for key, value in source.state_dict().items()}})
    for a, b in (("a.pth", "b.safetensors"), ("b.safetensors", "c.pth")):
        assert run("weights", "convert", tmp_path / a, tmp_path / b).code == 0
    net = small("MPRNet", 2)
    load_weights(net, tmp_path / "c.pth")
    assert same(net, source)


def test_shared_tensors_stay_shared(tmp_path):
    """MPRNet's one PReLU has many names; safetensors keeps one of them."""
    source = small("MPRNet", 1)
    shared = [key for key in source.state_dict() if key.endswith(".act.weight") or "body.1.weight" in key]
    save_safetensors(tmp_path / "w.safetensors", source.state_dict())
    stored = safetensors.torch.load_file(tmp_path / "w.safetensors")
    assert len(stored) < len(source.state_dict())
    assert len(shared) > 1
    net = small("MPRNet", 2)
    load_weights(net, tmp_path / "w.safetensors")
    assert same(net, source)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in source.parameters())


def test_param_key_wins(tmp_path):
    ema, plain = small("NAFNet", 1), small("NAFNet", 2)
    torch.save({"params_ema": ema.state_dict(), "params": plain.state_dict(), "g": ema.state_dict()}, tmp_path / "w.pth")
    net = small("NAFNet", 3)
    load_weights(net, tmp_path / "w.pth")
    assert same(net, ema)
    load_weights(net, tmp_path / "w.pth", param_key="params")
    assert same(net, plain)
    load_weights(net, tmp_path / "w.pth", param_key="g")
    assert same(net, ema)
    with pytest.raises(UserError, match=r"no `param`. Did you mean `params`\? \(it has params_ema, params, g\)"):
        load_weights(net, tmp_path / "w.pth", param_key="param")
    torch.save(ema.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(UserError, match="its tensors lie at the top level: leave param_key empty"):
        load_weights(net, tmp_path / "bare.pth", param_key="params")


def test_numbers_beside_the_weights_are_left_out(tmp_path):
    net = small("NAFNet", 1)
    torch.save({**net.state_dict(), "epoch": 7, "name": "x"}, tmp_path / "w.pth")
    assert list(read_weights(tmp_path / "w.pth")) == list(net.state_dict())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"params": small("NAFNet").state_dict(), "x": Evil()}, "w.pth")
    with pytest.raises(UserError, match=r"reading it would run \w+\.mkdir: take weights from a source that you trust"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "hacked").exists()


# What a mismatch says.


def message(net: nn.Module, weights: dict, tmp_path, **options) -> str:
    torch.save(weights, tmp_path / "w.pth")
    before = copy.deepcopy(net)
    with pytest.raises(UserError) as error:
        load_weights(net, tmp_path / "w.pth", **options)
    assert same(net, before), "a net that is refused its weights stays as it was"
    assert "\n" not in str(error.value)
    return str(error.value)


def test_counts_and_first_keys(tmp_path):
    net = small("NAFNet")
    weights = small("NAFNet", 1).state_dict()
    total = len(weights)
    weights["new.weight"] = weights.pop("intro.weight")
    weights["ending.bias"] = torch.zeros(9)
    text = message(net, weights, tmp_path)
    assert f"{total - 2} of the net's {total} keys match" in text
    assert "missing: intro.weight;" in text
    assert "not in the net: new.weight;" in text
    assert "of another shape: ending.bias (9,) instead of (3,)" in text


def test_at_most_ten_keys(tmp_path):
    weights = small("NAFNet").state_dict()
    text = message(small("NAFNet", width=8), weights, tmp_path)
    assert text.count(" instead of ") == 1
    unequal = sum(value.shape != weights[key].shape for key, value in small("NAFNet", width=8).state_dict().items())
    assert text.endswith(f"({unequal} in all).")
    assert len(text.replace(str(tmp_path), "")) < 300


@pytest.mark.parametrize(
    ("name", "net", "weights", "fits"),
    [
        ("HINet", {"hin_position_left": 0}, {}, "hin_position_left: 1"),
        ("HINet", {"hin_position_right": 1}, {}, "hin_position_right: 2"),
        ("HINet", {"wf": 8}, {}, "wf: 4"),
        ("NAFNet", {}, {"enc_blk_nums": [1, 2]}, "enc_blk_nums: [1, 2]"),
        ("NAFNet", {}, {"middle_blk_num": 3}, "middle_blk_num: 3"),
        ("NAFNet", {}, {"img_channel": 1}, "img_channel: 1"),
        ("Restormer", {}, {"num_blocks": [1, 1, 1, 2]}, "num_blocks: [1, 1, 1, 2]"),
        ("Restormer", {}, {"LayerNorm_type": "BiasFree"}, "LayerNorm_type: BiasFree"),
        ("Restormer", {}, {"bias": True}, "bias: true"),
        ("Restormer", {}, {"heads": [1, 2, 2, 2]}, "heads: [1, 2, 2, 2]"),
        ("MPRNet", {}, {"num_cab": 2}, "num_cab: 2"),
        ("MPRNet", {"num_cab": 3}, {}, "num_cab: 1"),
        ("MPRNet", {}, {"scale_orsnetfeats": 8}, "scale_orsnetfeats: 8"),
    ],
)
def test_the_option_that_would_fit_is_named(name, net, weights, fits, tmp_path):
    text = message(small(name, **net), {"params": small(name, **weights).state_dict()}, tmp_path)
    assert text.startswith(f"{tmp_path / 'w.pth'} does not fit {name}: the checkpoint fits {fits}, to be said in network_g; ")
    option, value = fits.split(": ", 1)
    rebuilt = build_network({"type": name, **SMALL_NETS[name], **net, option: yaml.safe_load(value)})
    load_weights(rebuilt, tmp_path / "w.pth")  # the advice is true


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_never_run_on_zero_matches(name, strict, tmp_path):
    for other in NETS:
        if other != name:
            text = message(small(name), {"params": small(other).state_dict()}, tmp_path, strict=strict)
            assert text.startswith(f"{tmp_path / 'w.pth'} does not fit {name}: 0 of the net's ")


def test_not_strict_takes_what_fits_and_warns(tmp_path, caplog):
    net, weights = small("NAFNet", 1), small("NAFNet", 2).state_dict()
    own = net.ending.weight.clone()
    weights["ending.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING, "basicsr"):
        load_weights(net, tmp_path / "w.pth", strict=False)
    assert torch.equal(net.intro.weight, weights["intro.weight"])
    assert torch.equal(net.ending.weight, own)
    assert f"{len(weights) - 1} of the net's {len(weights)} keys match" in caplog.text
    assert "keeps its initial values" in caplog.text


def test_plain_and_local_nets_share_their_weights(tmp_path):
    for name in NETS:
        plain = small(name, 1)
        save_torch(tmp_path / "w.pth", plain.state_dict())
        local = build_network({"type": f"{name}Local", **SMALL_NETS[name], "train_size": 16, "base_size": 24})
        load_weights(local, tmp_path / "w.pth")
        assert same(local, plain)


def test_every_registered_arch_is_tried_here():
    assert ARCHS.names() == NETS


def test_sha256_against_a_known_value(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    save_torch(tmp_path / "w.pth", {"params": {"a": torch.ones(1)}})

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        save_torch(tmp_path / "w.pth", {"params": {"a": torch.zeros(1)}})
    assert read_weights(tmp_path / "w.pth") == {"a": torch.ones(1)}
    assert len(list(tmp_path.iterdir())) == 1
