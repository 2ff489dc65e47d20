"""Which samples come when: a function of the seed and the iteration alone."""

import itertools

import numpy as np
import pytest
import torch

from basicsr.data.sampler import Draw, EndlessBatchSampler, SeededDataset, Stage, stage_at

ONE = [Stage(iters=100, gt_size=16, batch_size=1, micro_batch=1)]


def draws(count: int, stages=ONE, **options) -> list[Draw]:
    options = {"length": 5, "enlarge": 2, "seed": 3, **options}
    sampler = EndlessBatchSampler(options.pop("length"), stages, **options)
    return list(itertools.islice(itertools.chain.from_iterable(sampler), count))


def test_every_epoch_is_a_new_permutation():
    samples = draws(40)
    epochs = [[draw.number for draw in samples[i : i + 10]] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == sorted([*range(5)] * 2) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({draw.seed for draw in samples}) == 40
    assert draws(40, seed=4) != samples


@pytest.mark.parametrize("start", [1, 9, 10, 27])
def test_it_goes_on_from_anywhere(start):
    assert draws(10, start=start, seen=start) == draws(40)[start : start + 10]


@pytest.mark.parametrize(("world", "micro"), [(1, 6), (1, 2), (2, 3), (2, 1), (3, 2), (6, 1)])
def test_processes_and_micro_batches_share_the_same_samples(world, micro):
    """The set of samples of every step is that of one process that takes all at once, and nobody's twice."""
    stages = [Stage(iters=7, gt_size=16, batch_size=6, micro_batch=micro)]
    whole = draws(18, [Stage(iters=7, gt_size=16, batch_size=6, micro_batch=6)])
    steps = stages[0].accumulation(world)
    assert steps * world * micro == 6
    shares = [
        list(itertools.islice(EndlessBatchSampler(5, stages, enlarge=2, seed=3, rank=rank, world=world), 3 * steps))
        for rank in range(world)
    ]
    for i in range(3):
        mine = [draw for share in shares for batch in share[i * steps : (i + 1) * steps] for draw in batch]
        assert sorted(mine) == sorted(whole[6 * i : 6 * i + 6])
        assert all(len(batch) == micro for share in shares for batch in share)


def test_stages_follow_one_another_and_the_last_one_stays():
    stages = [Stage(2, 16, 4, 4), Stage(3, 24, 2, 2), Stage(1, 32, 1, 1)]
    assert [stage_at(stages, i).gt_size for i in range(8)] == [16, 16, 24, 24, 24, 32, 32, 32]
    batches = list(itertools.islice(EndlessBatchSampler(5, stages, seed=1), 8))
    assert [len(batch) for batch in batches] == [4, 4, 2, 2, 2, 1, 1, 1]
    assert [batch[0].size for batch in batches] == [16, 16, 24, 24, 24, 32, 32, 32]
    assert [draw.seed[1] for batch in batches for draw in batch] == list(range(17))
    resumed = list(itertools.islice(EndlessBatchSampler(5, stages, seed=1, start=3, seen=10), 5))
    assert resumed == batches[3:]


def test_global_generators_follow_from_the_draw():
    class Noisy(torch.utils.data.Dataset):
        def __getitem__(self, draw):
            return np.random.rand(), torch.rand(1).item()

    dataset = SeededDataset(Noisy())
    first, second = dataset[Draw(0, (1, 2), 16)], dataset[Draw(0, (1, 3), 16)]
    assert first == dataset[Draw(4, (1, 2), 16)]
    assert first[0] != second[0]
    assert first[1] != second[1]
