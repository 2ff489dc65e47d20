"""The words for what a network computes in: what they switch, and what is refused."""

import contextlib
import copy

import pytest
import torch
from conftest import SMALL_NETS

from basicsr.archs import build_network
from basicsr.archs.restormer_arch import FeedForward
from basicsr.errors import UserError
from basicsr.losses import L1Loss
from basicsr.models import precision, prepare_for_inference
from basicsr.models.precision import precision_for
from basicsr.models.restoration_model import ImageRestorationModel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch) -> torch.device:
    """A device that says it is an NVIDIA GPU with TF32 and bf16."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    return CUDA


def switches() -> tuple[bool, str]:
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


@pytest.mark.parametrize(("word", "wanted"), [("fp32", (False, "highest")), ("tf32", (True, "high"))])
@pytest.mark.parametrize("before", [(True, "highest"), (False, "medium")])
def test_float32_is_exact_unless_tf32_is_asked_for(word, wanted, before, gpu, monkeypatch):
    """PyTorch's own default is TF32 in convolutions; what others had set is as it was afterwards, also after an error."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before[0])
    old = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before[1])
    try:
        with contextlib.suppress(RuntimeError), precision._tf32(word == "tf32"):
            assert switches() == wanted
            raise RuntimeError("inside")
        assert switches() == before
    finally:
        torch.set_float32_matmul_precision(old)


def test_words(gpu):
    assert precision_for("auto", gpu).name == "bf16"
    assert precision_for("tf32", gpu).dtype == torch.float32
    assert precision_for("fp32", gpu).describe(gpu) == "fp32 (TF32 off)"
    assert precision_for("fp32", CPU).describe(CPU) == "fp32"
    assert precision_for("fp16", gpu).describe(gpu) == "fp16"


@pytest.mark.parametrize(
    ("word", "says"), [("tf32", "this cpu has no TF32"), ("fp8", "one of auto, fp32, tf32, bf16, fp16. Did you mean `fp")]
)
def test_what_is_refused(word, says):
    with pytest.raises(UserError) as caught:
        prepare_for_inference(torch.nn.Conv2d(3, 3, 1), device="cpu", precision=word)
    assert says in str(caught.value)


def test_old_gpus_have_no_tf32(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    with pytest.raises(UserError, match="since Ampere"):
        precision_for("tf32", gpu)


def test_autocast_on_a_cpu():
    conv = torch.nn.Conv2d(3, 3, 1)
    for word, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with precision_for(word, CPU).arithmetic(CPU):
            assert conv(torch.rand(1, 3, 4, 4)).dtype == dtype


# ---- weights cast once


def small(name: str, local: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    tlc = {"tlc": {"train_size": 16, "base_size": 24}} if local else {}
    net = build_network({"type": name, **SMALL_NETS[name], **tlc})
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases and scales that begin at zero, too
    return net.eval()


def picture(height: int = 40, width: int = 53) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def root_mean_square(x: torch.Tensor) -> float:
    return float(x.double().square().mean().sqrt())


@pytest.mark.parametrize("word", ["bf16", "fp16"])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("name", sorted(SMALL_NETS))
def test_cast_weights_are_as_near_as_autocast(name, local, word, monkeypatch):
    net = small(name, local)
    kept = copy.deepcopy(net.state_dict())
    exact = prepare_for_inference(copy.deepcopy(net), device="cpu", precision="fp32")(picture())
    errors = {}
    for keeps in (True, False):
        monkeypatch.setattr(type(net), "keeps_images", keeps)
        out = prepare_for_inference(net, device="cpu", precision=word)(picture())
        assert out.dtype == torch.float32
        errors[keeps] = root_mean_square(out - exact)
    assert 0 < errors[True] < 1.5 * errors[False]  # autocast adds what skips blocks in float32
    assert all(torch.equal(value, kept[key]) for key, value in net.state_dict().items())


def test_images_are_not_rounded():
    """What a net adds to its input is rounded, the input is not."""
    net = small("NAFNet")
    for parameter in net.ending.parameters():
        parameter.data.zero_()
    image = picture()
    assert torch.equal(prepare_for_inference(net, device="cpu", precision="bf16")(image), image)


def test_other_nets_run_under_autocast():
    seen = []
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 3, 1))
    net[1].register_forward_pre_hook(lambda module, args: seen.append((args[0].dtype, module.weight.dtype)))
    prepare_for_inference(net, device="cpu", precision="bf16")(picture())
    assert seen == [(torch.bfloat16, torch.float32)]


@pytest.mark.parametrize("bias", [False, True])
def test_widths_are_padded_by_what_changes_nothing(bias):
    torch.manual_seed(0)
    layer = FeedForward(8, 2.66, bias).double().requires_grad_(False)
    wider = copy.deepcopy(layer)
    wider.pad_width(8)
    assert (layer.project_out.in_channels, wider.project_out.in_channels) == (21, 24)
    assert wider.dwconv.weight.shape == (48, 1, 3, 3)
    assert wider.project_in.weight.dtype == torch.float64
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(wider(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_validation_in_half_precision_sees_the_weights_of_now(ema):
    model = ImageRestorationModel(small("NAFNet"), device=CPU)
    groups = [{"params": list(model.net.parameters()), "lr": 1e-2, "base_lr": 1e-2}]
    model.prepare_training(losses=[L1Loss()], optimizer=torch.optim.Adam(groups), ema_decay=ema, validation_precision="bf16")
    batch = {"lq": picture(16, 16), "gt": picture(16, 16).flip(-1)}
    for _ in range(2):
        model.train_step([batch], lambda rate: rate)
        now = copy.deepcopy(model.net if ema is None else model.ema.module)
        wanted = prepare_for_inference(now, device="cpu", precision="bf16")(picture())
        assert torch.equal(model.predict(picture()), wanted)
        assert {p.dtype for p in model.net.parameters()} == {torch.float32}
