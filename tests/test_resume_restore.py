"""A folder whose restoration was cut short is gone on with: what was restored with the same weights and options is left out."""

import pytest
import torch
from conftest import SMALL_NETS, picture, write, write_yaml

from basicsr.archs import build_network
from basicsr.engine.restoring import run_demo
from basicsr.paths import cache

NAMES = ("a", "b", "deep/c", "deep/d")


@pytest.fixture
def seen(monkeypatch) -> list[str]:
    """The photographs that were restored; with `seen.stop` the run ends after so many."""

    class Seen(list):
        stop = None

    seen, restore = Seen(), run_demo._restore

    def counted(job, *args, **kwargs):
        if seen.stop is not None and len(seen) >= seen.stop:
            raise KeyboardInterrupt
        seen.append(job.label)
        return restore(job, *args, **kwargs)

    monkeypatch.setattr(run_demo, "_restore", counted)
    return seen


@pytest.fixture
def opt(root):
    torch.manual_seed(0)
    torch.save({"params": build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).state_dict()}, root / "net.pth")
    for number, name in enumerate(NAMES):
        write(root / f"photos/{name}.png", picture(number, 24, 32))
    path = {"pretrain_network_g": "net.pth"}
    return write_yaml(
        root / "opt.yml", {"name": "x", "num_gpu": 0, "network_g": {"type": "NAFNet", **SMALL_NETS["NAFNet"]}, "path": path}
    )


def test_what_was_restored_is_left_out(opt, root, run, seen):
    words = ("restore", "photos", "--output", "out", "-opt", opt)
    assert run(*words).code == 0
    whole = {path.relative_to(root / "out"): path.read_bytes() for path in (root / "out").rglob("*.png")}
    assert len(whole) == len(seen) == 4
    seen.clear()
    outcome = run(*words, "--resume")
    assert outcome.code == 0
    assert "4 of 4 are restored already." in outcome.out
    assert not seen
    (root / "out/deep/d.png").unlink()  # lost
    write(root / "photos/a.png", picture(9, 24, 32))  # another one
    write(root / "photos/e.png", picture(5, 24, 32))  # new
    assert run(*words, "--resume").code == 0
    assert sorted(seen) == ["a.png", "deep/d.png", "e.png"]
    assert (root / "out/deep/d.png").read_bytes() == whole[next(path for path in whole if path.name == "d.png")]
    seen.clear()
    assert run(*words, "--resume", "--force_yml", "val:self_ensemble=true").code == 0  # other options: all anew
    assert len(seen) == 5
    seen.clear()
    assert run(*words).code == 0  # not asked for
    assert len(seen) == 5


@pytest.mark.parametrize("stop", [1, 3])
def test_after_an_interruption(stop, opt, root, run, seen):
    words = ("restore", "photos", "--output", "out", "-opt", opt)
    seen.stop = stop
    assert run(*words).code == 130
    for record in cache().rglob("*.jsonl"):  # as a killed process may leave it
        record.write_bytes(record.read_bytes() + b'\n{"photo": "b.p')
    seen.stop = None
    assert run(*words, "--resume").code == 0
    assert sorted(seen) == sorted(f"{name}.png" for name in NAMES)
    assert len(list((root / "out").rglob("*.png"))) == 4


def test_random_weights_are_new_ones(opt, root, run, seen):
    words = ("restore", "photos", "--output", "out", "-opt", opt, "--force_yml", "path:pretrain_network_g=null")
    for count in (4, 8):
        assert run(*words, "--resume").code == 0
        assert len(seen) == count
