"""Exported networks: PyTorch's numbers at sizes that the exporter never saw, in files that are whole or not there."""

import functools
import json
import re
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY, SMALL_NETS, picture, write, write_yaml
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.engine import export
from basicsr.errors import UserError
from basicsr.models.exported_model import OnnxModel, TorchModel
from basicsr.tlc import blended_starts, local_channel_attention, local_instance_norm, local_mean, window_starts
from basicsr.tlc.local import exporting
from basicsr.utils.checkpoint import read_weights, save_safetensors, save_torch, save_weights
from basicsr.utils.image import read_image

NETS = [name + local for name in SMALL_NETS for local in ("", "Local")]
# MPRNet's one local layer is NAFNet's, too: each is exported into one format.
IN_ONNX, IN_TORCHSCRIPT = ([name for name in NETS if name != other] for other in ("MPRNet", "MPRNetLocal"))
SIZES = [(2, 32, 48), (1, 80, 64), (1, 101, 83)]  # of the batch, too; windows of 48 cover the first and not the others
MAPS = [(7, 9), (16, 40), (33, 5), (30, 45), (1, 6), (12, 12)]
WINDOWS = [(4, 4), (8, 24), (33, 5), (1, 1), (50, 50)]


def small(name: str, **tlc: object) -> nn.Module:
    torch.manual_seed(0)
    base = name.removesuffix("Local")
    window = {"train_size": 32, "base_size": 48, **tlc} if name != base else {}
    net = build_network({"type": name, **SMALL_NETS[base], **window}).eval().requires_grad_(False)
    for parameter in net.parameters():
        if not parameter.any():  # NAFNet starts as the identity
            parameter.normal_()
    return net


def final(net: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        out = net(image)
    return out[-1] if isinstance(out, list) else out


def noise(n: int, height: int, width: int) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(height))


