"""Operations that look at the whole map: the ways of writing them that `convert` makes local, and those that it reports.

Each row names modules of tests/test_tlc_*.py that are written so: those made local are compared there with their definition,
window by window; those reported are checked to be.
"""

from typing import NamedTuple

POOLING = "global pooling"
STRIPS = "strip pooling"
WEIGHTED = "weighted pooling"
NORMS = "instance and group norm"
CHANNELS = "attention between channels"
SPARSE = "sparse attention between channels"
RESIZED = "attention between resized channels"
LAYERS = "attention between layers"
SELECTIVE = "selective kernels"
RESCALED = "norm over channels and pixels"
FILTERS = "dynamic filters"
PROMPTS = "prompts"
MIXTURE = "mixture of operations"
PIXELS = "attention over pixels"
LINEAR = "linear attention"
GRIDS = "parts that grow with the image"
FOURIER = "Fourier transform"
SCANS = "scan over pixels"
SORTING = "sorting of pixels"
DESCRIPTOR = "descriptor of the image"

FIRST, NEXT = "0.1.0", "unreleased"
_WINDOWS = "`in_windows`, or a rule of your own"


class Way(NamedTuple):
    """A way of writing an operation. modules: of the tests. since: the first version that makes it local."""

    operation: str
    written: str
    modules: tuple[str, ...]
    since: str


class Reported(NamedTuple):
    """An operation that stays as it is, and what its author can do. modules: of the tests."""

    operation: str
    written: str
    modules: tuple[str, ...]
    instead: str


