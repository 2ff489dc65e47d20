"""Random small nets: converted exactly, or reported; `make fuzz` tries 2000 of them."""

import copy
import os
from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from random_nets import BASE, SIZE, TRAIN, C, Description, Nowhere, Plain, descriptions, statistics
from torch import Tensor, nn

from basicsr.tlc import convert
from basicsr.tlc.report import ROOT, Report

PARTS = 4  # that run at the same time
EXAMPLES = int(os.environ.get("TLC_RANDOM_NETS", "100")) // PARTS


@pytest.mark.filterwarnings("ignore:. norms see maps")
@pytest.mark.parametrize("part", range(PARTS))
def test_random_nets_are_exact_or_reported(part: int):
    counts: Counter = Counter()

    @seed(part)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
    )
    @given(descriptions())
    def check(described: Description) -> None:
        converted, reported = tried(described)
        counts.update(nets=1, converted=converted, reported=reported)

    check()
    print(f"{counts['nets']} nets: {counts['converted']} statistics converted, {counts['reported']} reported, none wrong")
    assert counts["converted"] > counts["reported"] / 3


def tried(described: Description) -> tuple[int, int]:
    """How many of its statistics are local, and how many stay and are reported; fails where it is neither."""
    net = described.build()
    x = torch.randn(2, C, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        try:
            plain = net(x)
            net(x[:1, :, : TRAIN[0], : TRAIN[1]])
        except RuntimeError:
            assume(False)
        assume(plain.isfinite().all() and not plain.is_complex())
        local = convert(copy.deepcopy(net), train_size=(1, C, *TRAIN), base_size=BASE)
        report, got = local.tlc_report, local(x)
        stays = explained(described, net, x, got) if report.converted else {*statistics(described)}
    assert report.converted or torch.equal(got, plain)
    assert stays is not None, f"wrong: {described}\n{report}"
    named = stays | {index for index, step in enumerate(described.steps) if isinstance(step, Plain) and step.operation}
    assert all(is_named(index, report) for index in named), f"nothing is said of {named}: {described}\n{report}"
    return len(statistics(described)) - len(stays), len(stays)


def explained(described: Description, net: nn.Module, x: Tensor, got: Tensor) -> set[int] | None:
    """The steps that stay as they are, as few as there can be, when the others are local and all together make `got`."""
    candidates = statistics(described)
    for count in range(len(candidates)):
        for stays in combinations(candidates, count):
            try:
                want = described.define(net, x, set(stays))
            except Nowhere:
                continue
            if want.shape == got.shape and (got - want).abs().max() <= 1e-9 * want.abs().max():
                return set(stays)
    return None


def is_named(index: int, report: Report) -> bool:
    rows = [row for row in report.left_alone if "did not run" not in row.reason]
    return any(row.path == ROOT or row.path.startswith(f"parts.{index}") for row in rows)
