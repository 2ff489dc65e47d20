"""Random small nets: converted exactly, or reported; `make fuzz` tries 2000 of them."""

import copy
import os
from itertools import combinations

import torch
from hypothesis import HealthCheck, Phase, assume, event, given, settings
from random_nets import BASE, SIZE, TRAIN, C, Description, Nowhere, Plain, descriptions, statistics

from basicsr.tlc import convert
from basicsr.tlc.report import ROOT, Report

EXAMPLES = int(os.environ.get("TLC_RANDOM_NETS", "100"))


def explained(described: Description, net: torch.nn.Module, x: torch.Tensor, got: torch.Tensor) -> set[int] | None:
    """The steps that stay as they are, when the others are local; the fewest that make `got`."""
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
    return any(row.path == ROOT or row.path.startswith(f"parts.{index}") for row in report.left_alone if row.reason)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="TLC_RANDOM_NETS" not in os.environ,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)
@given(descriptions())
def test_random_nets_are_exact_or_reported(described: Description):
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
        left = [row for row in report.left_alone if "did not run" not in row.reason]
        stays = set(statistics(described)) if not report.converted else explained(described, net, x, got)
    if not report.converted:
        assert torch.equal(got, plain)
    assert stays is not None, f"{described}\n{report}"
    missing = stays | {index for index, step in enumerate(described.steps) if isinstance(step, Plain) and step.operation}
    assert all(is_named(index, report) for index in missing), f"{described}\n{report}"
    assert left or not missing, report
    event(f"{len(statistics(described)) - len(stays)} of {len(statistics(described))} converted")