def traced(function, *example: Tensor):
    """`function` as it is recorded at one size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(function, example, check_trace=False)


def box(x: Tensor, window: tuple[int, int]) -> Tensor:
    """The mean over the window by definition, in float64."""
    h, w = x.shape[-2:]
    out = F.avg_pool2d(x.double(), (min(window[0], h), min(window[1], w)), stride=1)
    rows, columns = h - out.shape[-2], w - out.shape[-1]
    return F.pad(out, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), mode="replicate")


@pytest.mark.parametrize("window", WINDOWS)
def test_a_recorded_mean_and_norm_hold_for_every_size(window):
    mean = traced(lambda x: local_mean(x, window), torch.rand(1, 2, 20, 24))
    norm = traced(lambda x: local_instance_norm(x, window, None, None, 1e-5), torch.rand(1, 2, 20, 24))
    for size in MAPS:
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1)) + 100
        want = box(x, window)
        torch.testing.assert_close(mean(x).double(), want, rtol=1e-6, atol=1e-6)
        centred = x.double() - 100
        variance = box(centred.square(), window) - box(centred, window).square()
        want = (x - want) / (variance.clamp(min=0) + 1e-5).sqrt()
        torch.testing.assert_close(norm(x).double(), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("caps", [(5, 5), (2, 3), (1, 1)])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_recorded_fast_mean_holds_for_every_size(window, caps):
    """Against the same operation unrecorded, which test_tlc.py holds against its definition."""
    mean = traced(lambda x: local_mean(x, window, caps), torch.rand(1, 2, 20, 24))
    for size in [*MAPS, (25, 36), (5, 4), (60, 18)]:
        x = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(mean(x), local_mean(x, window, caps).expand_as(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_recorded_attention_holds_for_every_size(window, projected):
    weight = torch.rand(4, 6) if projected else None

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return local_channel_attention(q, k, v, 2.0, window, weight)

    recorded = traced(attend, *torch.randn(3, 1, 2, 3, 20, 24))
    for h, w in MAPS:
        q, k, v = torch.randn(3, 2, 2, 3, h, w, generator=torch.Generator().manual_seed(1)).double()
        total, count = torch.zeros_like(v), torch.zeros(h, w)
        for top in window_starts(h, window[0]):
            for left in window_starts(w, window[1]):
                part = (..., slice(top, top + window[0]), slice(left, left + window[1]))
                a, b, c = (x[part].flatten(-2) for x in (q, k, v))
                matrix = (F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(-2, -1) * 2).softmax(-1)
                total[part] += (matrix @ c).unflatten(-1, v[part].shape[-2:])
                count[part] += 1
        want = (total / count).flatten(1, 2)
        want = want if weight is None else F.conv2d(want, weight.double()[..., None, None])
        torch.testing.assert_close(recorded(q.float(), k.float(), v.float()).double(), want, rtol=1e-4, atol=1e-5)


def test_no_position_lies_in_more_than_two_windows():
    """On which the recorded attention relies; and its windows are those of window_starts."""
    for size in range(1, 70):
        for window in range(1, 75):
            starts, length = window_starts(size, window), min(window, size)
            assert all(third - first >= length for first, third in zip(starts, starts[2:], strict=False))
        window = max(1, size // 3)
        for blended, starts in ((False, window_starts(size, window)), (True, blended_starts(size, window))):
            cover = exporting._Cover(torch.zeros(size), 0, window, blended)
            assert sorted({row[0] for row in cover.members.view(cover.count, -1).tolist()}) == starts


@functools.cache
def onnx_of(name: str, precision: str = "fp32", **tlc: object) -> bytes:
    pytest.importorskip("onnxruntime")
    return export.export_net(small(name, **tlc), "onnx", precision=precision, metadata={"arch": name})


@pytest.mark.parametrize("name", IN_ONNX)
def test_every_net_in_onnx_runtime(name):
    net, exported = small(name), export.load_exported(onnx_of(name), "onnx")
    for size in SIZES:
        torch.testing.assert_close(exported(noise(*size)), final(net, noise(*size)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", IN_TORCHSCRIPT)
def test_every_net_in_torchscript(name):
    net = small(name)
    exported = export.load_exported(export.export_net(net, "torchscript"), "torchscript")
    with torch.jit.optimized_execution(False):  # to optimise takes longer than to run
        for size in SIZES[::2]:
            torch.testing.assert_close(exported(noise(*size)), final(net, noise(*size)), rtol=0, atol=1e-5)


def test_tlc_is_inside():
    """The -Local net's output differs from the plain one's, by far more than what is tolerated above."""
    plain, local = small("NAFNet"), small("NAFNetLocal")
    local.load_state_dict(plain.state_dict())
    exported = export.load_exported(export.export_net(local, "torchscript"), "torchscript")
    image = noise(1, 101, 83)
    assert (exported(image) - final(plain, image)).abs().max() > 1e-3
    torch.testing.assert_close(exported(image), final(local, image), rtol=0, atol=1e-5)


def test_torch_export():
    torch.manual_seed(0)
    tlc = {"train_size": 32, "base_size": 40}
    options = {"type": "NAFNetLocal", "width": 4, "enc_blk_nums": [1], "middle_blk_num": 0, "dec_blk_nums": [1], **tlc}
    net = build_network(options).eval()
    nn.init.ones_(net.encoders[0][0].beta)
    try:
        content = export.export_net(net, "torch", metadata={"arch": "NAFNetLocal"})
    except UserError as error:  # an old torch
        pytest.skip(str(error))
    exported = export.load_exported(content, "torch")
    for size in SIZES:
        torch.testing.assert_close(exported(noise(*size)), final(net, noise(*size)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["HINetLocal", "NAFNetLocal"])
def test_the_fast_approximation(name):
    net, exported = small(name, fast_imp=True), export.load_exported(onnx_of(name, fast_imp=True), "onnx")
    for size in [(1, 80, 64), (1, 101, 83), (1, 40, 200)]:
        torch.testing.assert_close(exported(noise(*size)), final(net, noise(*size)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["NAFNetLocal", "RestormerLocal"])
def test_half_precision(name):
    """float32 goes in and comes out; the file is about half as large, and half precision's rounding shows."""
    net, exported = small(name), export.load_exported(onnx_of(name, "fp16"), "onnx")
    out, want = exported(noise(1, 101, 83)), final(net, noise(1, 101, 83))
    assert out.dtype == torch.float32
    assert 1e-5 < (out - want).abs().max() < 2e-2
    assert next(net.parameters()).dtype == torch.float32
    onnx = pytest.importorskip("onnx")
    stored = []
    for content in (onnx_of(name, "fp16"), onnx_of(name)):
        tensors = onnx.load_from_string(content).graph.initializer
        stored.append(sum(len(tensor.raw_data) for tensor in tensors if len(tensor.dims) == 4))  # convolutions
    assert stored[0] * 2 == stored[1]


