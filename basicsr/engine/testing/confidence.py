"""How sure a gain over a set of images is: an interval of its mean, and how many images gain.

B. Efron, R. J. Tibshirani, "An introduction to the bootstrap", Chapman & Hall, 1993, chapter 13: percentile intervals.
W. J. Dixon, A. M. Mood, "The statistical sign test", Journal of the American Statistical Association 41(236), 1946.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 9999
LEVEL = 0.95
ENOUGH = 6  # images of which p can be below 5 %: 2 / 2^6, where all gain
_BATCH = 1000  # resamples at a time, so that thousands of images take some megabytes


@dataclass(frozen=True)
class Confidence:
    """What the gains of single images say of their mean.

    images: that were compared. better, worse: of these; the others are equal.
    interval: that the mean lies in with a probability of 95 %, over sets of images like this one; None of fewer than two
        images with a finite gain, which tell nothing.
    p: how likely so unequal a split into better and worse is, or a more unequal one, where neither is likelier (two-sided).
    """

    images: int
    better: int
    worse: int
    interval: tuple[float, float] | None
    p: float

    @property
    def verdict(self) -> str:
        """What p says: whether so unequal a split would be rare, less than 5 % of the time, if TLC made no difference."""
        if self.images < ENOUGH:
            return "too few images to tell"
        if self.p >= 1 - LEVEL:
            return "not significant"
        return "significant" if self.better > self.worse else "significantly worse"


def confidence(gains: Sequence[float]) -> Confidence:
    """By 9,999 bootstrap resamples of the images, the same in every run, and by the sign test.

    Args:
        gains: of every image, more is better; infinite ones, of an image that one network restores exactly, count in the sign
            test alone, as they do not in the mean.
    """
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    p = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return Confidence(len(gains), better, worse, _interval([gain for gain in gains if math.isfinite(gain)]), p)


def _interval(gains: Sequence[float]) -> tuple[float, float] | None:
    if len(gains) < 2:
        return None
    found = stats.bootstrap(
        (np.asarray(gains, dtype=np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
