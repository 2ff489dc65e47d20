"""What a metric says of itself: which way is better, whether it needs a ground truth, what it takes, what it measures."""

from collections.abc import Callable, Sequence

import numpy as np

from basicsr.registry import METRICS

Protocol = Callable[..., str]
Size = tuple[int, int]
OfSet = Callable[[Sequence[np.ndarray]], float]


def metric(
    *,
    higher_is_better: bool,
    needs_gt: bool,
    protocol: Protocol,
    smallest: Size | Callable[..., Size] = (1, 1),
    takes: str | Callable[..., str] = "uint8",
    on_gpu: bool = False,
    ready: Callable[..., object] | None = None,
    of_set: OfSet | None = None,
    enough: int = 1,
) -> Callable[[Callable], Callable]:
    """Register a metric in METRICS, with the arguments as its attributes, which evaluation and reports read.

    Args:
        protocol: `protocol(dtype="uint8", **options)` is one line to print beside every number, from the dtype of the images
            that the metric was given and the options of its YAML entry, whichever it has.
        smallest: short and long side of the smallest image that it takes, border cut; or a function of its options.
        takes: which images it is given, (H, W, C) BGR: 'uint8', clamped and rounded, or 'float', float32 clamped to [0, 1] and
            not rounded; or a function of its options.
        on_gpu: it may be given tensors on a GPU instead of arrays, and computes there what it computes on the CPU, to 1e-6.
        ready: `ready(**options)` is called before the first image, and raises UserError where the metric cannot be had, such as
            for want of a package.
        of_set: of a metric of the whole set, such as FID: the function itself returns an array, what is to be kept of a pair of
            images, and `of_set` makes one figure of the arrays of all images, in their order.
        enough: images that a set needs for a figure without bias.
    """

    def register(function: Callable) -> Callable:
        function.higher_is_better = higher_is_better
        function.needs_gt = needs_gt
        function.protocol = protocol
        function.smallest = smallest
        function.takes = takes
        function.on_gpu = on_gpu
        function.ready = ready
        function.of_set = of_set
        function.enough = enough
        return METRICS.register(function)

    return register


def of_pixels(rgb: str, y: str = "") -> Protocol:
    """The protocol of a metric with some of the options crop_border, test_y_channel and data_range.

    Args:
        rgb: what is computed, e.g. "PSNR, RGB". y: the same for test_y_channel.
    """

    def protocol(
        dtype: str = "uint8",
        crop_border: int = 0,
        test_y_channel: bool | None = None,
        data_range: float | None = None,
        **_without_effect: object,  # input_order, device
    ) -> str:
        peak = "" if data_range is None else f", peak {data_range:g}"
        border = f"border of {crop_border} px cut" if crop_border else "no border"
        return f"{y if test_y_channel else rgb}, {dtype}{peak}, {border}"

    return protocol