WAYS = (
    Way(POOLING, "`nn.AdaptiveAvgPool2d(1)`, then convolutions", ("Pool", "PoolPair", "PoolSubclass", "PoolWithHook"), FIRST),
    Way(POOLING, "`x.mean((2, 3))`, with and without `keepdim`", ("MeanKept", "MeanDropped", "MeanFunction"), FIRST),
    Way(POOLING, "`x.mean(3).mean(2)`, `x.flatten(2).mean(-1)`", ("MeanTwice", "MeanOfFlattened"), FIRST),
    Way(POOLING, "`x.sum((2, 3)) / (h * w)`", ("SumOverPixels",), FIRST),
    Way(POOLING, "`F.adaptive_avg_pool2d(x, 1)`, `F.avg_pool2d` of the whole map", ("FunctionalPool", "WholeAvgPool"), FIRST),
    Way(POOLING, "beside comparisons and masks, such as `x * ~(x > 0)`", ("MeanMasked",), NEXT),
    Way(POOLING, 'after a look at the input\'s type, such as `if "Half" in x.type()`', ("NamedPrecision",), NEXT),
    Way(POOLING, "of rows or columns after one another, assigned into another map", ("Assigned",), NEXT),
    Way(POOLING, "maxima: `nn.AdaptiveMaxPool2d(1)`, `amax`; CBAM's mean and maximum", ("Maximum", "ChannelGate"), FIRST),
    Way(
        POOLING,
        "variance, deviation; contrast attention, SimAM",
        ("Variance", "Deviation", "ContrastAttention", "SimAM"),
        FIRST,
    ),
    Way(
        POOLING,
        "then `nn.Linear`: squeeze-and-excitation, its pooling inside or outside",
        ("SqueezeExcite", "SqueezeExciteMean", "SqueezeExciteSequence", "SqueezeExciteOwnPool", "PoolChannelsLast"),
        FIRST,
    ),
    Way(POOLING, "then a convolution over the channels: ECA", ("EfficientChannelAttention",), FIRST),
    Way(POOLING, "then a softmax or a norm over the channels", ("PoolOverChannels", "PoolGroupNormed"), FIRST),
    Way(POOLING, "then enlarged to the map again: image pooling", ("ImagePooling",), FIRST),
    Way(POOLING, "as scale and shift, between two layers", ("Modulated", "Between", "Mixing", "AverageContext"), FIRST),
    Way(
        POOLING,
        "of tokens, in modules that are told their map's size: numbers, tuples, dicts, attributes",
        ("ViewedMean", "SizeAsTuple", "SizeAsDict", "SizeAsKeywords", "WholeShape", "SizeOnAttributes"),
        NEXT,
    ),
    Way(
        POOLING,
        "over tokens: `x.mean(1)` of (N, H*W, C), `nn.AdaptiveAvgPool1d(1)`, maxima, norms; then layers, and tokens again",
        ("TokenGate", "TokenPool", "TokenFunctionalPool", "TokenStatistics", "TokenMeanAndMaximum", "TokenResponseNorm"),
        NEXT,
    ),
    Way(
        POOLING,
        "of a map, meeting its flattened pixels: (N, 1, C) * tokens, (N, C, 1) * `x.flatten(2)`, also repeated or in heads",
        ("GateOfTheMapOnTokens", "FlattenedMap", "TokenCat", "TokenRepeat", "HeadsOfTokens", "Interacting"),
        NEXT,
    ),
    Way(
        FILTERS,
        "kernels of a pooled map, by `F.unfold` over each pixel's neighbours, with softmax or tanh, padded and dilated",
        ("LowPass", "Tanh", "OfALinear", "Dilated", "FarNeighbours", "UnfoldedTwice"),
        NEXT,
    ),
    Way(FILTERS, "as products of matrices, by an equation; pixels first", ("Matrices", "ByEquation", "TokensFirst"), NEXT),
    Way(FILTERS, "along rows and columns; beside strip means", ("Strips", "StripMeans"), NEXT),
    Way(STRIPS, "`nn.AdaptiveAvgPool2d((None, 1))`, then convolutions along the strip", ("StripLayers",), NEXT),
    Way(
        STRIPS,
        "`x.mean(3)`, `x.mean(2)`, maxima, deviations; strips that meet; coordinate attention that does not join them",
        ("StripsMeet", "StripDropped", "StripsReshaped", "StripKinds", "StripAndMean", "Coordinates"),
        NEXT,
    ),
    Way(
        WEIGHTED,
        "softmax over the flattened pixels, then a product with the map: global context; several masks at once",
        ("GlobalContext", "Context", "Tokens", "SummedProduct", "SoftMaximum"),
        NEXT,
    ),
    Way(NORMS, "`nn.InstanceNorm2d`", ("InstanceNormAffine", "InstanceNormPlain"), FIRST),
    Way(NORMS, "`nn.GroupNorm`, subclasses", ("GroupNorm", "GroupNormOfAll", "GroupNormSubclass"), FIRST),
    Way(NORMS, "`F.instance_norm`, `F.group_norm`", ("FunctionalInstanceNorm", "FunctionalGroupNorm"), FIRST),
    Way(NORMS, "by hand, of mean and variance", ("NormByHand",), FIRST),
    Way(
        NORMS, "in another precision than the map's, as in `norm(x.float()).type(x.dtype)`", ("WideGroupNorm", "WideNorm"), NEXT
    ),
    Way(NORMS, "global response norm: the norm of each channel over the pixels", ("ResponseNorm", "ResponseNormFirst"), FIRST),
    Way(CHANNELS, "softmax(τ q kᵀ), rows normalised over the pixels", ("RestormerAttention", "NoTemperature"), FIRST),
    Way(CHANNELS, "with one head, in tokens (XCA)", ("SingleHead", "CrossCovarianceBlock"), FIRST),
    Way(
        RESCALED,
        "layer norm of a map, by hand or not; mean and deviation that are handed out and met again",
        ("RescaledBlock", "RescaledTwice", "LayerNorms", "GroupsByHand", "GroupsFlattened", "GroupsInRows", "KindsOfAll"),
        NEXT,
    ),
    Way(SELECTIVE, "a softmax over maps that are handed in a list to the module inside", ("Viewed", "Unpacked"), NEXT),
    Way(SELECTIVE, "exponents divided by their sum; vectors that are flattened first", ("ByExponents", "Flattened"), NEXT),
    Way(SELECTIVE, "its pooling in a sequence with its convolutions", ("PoolInSequence",), NEXT),
    Way(SELECTIVE, "a list of maps and weights, by `zip`", ("Zipped",), NEXT),
    Way(SELECTIVE, "weights that meet the maps in an equation or a product of matrices", ("ByEquation",), NEXT),
    Way(MIXTURE, "weights of one module, handed to the operations of another", ("Mixture", "Mixtures"), NEXT),
    Way(MIXTURE, "experts that are given their weight by name", ("Experts", "Rows"), NEXT),
    Way(MIXTURE, "blocks that take and return a map and a vector, in lists, tuples and dicts", ("Modulations",), NEXT),
    Way(CHANNELS, "of two maps, with asserts and masks of constants", ("Crossed", "Created"), NEXT),
    Way(
        CHANNELS,
        "normalised otherwise or not at all, centred; matrices of covariances",
        ("Unscaled", "ScaledBySize", "DividedByNorms", "NormsAfterwards", "QAlone", "Centred", "Covariance", "Standardised"),
        NEXT,
    ),
    Way(
        CHANNELS,
        "with einsum, fused, in other layouts; heads among the samples",
        ("Einsum", "Fused", "FusedMasked", "PixelsFirst", "Unflattened", "HeadsAmongSamples"),
        NEXT,
    ),
    Way(SPARSE, "ReLU, squares, GELU in the softmax's place", ("Rectified", "Squared", "Smooth", "ExponentsOverOne"), NEXT),
    Way(
        SPARSE,
        "top-k and other masks of the matrix; several matrices, weighted or each applied",
        ("TwoSparse", "Thresholded", "AboveTheMean", "Masked", "WeightedSum", "SeveralAdded"),
        NEXT,
    ),
    Way(LAYERS, "rows of all channels and pixels of a layer", ("LayerAttention", "LayersNormalised", "LayersOfMaps"), NEXT),
)

