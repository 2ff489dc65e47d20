"""Degradations whose strength varies across the picture: Gaussian noise and motion blur for the sample data sets.

What TLC repairs is a mismatch between a patch's statistics and a whole picture's, so uniform noise or blur would leave it
nothing to do. Here a smooth random field sets the strength at every pixel.

Noise is white and independent between the colours, and nothing is compressed, unless options ask for what real files have:
noise of grey pictures, noise whose colour part is smooth, JPEG.

Pictures are float32 arrays (H, W, 3), RGB, gamma-encoded, in [0, 1]. All randomness comes from the generator that is passed
in: the same generator state gives the same picture.
"""

import math

import cv2
import numpy as np

from basicsr.errors import UserError

_GAMMA = 2.2
_LARGEST_TURN = math.pi / 4  # the direction of motion varies by up to this, each way
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in JPEG
_SMOOTH = (0.5, 1.5)  # pixels; standard deviation of the Gaussian over the colour part of noise
_JPEG_BLOCK = 16  # pixels; edge of the blocks whose colours have half the resolution
_GRID_STEP = 8  # motion is smooth, so it is computed at every eighth pixel and interpolated


def smooth_field(
    height: int, width: int, rng: np.random.Generator, *, cells: float = 4, cell_size: float | None = None
) -> np.ndarray:
    """A smooth random field, uniformly distributed over [0, 1].

    White Gaussian noise on a lattice is interpolated by a Gaussian kernel whose weights have unit energy, so every pixel is
    exactly N(0, 1) wherever it lies between the lattice points; the normal CDF then makes it uniform.

    Args:
        cells: number of cells over the height of a whole picture; the field is stretched to reach 0 and 1 in it.
        cell_size: edge of a cell in pixels (at least 1), for a patch of a larger picture. It replaces `cells`, and nothing is
            stretched: a patch sees the part of the range that it would see if it were cut from the degraded picture.

    Returns:
        (height, width) float32 in [0, 1].

    Raises:
        UserError: `cells` or `cell_size` is not positive.
    """
    cell = _cell_size(height, cells, cell_size)
    rows, columns = _lattice_weights(height, cell, rng), _lattice_weights(width, cell, rng)  # (height, m), (width, n)
    lattice = rng.standard_normal((rows.shape[1], columns.shape[1]), np.float32)
    uniform = _normal_cdf(rows @ lattice @ columns.T)  # (height, width)
    if cell_size is not None:
        return uniform
    low, high = uniform.min(), uniform.max()
    return (uniform - low) / max(high - low, np.finfo(np.float32).tiny)


def add_varying_noise(
    rgb: np.ndarray,
    rng: np.random.Generator,
    *,
    sigma: tuple[float, float] = (3, 60),
    cells: float = 4,
    grey: float = 0,
    chroma: float = 0,
    jpeg: float = 0,
    quality: tuple[float, float] = (75, 98),
    cell_size: float | None = None,
) -> np.ndarray:
    """Add white Gaussian noise whose standard deviation is a smooth random field, log-uniform over `sigma`.

    Args:
        rgb: (H, W, 3) float32 in [0, 1].
        sigma: least and largest standard deviation, in units of 1/255.
        cells, cell_size: see `smooth_field`.
        grey: probability that the noise is the same in all three colours, as in a grey picture.
        chroma: probability that the colour part of the noise is smooth, as cameras leave it, and weaker for it; `sigma` is that
            of the noise before.
        jpeg, quality: see `compress`.

    Returns:
        (H, W, 3) float32, clipped to [0, 1].

    Raises:
        UserError: `sigma` is not 0 < least <= largest, a cell is not positive, `grey` and `chroma` or `jpeg` are no
            probabilities, or `quality` is no range of qualities.
    """
    low, high = sigma
    if not 0 < low <= high < math.inf:
        raise UserError(f"sigma: {low:g} {high:g} is no range of noise levels; give two positive numbers, the lower one first.")
    field = smooth_field(*rgb.shape[:2], rng, cells=cells, cell_size=cell_size)
    deviation = np.float32(low / 255) * np.float32(high / low) ** field  # (H, W), log-uniform
    noise = _coloured(rng.standard_normal(rgb.shape, np.float32), rng, grey, chroma)
    noisy = np.clip(rgb + deviation[..., None] * noise, 0, 1)
    return compress(noisy, rng, jpeg=jpeg, quality=quality, patch=cell_size is not None)


