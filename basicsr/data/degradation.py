"""Degradations whose strength varies across the picture: Gaussian noise and motion blur for the sample data sets.

What TLC repairs is a mismatch between a patch's statistics and a whole picture's, so uniform noise or blur would leave it
nothing to do. Here a smooth random field sets the strength at every pixel.

Pictures are float32 arrays (H, W, 3), RGB, gamma-encoded, in [0, 1]. All randomness comes from the generator that is passed
in: the same generator state gives the same picture.
"""

import math

import cv2
import numpy as np

from basicsr.errors import UserError

_GAMMA = 2.2
_LARGEST_TURN = math.pi / 4  # the direction of motion varies by up to this, each way
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
    cell_size: float | None = None,
) -> np.ndarray:
    """Add white Gaussian noise whose standard deviation is a smooth random field, log-uniform over `sigma`.

    Args:
        rgb: (H, W, 3) float32 in [0, 1].
        sigma: least and largest standard deviation, in units of 1/255.
        cells, cell_size: see `smooth_field`.

    Returns:
        (H, W, 3) float32, clipped to [0, 1].

    Raises:
        UserError: `sigma` is not 0 < least <= largest, or a cell is not positive.
    """
    low, high = sigma
    if not 0 < low <= high < math.inf:
        raise UserError(f"sigma: {low:g} {high:g} is no range of noise levels; give two positive numbers, the lower one first.")
    field = smooth_field(*rgb.shape[:2], rng, cells=cells, cell_size=cell_size)
    deviation = np.float32(low / 255) * np.float32(high / low) ** field  # (H, W), log-uniform
    noise = rng.standard_normal(rgb.shape, np.float32)
    return np.clip(rgb + deviation[..., None] * noise, 0, 1)


def add_varying_motion_blur(
    rgb: np.ndarray,
    rng: np.random.Generator,
    *,
    length: tuple[float, float] = (0.5, 12),
    cells: float = 4,
    noise_sigma: float = 2,
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

    Returns:
        (H, W, 3) float32, clipped to [0, 1].

    Raises:
        UserError: `length` is not 0 <= least <= largest, `noise_sigma` is negative, or a cell is not positive.
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
    return np.clip(cv2.pow(mean, 1 / _GAMMA) + noise, 0, 1)


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