@pytest.fixture
def options(root) -> dict:
    """Options of a small NAFNetLocal with weights; the test's folder is the repository's root."""
    save_torch(root / "weights.pth", {"params": small("NAFNet").state_dict()})
    network = {"type": "NAFNetLocal", **SMALL_NETS["NAFNet"], "train_size": 32, "base_size": 48}
    return {"name": "net", "num_gpu": 0, "network_g": network, "path": {"pretrain_network_g": "weights.pth"}}


def rows(text: str) -> dict[str, list[float]]:
    """The parity table: size -> difference, seconds of PyTorch, seconds of the exported net."""
    lines = [line.split() for line in text.splitlines() if re.match(r" *\d+x\d+ ", line)]
    return {size: [float(value) for value in values] for size, *values in lines}


@pytest.mark.parametrize(("kind", "suffix"), [("onnx", ".onnx"), ("torchscript", ".pt")])
def test_the_script(root, run, options, kind, suffix):
    pytest.importorskip("onnxruntime")
    sizes = ("--sizes", "40x32", "75x50", "83x101")
    outcome = run("export", "-opt", write_yaml(root / "net.yml", options), "--format", kind, *sizes)
    assert outcome.code == 0, outcome
    table = rows(outcome.out)
    assert list(table) == ["40x32", "75x50", "83x101"]
    assert "width x height" in outcome.out
    assert all(difference < 1e-4 and min(seconds) > 0 for difference, *seconds in table.values())
    file = root / f"results/export/net{suffix}"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    net = build_network(options["network_g"])
    net.load_state_dict(read_weights(root / "weights.pth"))
    exported = export.load_exported(file.read_bytes(), kind)
    torch.testing.assert_close(exported(noise(1, 45, 70)), final(net.eval(), noise(1, 45, 70)), rtol=0, atol=1e-5)
    if kind == "onnx":
        metadata = OnnxModel(file).metadata
    else:
        files = {"metadata.json": ""}
        torch.jit.load(file, _extra_files=files)
        metadata = json.loads(files["metadata.json"])
    assert metadata["arch"] == "NAFNetLocal"
    assert metadata["tlc"].startswith("TLC: trained on 32x32, window 48x48")
    assert metadata["weights"] == "weights.pth"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--output", "x.pt"), "--output x.pt: a file of --format onnx is called something.onnx"),
        (("--sizes", "64"), "--sizes: '64' is not WIDTHxHEIGHT"),
        (("--sizes", "0x64"), "--sizes: '0x64' is not WIDTHxHEIGHT"),
        (("--force_yml", "path:pretrain_network_g=none.pth"), "none.pth do not exist"),
        (("--output", "weights.pth/x.onnx"), "cannot be written"),
    ],
)
def test_mistakes(root, run, options, args, says):
    pytest.importorskip("onnxruntime")
    outcome = run("export", "-opt", write_yaml(root / "net.yml", options), "--sizes", "32x32", *args)
    assert outcome.code == 2, outcome
    assert says in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (root / "results").exists()


