"""Sums of products over a map: what channel attention (Restormer, arXiv 2111.09881, equation 1) needs of q and k."""

import torch
from torch import Tensor

from basicsr.kernels.cells import Cells
from basicsr.kernels.choice import accelerates, triton_version

_CHUNKS = 256  # for a GPU to work on side by side
_WIDENS = torch.__version__ >= (2, 8)  # whether torch.bmm knows out_dtype


def gram(q: Tensor, k: Tensor, cells: Cells | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """q k^T over all pixels, and the squared norms of q's and k's channels; to be called without autocast.

    Args:
        q, k: (N, heads, C, H, W), of any strides.
        cells: where the sums are taken over each of them.

    Returns:
        (N, heads, C, C), (N, heads, C) and (N, heads, C), in float32 at least: half sums overflow; with cells
        (cells, N, heads, ...).
    """
    if q.dtype != torch.float64 and (launch := triton_version("gram", q)):  # tensor cores add up in float32
        return launch(q, k, cells)
    if cells is not None:
        parts = [gram(q[region], k[region]) for region in cells.regions()]
        return tuple(torch.stack(terms) for terms in zip(*parts, strict=True))
    q, k = q.flatten(-2), k.flatten(-2)  # (N, heads, C, P)
    if accelerates(q) and q.dtype.itemsize < 4:
        norms = (torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).square() for x in (q, k))
        return _by_chunks(q, k), *norms
    if q.dtype.itemsize < 4:
        q, k = q.float(), k.float()
    return q @ k.transpose(-2, -1), q.square().sum(-1), k.square().sum(-1)


def _by_chunks(q: Tensor, k: Tensor) -> Tensor:
    """q k^T of half-precision (N, heads, C, P): a GPU's tensor cores multiply chunks of pixels, and float32 adds them up."""
    n, heads, _, pixels = q.shape
    chunks = min(_CHUNKS, pixels)
    whole = pixels - pixels % chunks
    parts = [x[..., :whole].unflatten(-1, (chunks, -1)).movedim(-2, 2).flatten(0, 2) for x in (q, k)]  # (N*heads*chunks, C, L)
    products = _product(parts[0], parts[1].transpose(1, 2)).unflatten(0, (n, heads, chunks)).sum(2)
    if whole == pixels:
        return products
    return products + q[..., whole:].float() @ k[..., whole:].float().transpose(-2, -1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    if a.is_cuda and _WIDENS:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


def trial(x: Tensor) -> Tensor:
    """For `choice.agrees`."""
    products, *norms = gram(x[:, None], x[:, None].roll(1, -1))
    return torch.cat([products, *(norm[..., None] for norm in norms)], -1)
