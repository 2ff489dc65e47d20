"""Operations with gradients of their own: against float64 autograd of formulas, and training steps of the nets on them.

On a machine with a GPU they run there; elsewhere Triton's kernels run in its interpreter, which conftest.py asks for.
"""

import copy
import importlib

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_NETS
from test_kernels import DEVICE, HALVES, NO_TRITON, assert_near, random, sliced
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.kernels import (
    channel_layer_norm,
    choice,
    gated,
    launched_together,
    pointwise,
    training_type,
    transposed_attention,
    use_triton,
)
from basicsr.kernels.halves import gated_halves
from basicsr.models.memory import checkpoint_blocks

pytestmark = NO_TRITON
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def norm_formula(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    scale = (centred.square().mean(1, keepdim=True) + 1e-5).rsqrt() * weight[:, None, None]
    return x * scale if bias is None else centred * scale + bias[:, None, None]


def check_norm(x: Tensor, grad: Tensor, with_bias: bool, out_type: torch.dtype) -> None:
    c = x.shape[1]
    inputs = [x.requires_grad_(), *(random(c, seed=seed).requires_grad_() for seed in range(1, 2 + with_bias))]
    wide = [y.detach().double().requires_grad_() for y in inputs]
    with use_triton(True):
        out = channel_layer_norm(*inputs, *[None] * (not with_bias), 1e-5)
        of_x, *sums = torch.autograd.grad(out, inputs, grad)
    want = norm_formula(*wide, *[None] * (not with_bias))
    assert out.dtype == out_type
    assert_near(out, want, out_type)
    wanted_of_x, *wanted_sums = torch.autograd.grad(want, wide, grad.double())
    assert of_x.dtype == x.dtype
    assert x.shape[2] == 1 or (of_x.stride(1) == 1) == (x.stride(1) == 1)
    assert_near(of_x, wanted_of_x, x.dtype, of=float(grad.abs().max()) + float(wanted_of_x.abs().max()))
    for found, wanted in zip(sums, wanted_sums, strict=True):
        assert found.dtype == torch.float32
        assert_near(found, wanted, torch.float32, of=float(wanted.abs().max()) + x.numel() // c)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("layout", [*LAYOUTS, None])
@pytest.mark.parametrize("dtype", HALVES)
def test_layer_norm(dtype, layout, with_bias):
    """Of several maps, of one pixel, and of one channel; the gradient in the other layout, and as a sum leaves it."""
    for shape in ((3, 7, 5, 6), (1, 7, 1, 1), (2, 1, 3, 2)):
        x = random(*shape, dtype=dtype) + 1
        x = sliced(x) if layout is None else x.contiguous(memory_format=layout)
        grads = [random(*shape, seed=9, dtype=dtype).contiguous(memory_format=other) for other in LAYOUTS]
        for grad in (*grads, torch.ones(1, 1, 1, 1, dtype=dtype, device=DEVICE).expand(shape)):
            check_norm(x.detach(), grad, with_bias, dtype)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", HALVES)
def test_layer_norm_of_a_float32_map_under_autocast(dtype, with_bias):
    """It is read as it is, and the result rounded once."""
    with torch.autocast(DEVICE, dtype):
        check_norm(random(2, 5, 4, 3), random(2, 5, 4, 3, seed=9, dtype=dtype), with_bias, dtype)


def test_layer_norm_of_large_maps(monkeypatch):
    """Programs that walk, the last one beyond the end."""
    monkeypatch.setattr(importlib.import_module("basicsr.kernels.layer_norm_gradient_triton"), "_PROGRAMS", 4)
    check_norm(
        random(2, 130, 9, 11, dtype=torch.float16), random(2, 130, 9, 11, seed=9, dtype=torch.float16), True, torch.float16
    )


@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("layout", [*LAYOUTS, None])
@pytest.mark.parametrize("dtype", HALVES)
def test_gates_of_halves(dtype, layout, gelu):
    """The gradient in the other layout, and as a sum leaves it."""
    for shape in ((3, 10, 5, 6), (1, 2, 1, 1), (2, 70, 3, 50)):
        x = random(*shape, dtype=dtype) * 2
        x = (sliced(x) if layout is None else x.contiguous(memory_format=layout)).requires_grad_()
        wide = x.detach().double().requires_grad_()
        first, second = wide.chunk(2, dim=1)
        want = (F.gelu(first) if gelu else first) * second
        grad = random(*want.shape, seed=9, dtype=dtype)
        ones = torch.ones(1, 1, 1, 1, dtype=dtype, device=DEVICE).expand(want.shape)
        for slope in (*(grad.contiguous(memory_format=other) for other in LAYOUTS), ones):
            with use_triton(True):
                out = gated_halves(x, gelu)
                of_x = torch.autograd.grad(out, x, slope)[0]
            assert out.dtype == of_x.dtype == dtype
            assert layout is None or of_x.is_contiguous(memory_format=layout)
            assert_near(out, want, dtype)
            assert_near(of_x, torch.autograd.grad(want, wide, slope.double(), retain_graph=True)[0], dtype)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("layout", [*LAYOUTS, None])
@pytest.mark.parametrize("dtype", HALVES)
def test_one_gate_for_a_map(dtype, layout, images, monkeypatch):
    """One for all images or one for each, float32 or not; with a map that is added, and without; programs that walk."""
    monkeypatch.setattr(importlib.import_module("basicsr.kernels.gate_gradient_triton"), "_PROGRAMS", 4)
    for shape, gate_type, added_type in (
        ((3, 5, 41, 50), torch.float32, torch.float32),
        ((3, 70, 1, 1), torch.float32, dtype),
        ((3, 8, 4, 3), dtype, None),
    ):
        x = random(*shape, dtype=dtype)
        gate = random(images, shape[1], 1, 1, seed=1, dtype=gate_type)
        added = None if added_type is None else random(*shape, seed=2, dtype=added_type)
        inputs = [sliced(x) if layout is None else x.contiguous(memory_format=layout), gate, added][: 2 + (added is not None)]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
        for sigmoid in (False, True):
            factor = wide[1].sigmoid() if sigmoid else wide[1]
            want = wide[0] * factor + (0 if added is None else wide[2])
            with use_triton(True):
                out = gated(*inputs, sigmoid=sigmoid)
                grad = random(*shape, seed=9, dtype=out.dtype)
                found = torch.autograd.grad(out, inputs, grad)
            assert out.dtype == max(dtype, gate_type, added_type or dtype, key=lambda kind: kind.itemsize)
            assert_near(out, want, dtype)
            for mine, wanted, given in zip(found, torch.autograd.grad(want, wide, grad.double()), inputs, strict=True):
                assert mine.dtype == given.dtype
                assert_near(mine, wanted, dtype, of=2 * float(wanted.abs().max()))


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES)
def test_pointwise(dtype, layout, autocast):
    """Weights in float32 under autocast, whose gradients are float32, or in the type of the map."""
    conv = nn.Conv2d(5, 7, 1).to(DEVICE, torch.float32 if autocast else dtype)
    for shape in ((2, 5, 4, 3), (1, 5, 1, 1)):
        x = random(*shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
        grad = random(shape[0], 7, *shape[2:], seed=9, dtype=dtype)
        with use_triton(True), torch.autocast(DEVICE, dtype, enabled=autocast):
            out = pointwise(x, conv)
            found = torch.autograd.grad(out, (x, *conv.parameters()), grad)
        wide = [y.detach().double().requires_grad_() for y in (x, *conv.parameters())]
        want = torch.einsum("nchw,kc->nkhw", wide[0], wide[1].flatten(1)) + wide[2][:, None, None]
        assert out.dtype == dtype
        assert layout == torch.contiguous_format or out.is_contiguous(memory_format=layout)
        assert_near(out, want, dtype)
        wanted = torch.autograd.grad(want, wide, grad.double())
        for mine, theirs, given in zip(found, wanted, (x, *conv.parameters()), strict=True):
            assert mine.dtype == given.dtype
            assert_near(mine, theirs, dtype)


def attention_formula(qkv: Tensor, heads: int, temperature: Tensor, project: Tensor) -> tuple[Tensor, Tensor]:
    """The result, and q k^T, in whose gradient q's and k's are sums."""
    n, wide, h, w = qkv.shape
    q, k, v = qkv.reshape(n, 3, heads, wide // 3 // heads, h * w).unbind(1)
    qk = q @ k.mT
    norms = q.norm(dim=-1)[..., :, None] * k.norm(dim=-1)[..., None, :]
    out = (qk / norms * temperature).softmax(-1) @ v
    return torch.einsum("kc,nchw->nkhw", project.flatten(1), out.reshape(n, -1, h, w)), qk


@pytest.mark.parametrize("triton", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", HALVES)
def test_attention(dtype, layout, triton):
    for heads, channels, size in ((1, 3, (5, 6)), (2, 17, (7, 11)), (3, 5, (1, 1)), (1, 70, (4, 4))):
        c = heads * channels
        qkv = random(3, 3 * c, *size, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
        temperature, project = random(heads, 1, 1, seed=1).requires_grad_(), random(c, c, 1, 1, seed=2).requires_grad_()
        grad = random(3, c, *size, seed=3, dtype=dtype)
        with use_triton(triton):
            out = transposed_attention(qkv, heads, temperature, project)
            of_qkv, *others = torch.autograd.grad(out, (qkv, temperature, project), grad)
        wide = [x.detach().double().requires_grad_() for x in (qkv, temperature, project)]
        want, qk = attention_formula(wide[0], heads, *wide[1:])
        assert_near(out, want, dtype, of=4 * c**0.5)
        wanted, *wanted_others, of_qk = torch.autograd.grad(want, [*wide, qk], grad.double())
        assert of_qkv.is_contiguous(memory_format=layout)
        terms = 2 * float(of_qk.abs().sum((-2, -1)).max() * qkv.detach().abs().max())  # those of one pixel cancel out
        assert_near(of_qkv[:, : 2 * c], wanted[:, : 2 * c], dtype, of=terms)
        assert_near(of_qkv[:, 2 * c :], wanted[:, 2 * c :], dtype, of=4 * float(wanted[:, 2 * c :].abs().max()))
        for found, wanted_other in zip(others, wanted_others, strict=True):
            assert found.dtype == torch.float32
            assert_near(found, wanted_other, torch.float32, of=20 * float(wanted_other.abs().max()) + 1)


def test_attention_with_what_is_added():
    """A bias, one temperature for all heads, a residual; and a channel that is zero everywhere, whose gradient is huge."""
    qkv = random(2, 12, 4, 5, dtype=torch.bfloat16)
    qkv[:, 1] = 0
    inputs = [qkv, torch.tensor(1.7, device=DEVICE), random(4, 4, seed=2), random(4, seed=3), random(2, 4, 4, 5, seed=4)]
    gradients = []
    for dtype in (None, torch.float64):
        given = [x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs]
        with use_triton(True):
            out = transposed_attention(given[0], 2, *given[1:])
            gradients.append(torch.autograd.grad(out.square().sum(), given))
    (of_qkv, *others), (wanted_of_qkv, *wanted_others) = gradients
    pairs = [*zip(of_qkv.unbind(1), wanted_of_qkv.unbind(1), strict=True), *zip(others, wanted_others, strict=True)]
    for found, wanted in pairs:
        assert_near(found, wanted.double(), torch.bfloat16, of=3 * float(wanted.abs().max()))


def gradients(net: nn.Module, dtype: torch.dtype | None, triton: bool | None) -> Tensor:
    """Of all parameters, of one training step on two pictures."""
    image, slope = random(2, 3, 16, 24, seed=1).sigmoid(), random(2, 3, 16, 24, seed=2)
    wide = next(net.parameters()).dtype
    with use_triton(triton):
        with torch.autocast(DEVICE, dtype, enabled=dtype is not None):
            out = net(image.to(wide))
        (out * slope).sum().backward()
    return torch.cat([parameter.grad.flatten().double() for parameter in net.parameters()])


@pytest.mark.parametrize("name", ["Restormer", "NAFNet"])
def test_a_step_of_training_is_as_near_as_torch_s(name):
    """To float64, in float16; with blocks that are computed again, it is the same."""
    plain = False if DEVICE == "cuda" else None
    errors = {True: 0.0, plain: 0.0}
    for seed in range(2):
        torch.manual_seed(seed)
        net = build_network({"type": name, **SMALL_NETS[name]}).to(DEVICE)
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)  # biases and scales that begin at zero, too
        wanted = gradients(copy.deepcopy(net).double(), None, None)
        for triton in errors:
            found = gradients(copy.deepcopy(net), torch.float16, triton)
            errors[triton] += float((found - wanted).norm() / wanted.norm())
    assert 0 < errors[True] < 1.2 * errors[plain]
    again = copy.deepcopy(net)
    assert checkpoint_blocks(again)
    torch.testing.assert_close(gradients(again, torch.float16, True), gradients(net, torch.float16, True), rtol=1e-3, atol=1e-3)


def test_they_leave_alone_what_is_no_plain_training():
    """No autograd, float32 and float64, functional transforms, compilers; and without a GPU everything."""
    x = torch.ones(1, 2, 3, 4, dtype=torch.float16)

    def seen(x: Tensor) -> Tensor:
        return x + 1 if training_type(x, "layer_norm") is None else x + 2

    assert training_type(x) is None
    with use_triton(True):
        assert training_type(x, "layer_norm") == torch.float16
        assert training_type(x.float()) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert training_type(x.float()) == torch.bfloat16
            assert training_type(x.double()) is None
        with torch.no_grad():
            assert training_type(x) is None
        assert (torch.func.vmap(seen)(x) == 2).all()
        assert (torch.compile(seen, backend="eager", fullgraph=True)(x) == 2).all()
        assert (seen(x) == 3).all()
    with use_triton(False):
        assert training_type(x, "layer_norm") is None  # its gradient is for the kernels
        assert training_type(x) == torch.float16


def test_small_maps_have_them_where_kernels_are_launched_together(monkeypatch):
    """Elsewhere Python would take longer for them than for torch's operators."""
    monkeypatch.setattr(choice, "_suits", lambda x: True)
    monkeypatch.setattr(choice, "_trusted", lambda operation, device, dtype: True)
    small, large = torch.ones(1, 2, 3, 4).half(), torch.ones(1).half().expand(1, 3, 2048, 2048)
    assert [training_type(x, "layer_norm") for x in (small, large)] == [None, torch.float16]
    with launched_together():
        assert [training_type(x, "layer_norm") for x in (small, large)] == [torch.float16] * 2
    assert training_type(small, "layer_norm") is None


def test_a_wrong_gradient_is_not_trusted_in_training_either(monkeypatch):
    """Though autograd is on while they are compared."""
    module = importlib.import_module("basicsr.kernels.layer_norm_gradient_triton")
    right = module.launch
    with torch.autocast(DEVICE, torch.bfloat16):
        assert choice.agrees("layer_norm_gradient", torch.device(DEVICE), torch.float16)
        for place, factor in ((0, 0.9), (1, 0.9), (2, 0.9), (1, torch.nan)):

            def wrong(*args: object, place: int = place, factor: float = factor) -> tuple[Tensor | None, ...]:
                return tuple(x if i != place or x is None else factor * x for i, x in enumerate(right(*args)))

            monkeypatch.setattr(module, "launch", wrong)
            assert not choice.agrees("layer_norm_gradient", torch.device(DEVICE), torch.float16)
