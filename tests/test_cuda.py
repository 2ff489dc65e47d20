"""On a GPU: what the CPU gives, in every precision, layer by layer and command by command. Skipped where there is none.

`make test-gpu` runs it. With TLC_TEST_GPU=rehearse the commands run on the CPU, to see that the tests themselves are sound.
"""

import copy
import csv
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from conftest import PSNR_AND_SSIM, REPOSITORY, SMALL_NETS, make_pairs, picture, write, write_yaml
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from basicsr.archs import build_network
from basicsr.data.augment import scaled, to_tensor
from basicsr.data.image_dataset import ImageDataset
from basicsr.engine.build import build_metrics
from basicsr.engine.testing import evaluate as evaluation
from basicsr.engine.testing.evaluate import measure
from basicsr.kernels import use_triton
from basicsr.kernels.choice import triton_version
from basicsr.losses import L1Loss
from basicsr.metrics.protocols import PROTOCOLS
from basicsr.models import inference, prepare_for_inference
from basicsr.models.cuda_graphs import Graphs
from basicsr.models.restoration_model import ImageRestorationModel
from basicsr.sections import ValOptions
from basicsr.utils.checkpoint import save_torch
from basicsr.utils.image import quantise, read_image

REHEARSAL = os.environ.get("TLC_TEST_GPU") == "rehearse"
pytestmark = pytest.mark.skipif(not (torch.cuda.is_available() or REHEARSAL), reason="needs a CUDA GPU, and make test-gpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICE = "cpu" if REHEARSAL else "cuda"
VARIANTS = [(name, suffix) for name in sorted(SMALL_NETS) for suffix in ("", "Local")]
VAL_WORDS = ("name", "dataroot_gt", "dataroot_lq")
PRECISIONS = [("fp32", 2e-5), ("tf32", 5e-3), ("fp16", 0.01), ("bf16", 0.05)]


def small_net(name: str, suffix: str) -> nn.Module:
    torch.manual_seed(0)
    tlc = {"train_size": 16, "base_size": 24} if suffix else {}
    return build_network({"type": name + suffix, **SMALL_NETS[name], **tlc})


def image(height: int = 40, width: int = 53, seed: int = 1) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


# ---- predictions


@needs_gpu
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("precision", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("name", "suffix"), VARIANTS)
def test_predictions(name, suffix, precision, tolerance, channels_last):
    if precision == "tf32" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    net = small_net(name, suffix)
    wanted = prepare_for_inference(copy.deepcopy(net), device="cpu", precision="fp32")(image())
    run = prepare_for_inference(net, device="cuda", precision=precision, channels_last=channels_last)
    out = run(image())
    assert out.device.type == "cuda"
    assert out.dtype == torch.float32
    assert (out.cpu() - wanted).abs().max() < tolerance * max(1, wanted.abs().max())


@needs_gpu
@pytest.mark.parametrize(("name", "suffix"), VARIANTS)
def test_a_batch_is_its_images(name, suffix):
    run = prepare_for_inference(small_net(name, suffix), device="cuda", precision="fp32")
    batch = torch.cat([image(), image().flip(-1), image().flip(-2)])
    torch.testing.assert_close(run(batch), torch.cat([run(batch[i : i + 1]) for i in range(3)]), rtol=2e-5, atol=2e-5)


@needs_gpu
@pytest.mark.parametrize(("name", "suffix"), VARIANTS)
def test_kernels_are_as_near_as_torch(name, suffix):
    """In half precision, with Triton and without, no further from float32; what each kernel does is test_kernels.py's.

    Of small nets with random weights one image says little: roundings are magnified by chance.
    """
    pytest.importorskip("triton")
    errors = {True: 0.0, False: 0.0}
    for seed in range(4):
        net = small_net(name, suffix)
        torch.manual_seed(seed)
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)  # biases and scales that begin at zero, too
        wanted = prepare_for_inference(copy.deepcopy(net), device="cuda", precision="fp32")(image(72, 90))
        run = prepare_for_inference(net, device="cuda", precision="bf16", cuda_graphs=False)
        for triton in errors:
            with use_triton(triton):
                errors[triton] += float(((run(image(72, 90)) - wanted).square().mean() / wanted.square().mean()).sqrt())
    assert errors[True] < 1.3 * errors[False]


