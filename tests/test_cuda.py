"""On a GPU: what the CPU gives, in every precision, for predictions and steps of training. Skipped where there is none."""

import copy

import pytest
import torch
from conftest import SMALL_NETS
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.kernels import use_triton
from basicsr.kernels.choice import triton_version
from basicsr.losses import L1Loss
from basicsr.models import prepare_for_inference
from basicsr.models.restoration_model import ImageRestorationModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
VARIANTS = [(name, suffix) for name in sorted(SMALL_NETS) for suffix in ("", "Local")]


def small_net(name: str, suffix: str) -> nn.Module:
    torch.manual_seed(0)
    tlc = {"train_size": 16, "base_size": 24} if suffix else {}
    return build_network({"type": name + suffix, **SMALL_NETS[name], **tlc})


def image(height: int = 40, width: int = 53) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("fp16", 0.01), ("bf16", 0.05)])
@pytest.mark.parametrize(("name", "suffix"), VARIANTS)
def test_predictions(name, suffix, precision, tolerance, channels_last):
    net = small_net(name, suffix)
    wanted = prepare_for_inference(copy.deepcopy(net), device="cpu", precision="fp32")(image())
    run = prepare_for_inference(net, device="cuda", precision=precision, channels_last=channels_last)
    out = run(image())
    assert out.device.type == "cuda"
    assert out.dtype == torch.float32
    assert (out.cpu() - wanted).abs().max() < tolerance * max(1, wanted.abs().max())


@pytest.mark.parametrize(("name", "suffix"), VARIANTS)
def test_kernels_are_as_near_as_torch(name, suffix):
    """In half precision, with Triton and without, no further from float32; what each kernel does is test_kernels.py's."""
    pytest.importorskip("triton")
    net = small_net(name, suffix)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases and scales that begin at zero, too
    wanted = prepare_for_inference(copy.deepcopy(net), device="cuda", precision="fp32")(image(72, 90))
    run = prepare_for_inference(net, device="cuda", precision="bf16")
    errors = {}
    for triton in (True, False):
        with use_triton(triton):
            errors[triton] = float((run(image(72, 90)) - wanted).square().mean().sqrt())
    assert errors[True] < 1.2 * errors[False]


def test_triton_is_used_where_it_can_be():
    pytest.importorskip("triton")
    x = torch.rand(1, 3, 4, 5, device="cuda")
    with torch.no_grad():
        assert triton_version("gate", x) is not None
        assert triton_version("gate", x.cpu()) is None
    assert triton_version("gate", x) is None  # autograd


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.02), ("bf16", 0.1)])
@pytest.mark.parametrize("name", sorted(SMALL_NETS))
def test_steps_of_training(name, precision, tolerance):
    """Losses of three steps, and weights that have become others."""
    net = small_net(name, "")
    before = copy.deepcopy(net.state_dict())
    losses = {}
    for device, kind in (("cpu", "fp32"), ("cuda", precision)):
        model = ImageRestorationModel(copy.deepcopy(net), device=torch.device(device), precision=kind)
        groups = [{"params": list(model.net.parameters()), "lr": 1e-3, "base_lr": 1e-3}]
        model.prepare_training(losses=[L1Loss()], optimizer=torch.optim.AdamW(groups, fused=True), max_grad_norm=1.0)
        batch = {"lq": image(16, 16), "gt": image(16, 16).flip(-1)}
        losses[device] = [model.train_step([batch], lambda base_lr: base_lr)["loss"] for _ in range(3)]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=tolerance)
    assert any(not torch.equal(value.cpu(), before[key]) for key, value in model.net.state_dict().items())
