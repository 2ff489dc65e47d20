"""`tlc list`: everything that is registered, with arguments and defaults."""

import pytest

from basicsr.archs import ARCHS
from basicsr.commands import run
from basicsr.data import DATASETS
from basicsr.engine.reference.listing import default_text, type_text
from basicsr.errors import UserError
from basicsr.losses import LOSSES
from basicsr.metrics import METRICS
from basicsr.models.optimizer import OPTIMIZERS
from basicsr.models.schedule import SCHEDULERS


def test_all_names(capsys):
    assert run(["list"]) == 0
    out = capsys.readouterr().out
    for registry in (ARCHS, DATASETS, LOSSES, METRICS, SCHEDULERS, OPTIMIZERS):
        for name in registry.names():
            assert f"  {name} " in out
    assert "CharbonnierLoss  Mean of sqrt(difference^2 + eps^2)" in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("networks", "enc_blk_nums: list of whole numbers, default [1, 1, 1, 28]\n        Blocks of each level"),
        ("network", "LayerNorm_type: WithBias or BiasFree, default WithBias\n"),
        ("TLC", "attention: published or blended, default published\n"),
        ("datasets", "dataroot_lq: text or list of texts, required\n        Folder (or LMDB) of the degraded images;"),
        ("losses", "eps: number, default 0.001\n"),
        ("metrics", "crop_border: whole number, default 0\n"),
        ("schedulers", "T_max: whole number, required\n        Iterations of the cosine."),
        ("optimizers", "SGD\n  torch.optim.SGD\n    momentum: number, default 0\n"),
    ],
)
def test_all_about_one_kind(kind, says, capsys):
    run(["list", kind])
    assert says in capsys.readouterr().out


def test_an_unknown_kind():
    with pytest.raises(UserError, match=r"netwroks: there is no such kind\. Did you mean `networks`\? There are networks, tlc"):
        run(["list", "netwroks"])


def test_types_and_defaults_in_words():
    betas = {"type": "array", "prefixItems": [{"type": "number", "minimum": 0, "exclusiveMaximum": 1}] * 2}
    assert type_text(betas) == "list of 2 numbers from 0 below 1"
    assert type_text({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"const": "auto"}, {"type": "null"}]}) == (
        "whole number above 0 or auto"
    )
    assert [default_text(value) for value in (None, (), "", True, 2.5, "auto", {"a": 1})] == (
        ["none", "none", '""', "true", "2.5", "auto", ""]
    )