@needs_gpu
def test_triton_is_used_where_it_can_be():
    pytest.importorskip("triton")
    x = torch.rand(1, 3, 4, 5, device="cuda")
    with torch.no_grad():
        assert triton_version("gate", x) is not None
        assert triton_version("gate", x.cpu()) is None
    assert triton_version("gate", x) is None  # autograd


@needs_gpu
@pytest.mark.parametrize(("name", "suffix"), VARIANTS)
def test_compiled(name, suffix):
    net = small_net(name, suffix)
    wanted = prepare_for_inference(copy.deepcopy(net), device="cuda", precision="fp32")(image())
    run = prepare_for_inference(net, device="cuda", precision="fp32", compiled=True, cuda_graphs=False)
    for out in (run(image()), run.compiled(image())):  # whichever is faster
        assert (out - wanted).abs().max() < 1e-4 * max(1, wanted.abs().max())


@needs_gpu
def test_bytes_are_divided_as_on_the_cpu():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert torch.equal(scaled(torch.from_numpy(values).cuda()).cpu(), to_tensor(values))


# ---- CUDA graphs; when they are made is test_cuda_graphs.py's


def graphs_of(net: nn.Module, *, always: bool = True, precision: str = "bf16", **options: object) -> Graphs:
    return prepare_for_inference(net, device="cuda", precision=precision, cuda_graphs=always or "auto", **options)


def sizes(graphs: Graphs) -> list[tuple[int, ...]]:
    return [shape[-2:] for shape, _ in graphs.recordings]


def stay_true(monkeypatch) -> None:
    """cuDNN may choose another algorithm for the same map, by the memory that is free."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "suffix"), VARIANTS)
def test_graphs_give_what_the_net_gives(name, suffix, precision, monkeypatch):
    """To the bit, in any order of several sizes, though they share memory; each result is the caller's own."""
    stay_true(monkeypatch)
    net = small_net(name, suffix)
    plain = prepare_for_inference(copy.deepcopy(net), device="cuda", precision=precision, cuda_graphs=False)
    graphs = graphs_of(net, precision=precision)
    images = [image(), image().flip(-1), image(64, 48), image(33, 40), image(), image(64, 48).flip(-2)]
    wanted = [plain(x) for x in images]
    got = [graphs(x) for x in images]
    assert sizes(graphs) == [(33, 40), (40, 53), (64, 48)]
    for ours, eager in zip(got, wanted, strict=True):
        assert torch.equal(ours, eager)


@needs_gpu
def test_graphs_of_batches_tiles_and_turned_images(monkeypatch):
    stay_true(monkeypatch)
    net = small_net("NAFNet", "Local")
    plain = prepare_for_inference(copy.deepcopy(net), device="cuda", precision="fp32", cuda_graphs=False)
    graphs = graphs_of(net, precision="fp32")
    batch = torch.cat([image(), image().flip(-1)])
    assert torch.equal(graphs(batch), plain(batch))
    assert torch.equal(inference.tiled(graphs, image(70, 90), 32, 8), inference.tiled(plain, image(70, 90), 32, 8))
    assert torch.equal(inference.self_ensemble(graphs, image()), inference.self_ensemble(plain, image()))
    assert sizes(graphs) == [(40, 53), (32, 32), (40, 53), (53, 40)]