def compress(
    rgb: np.ndarray, rng: np.random.Generator, *, jpeg: float, quality: tuple[float, float], patch: bool = False
) -> np.ndarray:
    """Compress as JPEG 4:2:0, as cameras and most programs do, and decode again.

    Args:
        rgb: (H, W, 3) float32 in [0, 1].
        jpeg: probability that it is compressed at all; 0 leaves the generator alone.
        quality: lowest and highest quality, 1 to 100; uniform between them.
        patch: `rgb` was cut from a larger picture, so that its place in the grid of JPEG's blocks is random.

    Returns:
        (H, W, 3) float32 in [0, 1]; values have 8 bits where it was compressed.

    Raises:
        UserError: `jpeg` is no probability, or `quality` is not 1 <= lowest <= highest <= 100.
    """
    _check_probability("jpeg", jpeg)
    low, high = quality
    if not 1 <= low <= high <= 100:
        raise UserError(f"quality: {low:g} {high:g} is no range of JPEG qualities; give two of 1 to 100, the lower one first.")
    if jpeg == 0 or rng.random() >= jpeg:
        return rgb
    chosen = round(rng.uniform(low, high))
    top, left = rng.integers(_JPEG_BLOCK, size=2) if patch else (0, 0)
    padded = cv2.copyMakeBorder(rgb, top, 0, left, 0, cv2.BORDER_REPLICATE)
    settings = [cv2.IMWRITE_JPEG_QUALITY, chosen, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, file = cv2.imencode(".jpg", np.rint(255 * padded[..., ::-1]).astype(np.uint8), settings)
    decoded = cv2.imdecode(file, cv2.IMREAD_COLOR)[top:, left:, ::-1]
    return decoded.astype(np.float32) / 255


def add_varying_motion_blur(
    rgb: np.ndarray,
    rng: np.random.Generator,
    *,
    length: tuple[float, float] = (0.5, 12),
    cells: float = 4,
    noise_sigma: float = 2,
    jpeg: float = 0,
    quality: tuple[float, float] = (75, 98),
    cell_size: float | None = None,
) -> np.ndarray:
    """Blur by a moving virtual camera and add sensor noise; the motion's length and direction vary across the picture.

    As in GoPro (Nah et al., CVPR 2017, arXiv 1612.02177), sub-frames of one exposure are averaged in linear light, and the
    middle one, here `rgb` itself, is the ground truth. The others are rendered from `rgb` along a smooth random camera path
    (see `camera_motion`); beyond its border the picture is mirrored.

    Args:
        rgb: (H, W, 3) float32 in [0, 1].
        length: least and largest length of the motion during the exposure, in pixels; uniform between them.
        cells, cell_size: size of the random fields of length and direction, see `smooth_field`.
        noise_sigma: standard deviation of white Gaussian noise on the blurred picture, in units of 1/255.
        jpeg, quality: see `compress`.

    Returns:
        (H, W, 3) float32, clipped to [0, 1].

    Raises:
        UserError: `length` is not 0 <= least <= largest, `noise_sigma` is negative, a cell is not positive, `jpeg` is no
            probability, or `quality` is no range of qualities.
    """
    if not 0 <= noise_sigma < math.inf:
        raise UserError(f"noise_sigma: {noise_sigma:g} is no noise level; give 0 or more.")
    height, width = rgb.shape[:2]
    motion = camera_motion(height, width, rng, length=length, cells=cells, cell_size=cell_size)
    linear = cv2.pow(rgb, _GAMMA)
    total = linear.copy()  # the middle sub-frame, where nothing has moved
    rows, columns = np.indices((height, width), np.float32)
    for shift in motion:
        dx, dy = cv2.split(cv2.resize(shift, (width, height), interpolation=cv2.INTER_LINEAR))
        total += cv2.remap(linear, columns + dx, rows + dy, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    mean = np.clip(total / (len(motion) + 1), 0, 1)  # cubic interpolation overshoots
    noise = rng.standard_normal(rgb.shape, np.float32) * np.float32(noise_sigma / 255)
    noisy = np.clip(cv2.pow(mean, 1 / _GAMMA) + noise, 0, 1)
    return compress(noisy, rng, jpeg=jpeg, quality=quality, patch=cell_size is not None)


def camera_motion(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    length: tuple[float, float],
    cells: float = 4,
    cell_size: float | None = None,
) -> np.ndarray:
    """How far each point of the picture has moved in every sub-frame of one exposure, but the middle one.

    The camera shifts, rolls and tilts: a homography per sub-frame. Its motion is then scaled and turned by two smooth fields,
    as for near things and things that move by themselves, so that a point's path has just the length that is wanted. The
    camera's path is odd in time, so the blurred picture is not shifted against the sharp one.

    Args:
        height, width: of the picture, in pixels.
        length: least and largest length of a point's path, in pixels; uniform between them.
        cells, cell_size: size of the two random fields, see `smooth_field`.

    Returns:
        (T, h, w, 2) float32, displacements (x, y) in pixels on a grid that spans the picture at about an eighth of its size;
        T is even: about 1.5 sub-frames for each pixel of the longest motion.

    Raises:
        UserError: `length` is not 0 <= least <= largest, or a cell is not positive.
    """
    low, high = length
    if not 0 <= low <= high < math.inf:
        raise UserError(f"length: {low:g} {high:g} is no range of lengths; give two numbers from 0 up, the lower one first.")
    cell = _cell_size(height, cells, cell_size)
    grid = math.ceil(height / _GRID_STEP), math.ceil(width / _GRID_STEP)
    grid_cell = None if cell_size is None else cell / _GRID_STEP
    wanted = low + (high - low) * smooth_field(*grid, rng, cells=cells, cell_size=grid_cell)  # (h, w), pixels
    turn = _LARGEST_TURN * (2 * smooth_field(*grid, rng, cells=cells, cell_size=grid_cell) - 1)  # (h, w), radians
    # A patch is taken for the middle of a photograph of `cells` cells, so that its motion varies no more than a patch's would.
    unit = max(height, width, cells * cell) / 2
    half = max(1, math.ceil(0.75 * high))
    path = _camera_path(height / unit, width / unit, grid, np.linspace(-1, 1, 2 * half + 1), rng)
    travelled = np.abs(np.diff(path, axis=0)).sum(axis=0)  # (h, w), the length of each point's path
    moved = np.delete(path, half, axis=0) * (wanted / travelled * np.exp(1j * turn))
    return np.stack([moved.real, moved.imag], axis=-1).astype(np.float32)


def _camera_path(height: float, width: float, grid: tuple[int, int], time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Displacements (T, h, w) as complex numbers x + iy, of a grid over a height x width picture about its centre.

    The sides of the picture are at most 2. Shift outweighs roll and tilt, so no point of it is a centre that all turns around.
    """
    heading = np.exp(2j * math.pi * rng.random())
    speed = np.array([heading, rng.uniform(-0.4, 0.4), *rng.uniform(-0.1, 0.1, 2)])  # of shift, roll, tilt
    bend = rng.normal(0, 0.25, 4) * (1j * heading, 0.4, 0.1, 0.1)  # bends the path sideways
    small = 0.01  # only the shape of the motion matters here, and a small motion is as odd in time as its parameters
    shift, roll, tilt_x, tilt_y = small * (speed[:, None] * time + bend[:, None] * time**3)[:, :, None, None]  # (T, 1, 1) each
    y, x = (((np.arange(n) + 0.5) / n - 0.5) * side for n, side in zip(grid, (height, width), strict=True))
    point = x[None, :] + 1j * y[:, None]  # (h, w)
    depth = 1 + tilt_x * point.real + tilt_y * point.imag  # (T, h, w)
    return (np.exp(1j * roll) * point + shift) / depth - point


def _coloured(noise: np.ndarray, rng: np.random.Generator, grey: float, chroma: float) -> np.ndarray:
    """White noise (H, W, 3), or by chance that of a grey picture, or with a smooth colour part; all of it by 0 and 0."""
    _check_probability("grey", grey)
    _check_probability("chroma", chroma)
    if grey + chroma > 1:
        raise UserError(f"grey and chroma: {grey:g} + {chroma:g} is more than 1; they are probabilities of one or the other.")
    if grey + chroma == 0:
        return noise
    chance = rng.random()
    if chance < grey:
        return noise[..., :1].repeat(3, axis=2)
    if chance < grey + chroma:
        luma = (noise @ _LUMA)[..., None]
        return luma + cv2.GaussianBlur(noise - luma, (0, 0), rng.uniform(*_SMOOTH))
    return noise


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name}: {value:g} is no probability; give 0 (never) to 1 (always).")


def _cell_size(height: int, cells: float, cell_size: float | None) -> float:
    for name, value in (("cells", cells), ("cell_size", cell_size)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name}: {value:g} is no size of a random field; give a positive number.")
    return max(1.0, height / cells if cell_size is None else cell_size)


def _lattice_weights(length: int, cell: float, rng: np.random.Generator) -> np.ndarray:
    """Weights (length, points) that interpolate lattice values `cell` pixels apart along one axis, from a random origin."""
    reach = 3  # lattice points on each side of a pixel; beyond, the kernel has fallen to 1e-8
    position = reach + rng.random() + np.arange(length) / cell
    points = np.arange(int(position[-1]) + reach + 1)
    weights = np.exp(-2 * (position[:, None] - points) ** 2)  # a Gaussian of half a cell
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    """The standard normal CDF to 3e-4, in the tanh form of Hendrycks and Gimpel (arXiv 1606.08415)."""
    return 0.5 + 0.5 * np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
