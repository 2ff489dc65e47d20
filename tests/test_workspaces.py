"""The memory that a first image of a size is given, on any machine: by a GPU that a test makes up. Others: test_cuda.py."""

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from basicsr.models.workspaces import with_small_workspaces

TOTAL = 80 << 30


@pytest.fixture
def card(monkeypatch) -> SimpleNamespace:
    """What was asked of the allocator; `fraction` is the part of memory that it may take."""
    made = SimpleNamespace(fraction=1.0, reserved=1 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=TOTAL))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: made.reserved)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: made.fraction, raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    def limit(part: float, device: torch.device) -> None:
        assert device.index is not None  # as PyTorch wants it here, and nowhere else
        made.fraction = part

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
    return made


class Run:
    """Notes how much memory each image may take, and needs so much itself."""

    def __init__(self, card: SimpleNamespace, needs: int = 0) -> None:
        self.card, self.needs, self.given = card, needs, []

    def __call__(self, image: Tensor) -> Tensor:
        self.given.append(round(self.card.fraction * TOTAL) - self.card.reserved)
        if self.given[-1] < self.needs:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return image + 1


def test_the_first_image_of_a_size_finds_little(card):
    run = Run(card)
    bounded = with_small_workspaces(run, torch.device("cuda"))
    small, large = torch.rand(1, 3, 8, 8), torch.empty(1, 3, 720, 1280)
    assert torch.equal(bounded(small), small + 1)
    for image in (small, large, large, small):
        bounded(image)
    whole = TOTAL - card.reserved
    assert run.given == [2 << 30, whole, large.nbytes * 512, whole, whole]
    assert large.nbytes * 512 < 6 << 30
    assert card.fraction == 1


def test_an_image_that_needs_more_has_it(card):
    run = Run(card, needs=3 << 30)
    assert with_small_workspaces(run, torch.device("cuda"))(torch.zeros(1, 3, 8, 8)).eq(1).all()
    assert run.given == [2 << 30, TOTAL - card.reserved]


def test_what_the_user_allows_stays(card):
    card.fraction = 0.02
    run = Run(card)
    bounded = with_small_workspaces(run, torch.device("cuda"))
    bounded(torch.empty(1, 3, 720, 1280))
    assert run.given == [round(0.02 * TOTAL) - card.reserved]
    assert card.fraction == 0.02


def test_no_thread_leaves_the_limit_of_another(card):
    entered, done = threading.Event(), threading.Event()

    def second(image: Tensor) -> Tensor:
        entered.set()
        done.wait(10)
        return image

    other = threading.Thread(target=with_small_workspaces(second, torch.device("cuda")), args=(torch.zeros(1, 3, 8, 8),))

    def first(image: Tensor) -> Tensor:
        other.start()
        entered.wait(0.2)
        return image

    with_small_workspaces(first, torch.device("cuda"))(torch.zeros(1, 3, 8, 8))
    done.set()
    other.join()
    assert entered.is_set()
    assert card.fraction == 1


def test_other_errors_and_the_limit_after_them(card):
    def broken(image: Tensor) -> Tensor:
        raise RuntimeError("shape")

    with pytest.raises(RuntimeError, match="shape"):
        with_small_workspaces(broken, torch.device("cuda"))(torch.zeros(1, 3, 8, 8))
    assert card.fraction == 1
