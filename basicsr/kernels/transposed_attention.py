"""Attention between channels (Restormer, arXiv 2111.09881, equation 1), from the map of q, k and v on: see `attention`.

In training with a gradient of its own: autograd keeps the map and the sums over it, products are those of half precision with
sums in float32, and the gradients of q, k and v are written into one map.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from basicsr.kernels.attention import TINY, Sums, attention_matrices, matrices_of
from basicsr.kernels.choice import training_type
from basicsr.kernels.gram import gram
from basicsr.kernels.layout import layout_of
from basicsr.kernels.pointwise import mixed


def transposed_attention(
    qkv: Tensor, heads: int, temperature: Tensor, project: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """added + bias + the attended values, projected; to be called without autocast.

    Args:
        qkv: (N, 3C, H, W): q, k and v, each with its heads one after the other.
        temperature: broadcastable to (heads, 1, 1).
        project: (C, C), or of a 1x1 convolution. bias: (C,). added: (N, C, H, W).

    Returns:
        (N, C, H, W), of the type of qkv; with `added` of the wider type of the two.
    """
    if training_type(qkv) is None:
        q, k, v = split_qkv(qkv, heads)
        return mixed(v.flatten(1, 2), attention_matrices(q, k, temperature, project.flatten(1)), bias, added)
    out = _Trained.apply(qkv, heads, temperature, project)
    out = out if bias is None else out + bias.to(out.dtype).view(1, -1, 1, 1)
    return out if added is None else added + out


def split_qkv(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of (N, 3C, H, W), each (N, heads, C/heads, H, W)."""
    n, wide, h, w = qkv.shape
    return qkv.view(n, 3, heads, wide // 3 // heads, h, w).unbind(1)


class _Trained(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv: Tensor, heads: int, temperature: Tensor, project: Tensor) -> Tensor:
        q, k, v = split_qkv(qkv, heads)
        sums = gram(q, k)
        ctx.save_for_backward(qkv, temperature, project, *sums)
        return mixed(v.flatten(1, 2), matrices_of(q, sums, temperature, project.flatten(1)))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, temperature, project, *sums = ctx.saved_tensors
        with torch.autocast(qkv.device.type, enabled=False):
            of_qkv, of_temperature, of_project = _gradients(qkv, temperature, project, tuple(sums), grad)
        return of_qkv, None, of_temperature, of_project


def _gradients(qkv: Tensor, temperature: Tensor, project: Tensor, sums: Sums, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of qkv, of the temperature and of the projection. grad: (N, C, H, W)."""
    c, layout = grad.shape[1], layout_of(qkv)
    grad, values = grad.contiguous(memory_format=layout), qkv[:, 2 * c :]
    of_matrices, *_ = gram(grad[:, None], values[:, None])
    matrices, of_sums, of_temperature, of_project = _of_sums(sums, temperature, project, of_matrices[:, 0])
    of_qkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device, memory_format=layout)
    pixels, of_pixels = _pixels(qkv), _pixels(of_qkv)
    torch.bmm(pixels[..., : 2 * c], _of_q_and_k(*of_sums).to(qkv.dtype), out=of_pixels[..., : 2 * c])
    torch.bmm(_pixels(grad), matrices.to(qkv.dtype), out=of_pixels[..., 2 * c :])
    return of_qkv, of_temperature, of_project


def _pixels(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H W, C), in the same memory."""
    return x.flatten(2).transpose(1, 2)


def _of_sums(sums: Sums, temperature: Tensor, project: Tensor, grad: Tensor) -> tuple[Tensor, Sums, Tensor, Tensor]:
    """`attention.folded` and what it passes back.

    Args:
        grad: (N, C, C), of its result.

    Returns:
        Its result; the gradients of the sums, of the temperature and of the projection.
    """
    qk, qq, kk = sums
    heads, channels = qk.shape[1:3]
    qq_clamped, kk_clamped = qq.clamp(min=TINY), kk.clamp(min=TINY)
    norms = qq_clamped.sqrt()[..., :, None] * kk_clamped.sqrt()[..., None, :]
    cosines = qk / norms
    attention = (cosines * temperature).softmax(dim=-1)  # (N, heads, c, c)
    by_heads = project.to(attention.dtype).flatten(1).unflatten(1, (heads, channels)).transpose(0, 1)  # (heads, C, c)
    matrices = (by_heads @ attention).transpose(1, 2).flatten(2)
    grad = grad.unflatten(2, (heads, channels)).transpose(1, 2)  # (N, heads, C, c)
    of_project = (grad @ attention.transpose(-2, -1)).sum(0).transpose(0, 1).reshape(project.shape)
    of_attention = by_heads.transpose(-2, -1) @ grad
    of_scores = attention * (of_attention - (attention * of_attention).sum(-1, keepdim=True))
    of_temperature = (of_scores * cosines).sum((0, 2, 3)).view(-1, 1, 1).sum_to_size(temperature.shape)
    of_cosines = of_scores * temperature
    shares = -0.5 * of_cosines * cosines
    of_qq = (shares.sum(-1) / qq_clamped).masked_fill(qq < TINY, 0)
    of_kk = (shares.sum(-2) / kk_clamped).masked_fill(kk < TINY, 0)
    of_sums = of_cosines / norms, of_qq, of_kk
    return matrices, of_sums, of_temperature.to(temperature.dtype), of_project.to(project.dtype)


def _of_q_and_k(of_qk: Tensor, of_qq: Tensor, of_kk: Tensor) -> Tensor:
    """(N, 2C, 2C): what a pixel's q and k are multiplied by for their gradients: those of q are of_qk k + 2 of_qq q."""
    n, heads, channels, _ = of_qk.shape
    matrix = of_qk.new_zeros(n, 2, heads, channels, 2, heads, channels)
    inside = matrix.diagonal(dim1=2, dim2=5)  # (N, 2, c, 2, c, heads): no head sees another one
    inside[:, 1, :, 0] = of_qk.permute(0, 3, 2, 1)
    inside[:, 0, :, 1] = of_qk.permute(0, 2, 3, 1)
    inside[:, 0, :, 0].diagonal(dim1=1, dim2=2).copy_(2 * of_qq)
    inside[:, 1, :, 1].diagonal(dim1=1, dim2=2).copy_(2 * of_kk)
    return matrix.flatten(4).flatten(1, 3)
