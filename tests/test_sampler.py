"""Which samples come when: a function of the seed and the iteration alone."""

import itertools

import numpy as np
import pytest
import torch

from basicsr.data.sampler import Draw, EndlessBatchSampler, MixedDraw, Mixing, SeededDataset, Stage, stage_at

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


# Mixed samples.


def of_batch(count: int, **words) -> list:
    stages = [Stage(iters=50, gt_size=16, batch_size=6, micro_batch=6)]
    sampler = EndlessBatchSampler(5, stages, seed=3, mixing=Mixing(**{"beta": 1.2, **words}))
    return list(itertools.islice(sampler, count))


def test_partners_are_a_permutation_of_the_batch_with_one_share():
    plain = [draws(6, [Stage(50, 16, 6, 6)], enlarge=1, start=i, seen=6 * i) for i in range(20)]
    shares = []
    for batch, expected in zip(of_batch(20), plain, strict=True):
        assert [mixed.one for mixed in batch] == expected
        assert sorted(mixed.other for mixed in batch) == sorted(expected)
        assert len({mixed.share for mixed in batch}) == 1
        shares.append(batch[0].share)
    assert len(set(shares)) == 20
    assert 0 < min(shares) < 0.3 < 0.7 < max(shares) < 1


def test_every_second_batch_stays_as_it_is():
    mixed = [isinstance(batch[0], MixedDraw) for batch in of_batch(200, identity=True)]
    assert 70 < sum(mixed) < 130  # binomial, within four standard deviations


def test_shares_of_images_from_an_iteration_on():
    batches = of_batch(12, beta=0.6, per_image=True, start=8)
    assert all(isinstance(draw, Draw) for batch in batches[:8] for draw in batch)
    assert all(len({mixed.share for mixed in batch}) == 6 for batch in batches[8:])


def test_shares_have_the_beta_distribution():
    """Beta(b, b) has the variance 1 / (4 (2 b + 1))."""
    shares = np.concatenate([Mixing(0.6, per_image=True).partners(i, 64, seed=0)[1] for i in range(50)])
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * 2.2), rel=0.05)


@pytest.mark.parametrize(("world", "micro", "start"), [(1, 2, 0), (2, 3, 0), (3, 1, 0), (2, 1, 3)])
def test_mixing_is_the_same_for_processes_micro_batches_and_resumed_runs(world, micro, start):
    stages = [Stage(iters=50, gt_size=16, batch_size=6, micro_batch=micro)]
    options = {"mixing": Mixing(1.2), "start": start, "seen": 6 * start, "world": world}
    found = []
    for rank in range(world):
        found += itertools.islice(EndlessBatchSampler(5, stages, seed=3, rank=rank, **options), stages[0].accumulation(world))
    assert sorted(itertools.chain(*found)) == sorted(of_batch(start + 1)[start])


def test_a_mixed_sample_is_the_mean_of_two():
    class Numbers(torch.utils.data.Dataset):
        def __getitem__(self, draw):
            gt = torch.full((1, 2, 2), float(draw.number))
            return {"lq": gt + torch.rand(1), "gt": gt, "name": str(draw.number)}

    one, other = Draw(2, (0, 1), 2), Draw(6, (0, 2), 2)
    data = SeededDataset(Numbers())
    mixed = data[MixedDraw(one, other, 0.25)]
    assert torch.equal(mixed["gt"], torch.full((1, 2, 2), 5.0))
    torch.testing.assert_close(mixed["lq"], 0.25 * data[one]["lq"] + 0.75 * data[other]["lq"])
    assert mixed["name"] == "2+6"
