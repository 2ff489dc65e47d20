"""Random small nets: converted exactly, or reported; `make fuzz` tries 2000 of them."""

import copy
import os
from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product

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
        assume(plain.abs().max() > 1e-6)  # a mean of what is centred is nothing but rounding
        local = convert(copy.deepcopy(net), train_size=(1, C, *TRAIN), base_size=BASE)
        report, got = local.tlc_report, local(x)
        candidates = [*explained(described, net, x, got)] if report.converted else [{*statistics(described)}]
    assert report.converted or torch.equal(got, plain)
    assert candidates, f"wrong: {described}\n{report}"
    others = {index for index, step in enumerate(described.steps) if isinstance(step, Plain) and step.operation}
    named = [stays for stays in candidates if all(is_named(index, report) for index in stays | others)]
    assert named, f"nothing is said of {candidates[0] | others}: {described}\n{report}"
    return len(statistics(described)) - len(named[0]), len(named[0])


def explained(described: Description, net: nn.Module, x: Tensor, got: Tensor) -> Iterator[set[int]]:
    """The steps that stay as they are, fewest first, when the others are local and all together make `got`."""
    candidates = statistics(described)
    ways = (False, True) if any(getattr(step, "merge", "") == "by a matrix" for step in described.steps) else (False,)
    for count, in_windows in product(range(len(candidates)), ways):
        for stays in combinations(candidates, count):
            try:
                want = described.define(net, x, set(stays), in_windows)
            except Nowhere:
                continue
            if want.shape == got.shape and (got - want).abs().max() <= 1e-9 * want.abs().max():
                yield set(stays)


def is_named(index: int, report: Report) -> bool:
    rows = [row for row in report.left_alone if "did not run" not in row.reason]
    return any(row.path == ROOT or row.path.startswith(f"parts.{index}") for row in rows)