def test_a_net_that_is_off_is_not_written(root, run, options, monkeypatch):
    """A decision on the image's size, frozen at the example's."""
    write(root / "results/export/net.onnx.png", picture(0))
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "tracing", lambda: False)
        outcome = run("export", "-opt", write_yaml(root / "net.yml", options), "--format", "torchscript", "--sizes", "90x40")
    assert outcome.code == 2, outcome
    assert "the exported network does not run on an image of (1, 3, 40, 90)" in outcome.err
    monkeypatch.setattr(export.FinalStage, "forward", lambda self, lq: final(self.net, lq) + 1e-3)
    outcome = run("export", "-opt", root / "net.yml", "--format", "torchscript", "--sizes", "64x80")
    assert outcome.code == 2, outcome
    assert "at 64x80 the exported network is off by 1.0e-03, more than 1e-04: nothing was written" in outcome.err
    assert len(list((root / "results/export").iterdir())) == 1


def test_without_onnx_runtime(root, run, options, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    outcome = run("export", "-opt", write_yaml(root / "net.yml", options))
    assert outcome.code == 2
    assert "pip install onnx onnxruntime" in outcome.err


@pytest.fixture
def demo(root, run, options):
    """demo(output, *arguments) -> how it ended; restores a.png."""
    write(root / "a.png", picture(0, 61, 90))
    opt = write_yaml(root / "demo.yml", options)

    def restore(output: str, *more: str):
        return run("demo", "-opt", opt, "--input", root / "a.png", "--output", root / output, *more)

    return restore


@pytest.mark.parametrize("ways", [(), ("val:tile=40", "val:tile_overlap=8"), ("val:self_ensemble=true",)])
def test_the_demo_runs_it(root, demo, ways):
    """Whole, in tiles, self-ensembled: the pixels are those of the network in PyTorch, up to one step of rounding."""
    (root / "net.onnx").write_bytes(onnx_of("NAFNetLocal"))  # its weights are those of the options
    force = ("--force_yml", *ways) if ways else ()
    outcome = demo("onnx.png", "--weights", "net.onnx", *force)
    assert outcome.code == 0, outcome
    assert "net.onnx: NAFNetLocal" in outcome.out
    assert demo("torch.png", *force).code == 0
    difference = np.abs(read_image(root / "onnx.png") - read_image(root / "torch.png"))
    assert difference.max() < 1.5 / 255
    assert np.abs(read_image(root / "onnx.png") - read_image(root / "a.png")).max() > 5 / 255
    if not ways:
        assert demo("c.png", "--weights", "net.onnx", "--compare", "--target", str(root / "a.png")).code == 0
        assert (root / "c_compare.png").is_file()


@pytest.mark.parametrize(
    ("content", "args", "says"),
    [
        (None, (), "net.onnx does not exist"),
        (b"damaged", (), "cannot be run by ONNX Runtime"),
        (b"", ("--arch", "NAFNet"), "net.onnx holds its network and runs as it was exported: leave --net out"),
        (b"", ("--tlc", "off"), "leave --tlc out"),
        (b"", ("--window", "64", "--train-size", "32"), "leave --window, --train-size out"),
        (b"", ("--force_yml", "network_g:width=8"), "leave network_g:width out"),
        (b"", ("--force_yml", "val:precision=bf16"), "val.precision: net.onnx runs as it was exported"),
    ],
)
def test_the_demo_refuses(root, demo, content, args, says):
    pytest.importorskip("onnxruntime")
    if content is not None:
        (root / "net.onnx").write_bytes(content)
    outcome = demo("b.png", "--weights", "net.onnx", *args)
    assert outcome.code == 2, outcome
    assert says in outcome.err
    assert not (root / "b.png").exists()


@pytest.mark.parametrize(("kind", "suffix"), [("torchscript", ".pt"), ("torch", ".pt2")])
def test_the_demo_runs_what_torch_wrote(root, run, demo, kind, suffix):
    """Its pixels are those of ONNX Runtime's or PyTorch's; as weights of a test or a conversion it is refused."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh()).eval()
    file = root / f"net{suffix}"
    try:
        file.write_bytes(export.export_net(net, kind, metadata={"arch": "Mine"}))
    except UserError as error:  # an old torch
        pytest.skip(str(error))
    outcome = demo("b.png", "--weights", file.name)
    assert outcome.code == 0, outcome
    assert f"net{suffix}: Mine" in outcome.out
    image = torch.from_numpy(read_image(root / "a.png")).permute(2, 0, 1)[None]
    want = final(net, image)[0].permute(1, 2, 0).clamp(0, 1).numpy()
    assert np.abs(read_image(root / "b.png") - want).max() < 1 / 255
    with pytest.raises(UserError, match="does not run on an image of"):
        TorchModel(file, kind).predict(noise(1, 40, 40)[:, :2])
    outcome = run("convert", "--weights", file)
    assert outcome.code == 2
    assert f"net{suffix} is an exported network" in outcome.err
    assert "tlc restore --weights" in outcome.err
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(root / f"half{suffix}", "w") as half:
        for name in whole.namelist():
            if "/code/" in name or name.endswith("model.json"):
                half.writestr(name, b"damaged")
    assert "half" in (outcome := demo("c.png", "--weights", f"half{suffix}")).err
    assert "cannot be run by torch" in outcome.err


EVEN = """import torch
from torch import nn


class Even(nn.Module):
    def __init__(self, *, width: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 2, stride=2), nn.ConvTranspose2d(width, 3, 2, stride=2)

    def forward(self, x):
        return x + self.last(self.first(x))
"""


@pytest.fixture
def even(root, forget_own_code) -> dict[str, Tensor]:
    """Weights w.pth, of width 6, of a net in a file of one's own, even:Even, that takes even sides alone."""
    (root / "even.py").write_text(EVEN)
    net = build_network({"type": "even:Even", "width": 6})
    save_torch(root / "w.pth", net.state_dict())
    return net.state_dict()


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_a_net_of_ones_own_that_needs_even_sides(root, run, even, kind):
    pytest.importorskip("onnxruntime")
    words = ("export", "--weights", "w.pth", "--net", "even:Even", "--format", kind, "--force_yml", "network_g:width=6")
    for sizes in ((), ("--sizes", "64x64", "33x64")):
        outcome = run(*words, *sizes)
        assert outcome.code == 2, outcome
        assert re.search(
            r"^error: the network does not run on images of 75x57 \(width x height\) at which it is recorded: The size of "
            r"tensor a \(\d+\) must match .*; choose --sizes that it takes, such as --sizes 64x64 128x96\.$",
            outcome.err,
        )
    assert not (root / "results").exists()
    outcome = run(*words, "--sizes", "64x64", "98x62")
    assert outcome.code == 0, outcome
    assert list(rows(outcome.out)) == ["64x64", "98x62"]
    assert [file.stem for file in (root / "results/export").iterdir()] == ["w"]


def test_a_size_that_the_net_does_not_take_is_one_sentence(even):
    net = build_network({"type": "even:Even"})
    with pytest.raises(UserError, match=r"does not run on images of 31x40 \(width x height\): The size"):
        export.compare(net, net, [(40, 31)])


@pytest.mark.parametrize(
    ("sizes", "example"),
    [
        ([(64, 64), (96, 128), (101, 83)], (57, 75)),
        ([(32, 40)], (64, 80)),
        ([(50, 62)], (58, 76)),
        ([(512, 512)], (128, 192)),
        ([(720, 1280)], (80, 120)),
        ([(50, 75)], (75, 100)),
        ([(257, 257)], (57, 75)),
    ],
)
def test_the_size_at_which_a_net_is_recorded(sizes, example):
    assert export.example_size(sizes) == example


def test_weights_alone_with_tlc_as_restore_has_it(root, run):
    save_weights(root / "w.safetensors", small("NAFNet").state_dict(), {"train_size": "32", "base_size": "48"})
    words = ("export", "--weights", "w.safetensors", "--sizes", "32x32", "--format", "torchscript")
    for tlc, arch in (((), "NAFNetLocal"), (("--tlc", "on"), "NAFNetLocal"), (("--tlc", "off"), "NAFNet")):
        assert run(*words, *tlc, "--output", "n.pt").code == 0
        assert TorchModel(root / "n.pt", "torchscript").metadata["arch"] == arch
    assert run(*words, "--tlc", "off", "--window", "40").code == 2


def hub(name: str, **options: object) -> nn.Module:
    return torch.hub.load(str(REPOSITORY), name, source="local", trust_repo=True, **options)


@pytest.mark.parametrize("name", NETS)
def test_torch_hub(name, tmp_path):
    """Its options are read off the weights, and the net is the one that was saved."""
    base = name.removesuffix("Local")
    tlc = {"train_size": 32, "base_size": 48} if name != base else {}
    net = small(name)
    save_safetensors(tmp_path / "w.safetensors", net.state_dict())
    entry = f"{base}_local".lower() if tlc else base.lower()
    found = hub(entry, weights=str(tmp_path / "w.safetensors"), **tlc)
    assert not found.training
    assert torch.equal(final(found, noise(1, 40, 60)), final(net, noise(1, 40, 60)))
    assert hasattr(found, "tlc_report") == bool(tlc)


def test_torch_hub_without_weights_and_with_wrong_ones(tmp_path):
    net = hub("nafnet_local", width=8, enc_blk_nums=[1], middle_blk_num=1, dec_blk_nums=[1], train_size=64)
    assert net.tlc_report.base_size == (96, 96)
    with pytest.raises(ValueError, match="Did you mean `width`"):
        hub("nafnet", widht=8)
    save_torch(tmp_path / "w.pth", small("HINet").state_dict())
    with pytest.raises(ValueError, match="these are not the weights of NAFNet"):
        hub("nafnet", weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", sorted(SMALL_NETS))
def test_conversion_there_and_back_is_complete(root, run, name):
    """.pth -> .safetensors -> .pth: every key, also those of MPRNet's one PReLU, with its values and its sharing."""
    weights = small(name).state_dict()
    save_torch(root / "a.pth", {"params": weights})
    assert run("weights", "convert", root / "a.pth", root / "b.safetensors").code == 0
    assert run("weights", "convert", root / "b.safetensors", root / "c.pth").code == 0
    content = torch.load(root / "c.pth", weights_only=True)["params"]  # as any other toolbox would read it
    assert content.keys() == weights.keys()
    assert all(torch.equal(content[key], weights[key]) for key in weights)

    def different(tensors: dict[str, Tensor]) -> int:
        return len({value.data_ptr() for value in tensors.values()})

    assert different(content) == different(weights)


def test_an_image_that_is_too_large_is_out_of_memory(monkeypatch):
    """So that `val.tile: auto` takes smaller tiles."""
    model = OnnxModel(onnx_of("NAFNet"))

    class Full:
        def run(self, *_args: object) -> None:
            raise model._faults[0]("Failed to allocate memory for requested buffer of size 1")

    model._session = Full()
    with pytest.raises(MemoryError):
        model.predict(noise(1, 32, 32))


def test_what_is_not_a_restorer_is_refused():
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = functools.partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT, shape=[None, 8])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value("x")], [value("y")])
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    with pytest.raises(UserError, match="takes or gives something else than images"):
        OnnxModel(model.SerializeToString())
    assert OnnxModel(onnx_of("NAFNet")).metadata == {"arch": "NAFNet"}