@needs_gpu
def test_graphs_see_weights_that_change(monkeypatch):
    """Written into; and in new memory, where the graphs are made again."""
    stay_true(monkeypatch)
    net = small_net("NAFNet", "")
    graphs = graphs_of(net, precision="fp32")
    first = graphs(image())
    torch.manual_seed(1)
    other = build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]})
    wanted = prepare_for_inference(other, device="cuda", precision="fp32", cuda_graphs=False)(image())
    net.load_state_dict(other.state_dict())
    assert len(graphs.recordings) == 1
    assert torch.equal(graphs(image()), wanted)
    assert not torch.equal(first, wanted)
    for parameter in net.parameters():
        parameter.data = parameter.data * 2
    wanted = prepare_for_inference(copy.deepcopy(net), device="cuda", precision="fp32", cuda_graphs=False)(image())
    assert torch.equal(graphs(image()), wanted)


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_between_graphs(precision, monkeypatch):
    """A validation's graphs are of the weights that there are then, averages or not, and their memory is given back."""
    stay_true(monkeypatch)
    for decay in (None, 0.5):
        model = ImageRestorationModel(small_net("NAFNet", ""), device=torch.device("cuda"), cuda_graphs=True)
        groups = [{"params": list(model.net.parameters()), "lr": 1e-3, "base_lr": 1e-3}]
        model.prepare_training(
            losses=[L1Loss()],
            optimizer=torch.optim.AdamW(groups, fused=True),
            validation_precision=precision,
            ema_decay=decay,
        )
        batch = {"lq": image(16, 16), "gt": image(16, 16).flip(-1)}
        for _ in range(2):
            model.train_step([batch], lambda base_lr: base_lr)
            assert "run" not in vars(model)
            got = [model.predict(image()) for _ in range(2)]
            now = copy.deepcopy(model.net if model.ema is None else model.ema.module)
            wanted = prepare_for_inference(now, device="cuda", precision=precision, channels_last=None, cuda_graphs=False)
            torch.testing.assert_close(got[1], wanted(image()), rtol=1e-3, atol=1e-4 if precision == "fp32" else 1e-2)
            assert torch.equal(*got)


@needs_gpu
def test_graphs_are_let_go_of():
    """The size that was not used for longest goes, and of a prediction that is not needed any more all memory."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    graphs = graphs_of(small_net("NAFNet", ""))
    for side in (32, 40, 48, 56, 32, 64):
        graphs(image(side, side))
    assert [size[0] for size in sizes(graphs)] == [48, 56, 32, 64]
    del graphs
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + (40 << 20)  # cuBLAS keeps workspaces, of 32 MiB


@needs_gpu
def test_graphs_keep_the_tables_that_kernels_read(monkeypatch):
    """Those of windows, which images of other sizes push out of their cache."""
    stay_true(monkeypatch)
    net = small_net("Restormer", "Local")
    plain = prepare_for_inference(copy.deepcopy(net), device="cuda", precision="bf16", cuda_graphs=False)
    graphs = graphs_of(net)
    first = graphs(image())
    assert graphs.recordings.popitem()[1].tables
    first = graphs(image())
    for side in range(24, 104):
        plain(image(side, side + 1))
    filled = [torch.full((128,), 77, dtype=torch.int32, device="cuda") for _ in range(4096)]  # in memory that became free
    assert torch.equal(graphs(image()), first)
    assert torch.equal(plain(image()), first)
    assert len(filled) == 4096


@needs_gpu
def test_graphs_by_themselves():
    """A net of many small kernels is faster as a graph, from the second image of a size."""
    net = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(200)))
    many = graphs_of(net, always=False)  # under autocast, as it does not say that it keeps images in float32
    plain = prepare_for_inference(net, device="cuda", precision="bf16", cuda_graphs=False)
    many(image())
    assert sizes(many) == []
    assert torch.equal(many(image()), plain(image()))
    assert sizes(many) == [(40, 53)]
    net.requires_grad_(False).get_submodule("199").bias += 1
    assert torch.equal(many(image()), plain(image()))


class Waiting(nn.Conv2d):
    """A net that asks for a value; and one that gives something else each time."""

    def __init__(self, drifts: bool) -> None:
        super().__init__(3, 3, 1)
        self.drifts, self.count = drifts, 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += self.drifts
        return super().forward(x) * (1 + self.count) if self.drifts or float(x.mean()) > 0 else x


@needs_gpu
@pytest.mark.parametrize(("drifts", "says"), [(False, "waits for the GPU"), (True, "something else each time")])
def test_nets_that_cannot_be_graphs(drifts, says, caplog):
    net = Waiting(drifts)
    graphs = graphs_of(net, precision="fp32")
    for _ in range(2):
        out = graphs(image())
        torch.testing.assert_close(out, nn.Conv2d.forward(net, image().cuda()) * (1 + net.count), rtol=1e-5, atol=1e-5)
    assert [says in record.getMessage() for record in caplog.records] == [True]
    assert graphs_of(small_net("NAFNet", ""))(image()).isfinite().all()  # others can, afterwards


@needs_gpu
def test_a_recording_that_breaks(caplog, monkeypatch):
    """What is not foreseen to wait: the stream is the old one again, and later graphs work."""
    monkeypatch.setattr("basicsr.models.recording._waits", lambda *seen: False)
    stream = torch.cuda.current_stream()
    graphs = graphs_of(Waiting(False), precision="fp32")
    assert graphs(image()).isfinite().all()
    assert "without a CUDA graph" in caplog.text
    assert torch.cuda.current_stream() == stream
    monkeypatch.undo()
    others = graphs_of(small_net("NAFNet", ""))
    assert torch.equal(others(image()), others(image()))
    assert len(others.recordings) == 1


@needs_gpu
@pytest.mark.parametrize(("name", "suffix"), [("NAFNet", ""), ("HINet", "Local")])
def test_compiled_graphs(name, suffix):
    net = small_net(name, suffix)
    wanted = prepare_for_inference(copy.deepcopy(net), device="cuda", precision="fp32", cuda_graphs=False)(image())
    graphs = graphs_of(net, precision="fp32", compiled=True)
    graphs.run.kept = graphs.run.compiled
    for _ in range(3):
        assert (graphs(image()) - wanted).abs().max() < 1e-4 * max(1, wanted.abs().max())
    assert sizes(graphs) == [(40, 53)]
    assert compiled_kernels(lambda: graphs(image()))


def compiled_kernels(work: Callable[[], object]) -> list[str]:
    """Names of those that `work` launches and torch.compile has made."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    return [event.name for event in profiler.events() if event.name.startswith("triton_")]


