"""Matrices of channel attention: a program has one head of one window, whose cells it adds up, and folds the projection in."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.cells import Cells
from basicsr.kernels.layout import blocks, power_of_2, steps

_OUTPUTS = 32  # of the projection, in a tile


@triton.jit
def attention_kernel(
    products,  # (cells, N * heads, C, C): q k^T
    squares_q,  # (cells, N * heads, C)
    squares_k,  # (cells, N * heads, C)
    temperature,  # (heads,)
    project,  # (K, heads * C)
    windows,  # (windows, 4): first row of cells, first column, rows, columns; not read unless CELLS
    out,  # (windows, N, K, heads * C), dense
    sums_cell,  # strides
    sums_batch,
    sums_row,
    squares_row,
    batches,  # N * heads
    heads,
    channels,  # C
    outputs,  # K
    columns,  # of cells
    CELLS: tl.constexpr,
    MOST: tl.constexpr,  # a bound of a window's cells
    CHANNELS: tl.constexpr,  # C or more
    OUTPUTS: tl.constexpr,  # of a tile
    STEPS: tl.constexpr,  # tiles
):
    batch, window = tl.program_id(0) % batches, tl.program_id(0) // batches
    if CELLS:
        top, left = tl.load(windows + window * 4), tl.load(windows + window * 4 + 1)
        high, wide = tl.load(windows + window * 4 + 2), tl.load(windows + window * 4 + 3)
    else:
        top, left, high, wide = 0, 0, 1, 1
    c = tl.arange(0, CHANNELS)
    real = c < channels
    both = real[:, None] & real[None, :]
    qk = tl.zeros((CHANNELS, CHANNELS), tl.float32)
    qq = tl.zeros((CHANNELS,), tl.float32)
    kk = tl.zeros((CHANNELS,), tl.float32)
    for i in range(0, MOST):
        cell = (top + i // wide) * columns + left + i % wide
        place = cell.to(tl.int64) * sums_cell + batch * sums_batch
        counts = (i + tl.zeros((CHANNELS,), tl.int32)) < high * wide
        inside = both & counts[:, None]
        qk += tl.load(products + place + c[:, None] * sums_row + c[None, :], mask=inside, other=0.0)
        qq += tl.load(squares_q + place + c * squares_row, mask=real & counts, other=0.0)
        kk += tl.load(squares_k + place + c * squares_row, mask=real & counts, other=0.0)
    norms = tl.sqrt(tl.maximum(qq, 1e-24))[:, None] * tl.sqrt(tl.maximum(kk, 1e-24))[None, :]
    head = batch % heads
    scores = qk / norms * tl.load(temperature + head).to(tl.float32)
    scores = tl.where(real[None, :], scores, float("-inf"))
    scores = tl.exp(scores - tl.max(scores, 1)[:, None])
    attention = tl.where(both, scores / tl.sum(scores, 1)[:, None], 0.0)
    out += (window * (batches // heads) + batch // heads).to(tl.int64) * outputs * heads * channels + head * channels
    for step in range(0, STEPS):
        k = step * OUTPUTS + tl.arange(0, OUTPUTS)
        inside = (k < outputs)[:, None] & real[None, :]
        tile = tl.load(project + k[:, None] * heads * channels + head * channels + c[None, :], mask=inside, other=0.0)
        mixed = tl.dot(tile.to(tl.float32), attention, input_precision="ieee")
        tl.store(out + k[:, None] * heads * channels + c[None, :], mixed, mask=inside)


def launch(sums: tuple[Tensor, Tensor, Tensor], temperature: Tensor, project: Tensor, cells: Cells | None) -> Tensor:
    """(windows, N, K, heads * C) of `gram`'s sums, or (N, K, heads * C) without cells."""
    products, squares_q, squares_k = sums if cells else (x[None] for x in sums)
    _, n, heads, c, _ = products.shape
    outputs = project.shape[0]
    count, most = (cells.windows, cells.most) if cells else (1, 1)
    out = torch.empty(count, n, outputs, heads * c, dtype=torch.float32, device=products.device)
    with torch.cuda.device_of(products):
        attention_kernel[(count * n * heads,)](
            products,
            squares_q,
            squares_k,
            temperature.expand(heads, 1, 1).contiguous(),
            project.contiguous(),
            cells.covers(products.device) if cells else products,
            out,
            products.stride(0),
            products.stride(2),
            products.stride(3),
            squares_q.stride(3),
            n * heads,
            heads,
            c,
            outputs,
            len(cells.columns) if cells else 1,
            CELLS=cells is not None,
            MOST=steps(most),
            CHANNELS=max(16, power_of_2(c)),
            OUTPUTS=_OUTPUTS,
            STEPS=steps(blocks(outputs, _OUTPUTS)),
        )
    return out if cells else out[0]