# For those who ask, by `in_windows`: modules of tests/test_tlc_windows.py, compared there with a loop over the windows.
WINDOWED = (
    Way(PIXELS, "softmax over all pixels, `scaled_dot_product_attention`", ("Attention", "NonLocal", "Tokens"), NEXT),
    Way(PIXELS, "along rows and columns", ("Rows",), NEXT),
    Way(GRIDS, "a fixed number of parts, whose pixels meet", ("Grid",), NEXT),
    Way(FOURIER, "`torch.fft` of the whole map", ("Spectrum",), NEXT),
    Way(SCANS, "a state that goes from pixel to pixel", ("Scan",), NEXT),
)

REPORTED = (
    Reported(PIXELS, "softmax over all pixels, `scaled_dot_product_attention`", ("NonLocal", "Fused"), _WINDOWS),
    Reported(PIXELS, "along rows and columns", ("Axial",), _WINDOWS),
    Reported(LINEAR, "sums over all pixels that divide one another", ("LinearAttention",), _WINDOWS),
    Reported(GRIDS, "a fixed number of parts, whose pixels meet", ("GridAttention",), _WINDOWS),
    Reported(FOURIER, "`torch.fft` of the whole map", ("Fourier",), _WINDOWS),
    Reported(SCANS, "`cumsum`, a loop over the pixels", ("Scan", "Loop", "HalvedToOne"), _WINDOWS),
    Reported(SORTING, "`sort`, `median`, `topk` of the pixels", ("Sorted", "Median"), _WINDOWS),
    Reported(POOLING, "pyramids, which keep a few positions", ("Pyramid", "PyramidLayer"), "pool with a fixed kernel"),
    Reported(POOLING, "statistics of one another", ("Chained", "PoolOverMaximum", "PoolCentred"), "a rule of your own"),
    Reported(POOLING, "behind an `if` on sizes", ("Branching", "SquareAlone"), "leave the choice to the caller"),
)


def made_local() -> set[str]:
    """The operations that some way of writing is made local of."""
    return {way.operation for way in WAYS}


def run_in_windows() -> set[str]:
    """Those that run in windows where that is asked for."""
    return {way.operation for way in WINDOWED}