# ---- steps


@needs_gpu
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


def trained(net: nn.Module, precision: str, batches: list[dict], **options: object) -> tuple[ImageRestorationModel, list]:
    """After a step for each of these batches: the model, and the losses."""
    model = ImageRestorationModel(net, device=torch.device("cuda"), precision=precision)
    groups = [{"params": list(net.parameters()), "lr": 1e-3, "base_lr": 1e-3, "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    model.prepare_training(losses=[L1Loss()], optimizer=optimizer, max_grad_norm=1.0, **options)
    return model, [model.train_step(micro_batches, lambda base_lr: base_lr)["loss"] for micro_batches in batches]


def batches(count: int, *sizes: tuple[int, int], micro_batches: int = 1) -> list[list[dict]]:
    pairs = [(image(*size, seed=seed), image(*size, seed=seed).flip(-1)) for size in sizes for seed in range(count)]
    return [[{"lq": lq, "gt": gt}, {"lq": gt, "gt": lq}][:micro_batches] for lq, gt in pairs]


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", sorted(SMALL_NETS))
def test_graphs_of_training_learn_what_steps_learn(name, precision):
    """Of two shapes, in one and in two micro-batches, with averages and without."""
    net = small_net(name, "")
    for options, todo in (({}, batches(5, (16, 16), (24, 16))), ({"ema_decay": 0.5}, batches(4, (16, 16), micro_batches=2))):
        found = {}
        for graphs in (True, False):
            found[graphs] = trained(copy.deepcopy(net), precision, todo, cuda_graphs=graphs, **options)
        model = found[True][0]
        assert model.graph.recording is not None
        assert found[False][0].graph is None
        assert found[True][1] == pytest.approx(found[False][1], rel=1e-4 if precision == "fp32" else 2e-2)
        if precision == "fp32":
            for ours, theirs in zip(model.net.parameters(), found[False][0].net.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        model.predict(image())
        assert model.graph.recording is None


class Reading(nn.Module):
    """It reads a value back, which a graph cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.unused = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) * (1 if x.mean().item() > -1 else 2)


@needs_gpu
@pytest.mark.parametrize("foreseen", [True, False])
def test_nets_that_cannot_be_graphs_in_training(foreseen, caplog, monkeypatch):
    if not foreseen:
        monkeypatch.setattr("basicsr.models.recording._waits", lambda *seen: False)
    net = Reading()
    model, losses = trained(copy.deepcopy(net), "fp32", batches(6, (16, 16)), cuda_graphs=True)
    assert "Training runs without a CUDA graph" in caplog.text
    assert losses == pytest.approx(trained(copy.deepcopy(net), "fp32", batches(6, (16, 16)), cuda_graphs=False)[1], rel=1e-4)
    assert torch.equal(model.net.unused.weight.cpu(), net.unused.weight)  # no gradient, and so no decay
    monkeypatch.undo()
    model, _ = trained(small_net("NAFNet", ""), "fp32", batches(4, (16, 16)), cuda_graphs=True)
    assert model.graph.recording is not None


@needs_gpu
def test_compiled_training():
    """The graph is that of what is compiled, as its kernels' names say."""
    net = small_net("NAFNet", "")
    todo = batches(5, (16, 16))
    model, losses = trained(copy.deepcopy(net), "fp32", todo, compiled=True, cuda_graphs=True)
    assert model.graph.recording is not None
    assert compiled_kernels(lambda: model.train_step(todo[0], lambda base_lr: base_lr))
    assert losses == pytest.approx(trained(copy.deepcopy(net), "fp32", batches(5, (16, 16)), cuda_graphs=False)[1], rel=1e-4)


@needs_gpu
def test_workspaces_stay_small():
    """Those of HINet's convolutions in float32, the first ones of a process, which has the whole card."""
    lines = [
        "import torch",
        "from basicsr.archs import build_network",
        "from basicsr.models import prepare_for_inference",
        "net = build_network({'type': 'HINet', 'hin_position_left': 3, 'hin_position_right': 4})",
        "run = prepare_for_inference(net, device='cuda', precision='fp32')",
        "image = torch.rand(1, 3, 720, 1280, device='cuda')",
        "for _ in range(3): assert run(image).isfinite().all()",
        "print(torch.cuda.max_memory_allocated() / 2**30, torch.cuda.get_per_process_memory_fraction())",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    peak, fraction = map(float, done.stdout.split())
    assert peak < 6
    assert fraction == 1


@needs_gpu
@pytest.mark.parametrize("name", sorted(SMALL_NETS))
def test_gradients_are_as_near_as_torch_s(name):
    """In half precision, with Triton and without, no further from float32; each kernel's are test_training_kernels.py's."""
    pytest.importorskip("triton")
    errors = {True: 0.0, False: 0.0}
    for seed in range(4):
        net = small_net(name, "").cuda()
        torch.manual_seed(seed)
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)  # biases and scales that begin at zero, too
        wanted = torch.cat([x.flatten() for x in gradients(net, torch.float32)])
        for triton in errors:
            with use_triton(triton):
                found = torch.cat([x.flatten() for x in gradients(net, torch.bfloat16)])
            errors[triton] += float((found - wanted).norm() / wanted.norm())
    assert 0 < errors[True] < 1.2 * errors[False]


def gradients(net: nn.Module, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Of all parameters, for one picture."""
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        out = net(image(16, 24).cuda())
    stages = out if isinstance(out, list) else [out]
    return torch.autograd.grad(sum(stage.square().mean() for stage in stages), net.parameters())


# ---- evaluation


def noisy_pair(height: int, width: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """(C, H, W) in [0, 1]: a picture and a copy that is also outside of it."""
    gt = torch.from_numpy(picture(3, height, width).copy()).permute(2, 0, 1)[:channels] / 255
    noise = torch.randn(gt.shape, generator=torch.Generator().manual_seed(4))
    return gt + 0.04 * noise, gt


@pytest.mark.parametrize("size", [(40, 53), (200, 320)])
@pytest.mark.parametrize("protocol", [None, *PROTOCOLS])
def test_metrics_are_computed_where_the_image_is(protocol, size):
    words = {} if protocol is None else {"protocol": protocol}
    kinds = ["psnr"] if protocol == "noise8" else ["psnr", "ssim"]
    kinds += ["mae"] if protocol in (None, "rgb8", "float", "dpdd") else []
    metrics = build_metrics(ValOptions(metrics={kind: {"type": f"calculate_{kind}", **words} for kind in kinds}))
    for channels in (3, 1):
        restored, gt = noisy_pair(*size, channels)
        wanted, _ = measure(metrics, restored, gt)
        found, _ = measure(metrics, restored.to(DEVICE), gt.to(DEVICE))
        assert found == pytest.approx(wanted, abs=1e-6, rel=0)


@needs_gpu
def test_metrics_of_ones_own_are_given_arrays():
    seen = []

    def own(img1, img2):
        seen.append((img1, img2))
        return 1.0

    own.of_set = None
    restored, gt = noisy_pair(40, 53)
    for where in ("cpu", "cuda"):
        measure({"own": own}, restored.to(where), gt.to(where))
    for here, there in zip(*seen, strict=True):
        np.testing.assert_array_equal(here, there)
        assert there.flags.c_contiguous


@needs_gpu
def test_metrics_go_to_the_cpu_where_the_network_has_all_memory(monkeypatch):
    result, where = evaluation._result, []

    def full(sample, restored, *args, **more):
        where.append((sample["gt"].device.type, restored.device.type))
        if restored.is_cuda:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return result(sample, restored, *args, **more)

    monkeypatch.setattr(evaluation, "_result", full)
    restored, gt = noisy_pair(40, 53)
    metrics = build_metrics(ValOptions(metrics={"psnr": {"type": "calculate_psnr"}}))
    device = torch.device("cuda", 0)
    data = InMemory([{"lq": restored.clamp(0, 1), "gt": gt, "name": "x"}])
    found = evaluation.evaluate(lambda x: x.to(device), data, metrics, device=device)
    assert where == [("cuda", "cuda"), ("cpu", "cpu")]
    assert found.images[0].metrics["psnr"] == measure(metrics, restored, gt)[0]["psnr"]


class InMemory(ImageDataset):
    """Samples as they are, read by as many threads as there are."""

    def __init__(self, samples: list[dict]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        return dict(self.samples[index])

    def name(self, index: int) -> str:
        return self.samples[index]["name"]


@pytest.mark.parametrize("save", [True, False])
def test_an_evaluation_is_what_the_network_makes_of_each_image(save, tmp_path):
    """Of thirty images of three sizes, in their order, whoever is ready first; pictures to the bit."""
    device = torch.device("cuda", 0) if not REHEARSAL else torch.device("cpu")
    run = prepare_for_inference(small_net("NAFNet", "Local"), device=device, precision="fp32")
    pairs = [noisy_pair(40 + 8 * (number // 10), 53) for number in range(30)]
    samples = [{"lq": (lq * (0.5 + number / 60)).clamp(0, 1), "gt": gt} for number, (lq, gt) in enumerate(pairs)]
    samples = [{**sample, "name": f"{number:02}"} for number, sample in enumerate(samples)]
    metrics = build_metrics(ValOptions(metrics={kind: {"type": f"calculate_{kind}"} for kind in ("psnr", "ssim")}))
    found = evaluation.evaluate(run, InMemory(samples), metrics, device=device, save_dir=tmp_path if save else None)
    assert [image.name for image in found.images] == [sample["name"] for sample in samples]
    for image, sample in zip(found.images, samples, strict=True):
        restored = run(sample["lq"][None])[0].cpu()
        assert image.metrics == pytest.approx(measure(metrics, restored, sample["gt"])[0], abs=1e-6, rel=0)
        assert image.input_metrics == pytest.approx(measure(metrics, sample["lq"], sample["gt"])[0], abs=1e-6, rel=0)
        assert image.seconds > 0
        if save:
            written = cv2.imread(str(tmp_path / f"{image.name}.png"))[..., ::-1]
            np.testing.assert_array_equal(written, quantise(restored.permute(1, 2, 0).numpy()))


# ---- commands


@pytest.fixture
def weights(root) -> str:
    """Weights of the small NAFNet, so that runs with different options see the same network."""
    save_torch(root / "net.pth", {"params": small_net("NAFNet", "").state_dict()})
    return "net.pth"


def psnr(root, name: str = "run") -> dict[str, float]:
    runs = json.loads((root / "results" / name / "report.json").read_text())["runs"]
    return {run["network"]: run["metrics"]["psnr"] for run in runs}


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--force_yml", "val:tile=16", "val:tile_overlap=4"),
        ("--precision", "bf16"),
        ("--force_yml", "val:self_ensemble=true"),
        ("--force_yml", "val:batch_size=2"),
    ],
)
def test_test(more, root, run, test_options, weights):
    """The decibels of the CPU, without and with TLC."""
    make_pairs(root / "datasets/Set")
    file = write_yaml(root / "x.yml", {**test_options, "num_gpu": "auto"})
    words = ("test", "-opt", file, "--weights", weights, "--tlc", "both", "--window", "24", "--train-size", "16", *more)
    measured = {}
    for device in ("cpu", DEVICE):
        outcome = run(*words, "--device", device)
        assert outcome.code == 0, outcome
        measured[device] = psnr(root)
    assert measured[DEVICE] == pytest.approx(measured["cpu"], abs=0.05 if "bf16" in more else 1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_train_interrupt_resume(precision, root, run, train_options):
    """Twelve iterations at once, and in two parts; the losses fall together, and what is left can be tested."""
    make_pairs(root / "datasets/Set", names=tuple("abcde"))
    file = write_yaml(root / "x.yml", {**train_options, "num_gpu": "auto"})
    words = ("train", "-opt", file, "--device", DEVICE, "--auto_resume", "--force_yml", f"train:precision={precision}")
    schedule = "train:scheduler:T_max=12"
    assert run(*words, "name=whole", "train:total_iter=12", schedule).code == 0
    assert run(*words, "name=parts", "train:total_iter=6", schedule).code == 0
    assert run(*words, "name=parts", "train:total_iter=12", schedule).code == 0
    losses = {}
    for name in ("whole", "parts"):
        with open(root / "experiments" / name / "metrics.csv", newline="") as table:
            losses[name] = [float(row["loss"]) for row in csv.DictReader(table) if row["loss"]]
    assert losses["parts"] == pytest.approx(losses["whole"], rel=1e-3 if precision == "fp32" else 0.05)
    assert (root / "experiments/parts/models/net_g_12.pth").is_file()


def test_validations_of_a_training(root, run, train_options):
    """The figures and the pictures are those of the weights that are kept."""
    make_pairs(root / "datasets/Set", names=tuple("abcde"))
    data = {**train_options["datasets"], "val": {key: train_options["datasets"]["train"][key] for key in VAL_WORDS}}
    val = {"val_freq": 3, "save_img": True, "metrics": PSNR_AND_SSIM}
    file = write_yaml(root / "x.yml", {**train_options, "num_gpu": "auto", "datasets": data, "val": val})
    assert run("train", "-opt", file, "--device", DEVICE).code == 0
    with open(root / "experiments/run/metrics.csv", newline="") as table:
        (last,) = [row for row in csv.DictReader(table) if row["val_psnr"] and row["iter"] == "6"]
    outcome = run("test", "-opt", file, "--weights", root / "experiments/run/models/net_g_6.pth", "--device", "cpu")
    assert outcome.code == 0, outcome
    runs = json.loads((root / "results/run/report.json").read_text())["runs"]
    assert {name: float(last[f"val_{name}"]) for name in PSNR_AND_SSIM} == pytest.approx(runs[0]["metrics"], abs=1e-3)
    assert len(list((root / "experiments/run/visualization/6").glob("*.png"))) == 5


def test_restore_and_compare(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = write(tmp_path / "a.png", picture(1, 70, 90))
    for device in ("cpu", DEVICE):
        assert run("restore", photo, "--output", f"{device}.png", "--compare", "--device", device).code == 0
    assert abs(read_image(tmp_path / f"{DEVICE}.png") - read_image(tmp_path / "cpu.png")).max() <= 1.01 / 255
    assert (tmp_path / f"{DEVICE}_compare.png").is_file()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_export_is_run_beside_the_gpu(precision, root, run, test_options, weights):
    file = write_yaml(root / "x.yml", test_options)
    words = ("export", "-opt", file, "--weights", weights, "--format", "torchscript", "--sizes", "40x48")
    assert run(*words, "--output", "net.pt", "--precision", precision).code == 0
    exported = torch.jit.load(root / "net.pt", map_location=DEVICE)
    wanted = prepare_for_inference(small_net("NAFNet", ""), device=DEVICE, precision="fp32")(image())
    assert (exported(image().to(DEVICE)) - wanted).abs().max() < (2e-2 if precision == "fp16" else 1e-4)


def test_one_process_under_torchrun(root, train_options):
    """On a GPU the processes talk through nccl."""
    make_pairs(root / "datasets/Set", names=tuple("abcde"))
    file = write_yaml(root / "x.yml", {**train_options, "num_gpu": "auto"})
    (root / "launch.py").write_text(
        "import sys; from pathlib import Path; from basicsr import commands, options\n"
        "options.ROOT = Path.cwd()\n"
        "code = commands.run(['train', *sys.argv[1:]])\n"
        "sys.exit(code)\n"
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "--master_port=29511", "launch.py"]
    words = ["-opt", str(file), "--device", DEVICE]
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([*run, *words], cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (root / "experiments/run/models/net_g_6.pth").is_file()
