"""The words for what a network computes in: what they switch, and what is refused."""

import contextlib

import pytest
import torch

from basicsr.errors import UserError
from basicsr.models import precision, prepare_for_inference
from basicsr.models.precision import precision_for

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
