"""Networks against the published ones (tensor names, sizes, recorded outputs) and float64 formulas; what a builder promises."""

import hashlib
import inspect
import math
import warnings
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs import ARCHS, base_type, build_network, network_names
from basicsr.archs.hinet_arch import InstanceNorm2d
from basicsr.archs.restormer_arch import Attention
from basicsr.errors import UserError
from basicsr.kernels import channel_layer_norm

NAMES = ARCHS.names()
SMALL = {
    "HINet": {"wf": 4, "depth": 3},
    "MPRNet": {"n_feat": 8, "scale_unetfeats": 4, "scale_orsnetfeats": 4, "num_cab": 1},
    "NAFNet": {"width": 4, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
    "Restormer": {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1},
}
TLC = {"train_size": 32, "base_size": 48}


def filled(net: nn.Module) -> nn.Module:
    """The net with weights that depend on their key and shape alone."""
    weights = {}
    for key, value in net.state_dict().items():
        z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(value.shape))
        if value.numel() == 1:
            z = np.full(tuple(value.shape), 0.25)
        elif value.ndim >= 3 and key.endswith("temperature"):
            z = 1 + 0.1 * z
        elif value.ndim > 1:
            z = z / math.sqrt(value[0].numel())
        else:
            z = 0.1 * z + key.endswith("weight")
        weights[key] = torch.from_numpy(z).to(value.dtype)
    net.load_state_dict(weights, strict=True)
    return net.eval()


def waves(seed: int, h: int, w: int, n: int = 1) -> Tensor:
    """(n, 3, h, w) in [0, 1]: smooth waves with noise that grows from left to right."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:h, 0:w]
    out = np.empty((n, 3, h, w))
    for image in out:
        for channel in image:
            a, b, p = random.uniform(0.5, 3, 3)
            channel[:] = 0.5 + 0.35 * np.sin(a * np.pi * y / h + p) * np.cos(b * np.pi * x / w)
        image += 0.1 * random.standard_normal((3, h, w)) * (x / w)
    return torch.from_numpy(out.clip(0, 1)).float()


def small(name: str, **more: object) -> nn.Module:
    return filled(build_network({"type": name, **SMALL.get(base_type(name), {}), **more}))


def meta(opt: dict) -> nn.Module:
    with torch.device("meta"):
        return build_network(opt)


def shapes_of(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def stages(output: Tensor | list[Tensor]) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else output


# The published checkpoints: number of keys, and a digest of their sorted `key shape` lines.
PUBLISHED = [
    ({"type": "HINet", "hin_position_left": 3, "hin_position_right": 4}, 186, "a9438b63b2a4d844"),
    ({"type": "HINet"}, 198, "6766ade47cad7a65"),
    ({"type": "MPRNet"}, 316, "0e5c8eede5ce81ee"),
    ({"type": "Restormer"}, 494, "cc31086504afbc6c"),
    ({"type": "Restormer", "LayerNorm_type": "BiasFree"}, 406, "22df586522a087d4"),
    ({"type": "Restormer", "inp_channels": 6, "dual_pixel_task": True}, 495, "370aa9d5fdb0a26c"),
    ({"type": "NAFNet"}, 664, "67d353bc56df7954"),
]


@pytest.mark.parametrize(("opt", "count", "digest"), PUBLISHED)
def test_keys_and_shapes_are_the_published_ones(opt: dict, count: int, digest: str):
    shapes = shapes_of(meta(opt))
    lines = "\n".join(f"{key} {shape}" for key, shape in sorted(shapes.items()))
    assert len(shapes) == count
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("opt", "count"),
    [
        ({"type": "HINet", "hin_position_left": 3, "hin_position_right": 4}, 88_668_806),
        ({"type": "MPRNet"}, 20_127_073),
        ({"type": "Restormer"}, 26_126_644),
        ({"type": "NAFNet"}, 17_111_907),
    ],
)
def test_parameter_counts_are_the_published_ones(opt: dict, count: int):
    assert sum(p.numel() for p in meta(opt).parameters()) == count


def test_mprnet_has_one_prelu():
    net = small("MPRNet")
    activations = {id(m) for m in net.modules() if isinstance(m, nn.PReLU)}
    keys = [k for k, v in net.state_dict(keep_vars=True).items() if isinstance(v, nn.Parameter) and v.numel() == 1]
    assert len(activations) == 1
    assert len(keys) > 20
    assert len({id(dict(net.named_parameters(remove_duplicate=False))[k]) for k in keys}) == 1


# Outputs of the published networks in float64 for weights `filled` and images `waves`: type, options, (seed, height, width),
# then for each stage that was recorded its standard deviation and three values; where in the flat output, AT says.
HINET = {"wf": 16, "hin_position_left": 3, "hin_position_right": 4}
MPRNET = {"n_feat": 16, "scale_unetfeats": 8, "scale_orsnetfeats": 8, "num_cab": 2}
RESTORMER = {"dim": 16, "num_blocks": [1, 2, 2, 2], "num_refinement_blocks": 1}
BIASFREE = {"dim": 16, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "LayerNorm_type": "BiasFree"}
NAFNET = {"width": 8, "enc_blk_nums": [1, 1, 2], "dec_blk_nums": [1, 1, 1]}
LOCAL = {"train_size": [1, 3, 64, 64], "base_size": 96}
FAST = {**LOCAL, "fast_imp": True}
ODD, LARGE, DIVISIBLE, SMALLEST = (11, 77, 101), (12, 150, 218), (12, 160, 240), (13, 64, 96)
AT = {
    ODD: (20932, 19048, 10877),
    LARGE: (88016, 80095, 45737),
    DIVISIBLE: (103359, 94056, 53709),
    SMALLEST: (16537, 15049, 8593),
}
RECORDED = [
    ("HINet", {"wf": 16}, ODD, [(0.74763, 0.5039072, 0.5529801, 1.314781), (1.06778, 0.04863586, 1.16836, 1.283064)]),
    (
        "HINetLocal",
        HINET | LOCAL,
        LARGE,
        [(0.601128, -0.1795415, 0.0441942, 0.3758198), (0.900876, 1.33885, 1.584367, -0.8369923)],
    ),
    (
        "MPRNet",
        MPRNET,
        SMALLEST,
        [
            (1.02267, 1.090262, -0.03526479, 0.8354396),
            (3.71622, 0.5139337, 0.02101028, 2.048395),
            (11.6923, 2.040184, 4.502955, 3.71702),
        ],
    ),
    ("MPRNetLocal", MPRNET | FAST, DIVISIBLE, [(9.60453, -1.336559, 12.66764, 7.490891)]),
    ("Restormer", BIASFREE, ODD, [(1.60241, 2.313375, -0.845448, 1.599204)]),
    ("RestormerLocal", RESTORMER | LOCAL, LARGE, [(1.9161, 3.198913, -2.178154, 1.032072)]),
    ("NAFNet", NAFNET, ODD, [(1.27904, 0.928368, 0.7584653, 0.6492688)]),
    ("NAFNetLocal", NAFNET | LOCAL, LARGE, [(1.4537, 1.004541, -0.03210408, 0.3769476)]),
]


@pytest.mark.parametrize(("name", "options", "image", "recorded"), RECORDED)
def test_outputs_are_those_of_the_published_networks(name: str, options: dict, image: tuple, recorded: list):
    net = filled(build_network({"type": name, **options}))
    with torch.inference_mode():
        outputs = stages(net(waves(*image)))[-len(recorded) :]
    for output, (deviation, *values) in zip(outputs, recorded, strict=True):
        got = output.flatten()[list(AT[image])].double()
        assert (got - torch.tensor(values, dtype=torch.float64)).abs().max() < 2e-5 * deviation


@pytest.mark.parametrize("name", network_names())
def test_any_image_size_and_batch(name: str):
    net = small(name, **(TLC if base_type(name) != name else {}))
    for size in ((1, 1), (1, 7), (17, 31)):
        images = waves(3, *size, n=3)
        with torch.inference_mode():
            outputs, singles = stages(net(images)), [stages(net(image[None])) for image in images]
        for stage, output in enumerate(outputs):
            assert output.shape == images.shape
            assert output.isfinite().all()
            alone = torch.cat([single[stage] for single in singles])
            torch.testing.assert_close(output, alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize(("name", "multiple"), [("HINet", 4), ("MPRNet", 8), ("NAFNet", 4), ("Restormer", 8)])
def test_images_are_padded_with_zeros_on_the_right_and_bottom(name: str, multiple: int):
    net = small(name)
    image = waves(4, 19, 27)
    padded = F.pad(image, (0, -27 % multiple, 0, -19 % multiple))
    with torch.inference_mode():
        for output, whole in zip(stages(net(image)), stages(net(padded)), strict=True):
            assert torch.equal(output, whole[..., :19, :27])


@pytest.mark.parametrize("name", [name for name in NAMES if "padder_size" in inspect.signature(ARCHS.get(name)).parameters])
def test_padding_can_be_turned_off(name: str):
    image = waves(4, 24, 32)
    with torch.inference_mode():
        for output, same in zip(stages(small(name)(image)), stages(small(name, padder_size=0)(image)), strict=True):
            assert torch.equal(output, same)
        try:  # a net whose shapes fit by chance must not have padded
            outputs = stages(small(name, padder_size=0)(waves(4, 23, 31)))
        except RuntimeError:
            return
        assert not torch.equal(outputs[-1], stages(small(name)(waves(4, 23, 31)))[-1])


@pytest.mark.parametrize(
    ("name", "images"),
    [("HINet", ["sam12.conv2", "last"]), ("MPRNet", ["sam12.conv2", "sam23.conv2", "tail"])],
)
def test_stages_are_listed_in_their_order(name: str, images: list[str]):
    """A stage whose last convolution gives zero returns the image; the others do not."""
    image = waves(5, 24, 24)
    for stage, path in enumerate(images):
        net = small(name)
        for parameter in net.get_submodule(path).parameters():
            nn.init.zeros_(parameter)
        with torch.inference_mode():
            outputs = net(image)
        assert isinstance(outputs, list)
        assert len(outputs) == len(images)
        assert [torch.equal(output, image) for output in outputs] == [i == stage for i in range(len(images))]


def test_dual_pixel_restormer_has_no_image_residual():
    net = small("Restormer", inp_channels=6, dual_pixel_task=True)
    nn.init.zeros_(net.output.weight)
    with torch.inference_mode():
        assert net(torch.rand(2, 6, 9, 10)).equal(torch.zeros(2, 3, 9, 10))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_runs_in_other_precisions(name: str, dtype: torch.dtype):
    net = small(name, tlc=dict(TLC))
    image = waves(6, 40, 56)
    with torch.inference_mode():
        want = stages(net(image))[-1]
        got = stages(net.to(dtype)(image.to(dtype)))[-1]
    assert got.dtype == dtype
    relative = (got.double() - want.double()).abs().mean() / want.double().std()
    assert relative < (1e-5 if dtype == torch.float64 else 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_changes_nothing(name: str):
    net = small(name, tlc=dict(TLC))
    image = waves(6, 40, 56, n=2)
    with torch.inference_mode():
        want = stages(net(image))[-1]
        got = stages(net.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last)))[-1]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("with_bias", [True, False])
def test_norm_over_channels(with_bias: bool):
    torch.manual_seed(0)
    x, weight = 5 + torch.randn(2, 6, 4, 5), torch.randn(6)
    bias = torch.randn(6) if with_bias else None
    z = x.double()
    mean = z.mean(1, keepdim=True)
    scale = 1 / torch.sqrt(((z - mean) ** 2).mean(1, keepdim=True) + 1e-3)
    want = ((z - mean) if with_bias else z) * scale * weight.double()[:, None, None]
    if bias is not None:
        want = want + bias.double()[:, None, None]
    torch.testing.assert_close(channel_layer_norm(x, weight, bias, eps=1e-3).double(), want, rtol=1e-5, atol=1e-5)


def test_channel_attention_is_its_formula():
    torch.manual_seed(0)
    net = Attention(6, num_heads=3, bias=True).double()
    nn.init.uniform_(net.temperature, 0.5, 2)
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    q, k, v = net.qkv_dwconv(net.qkv(x)).split(6, dim=1)
    want = torch.empty_like(x)
    for n in range(2):
        for head in range(3):
            a, b, c = (part[n, 2 * head : 2 * head + 2].reshape(2, 35) for part in (q, k, v))
            scores = torch.tensor([[(r @ s / (r.norm() * s.norm())).item() for s in b] for r in a], dtype=torch.float64)
            attention = torch.exp(scores * net.temperature[head].item())
            want[n, 2 * head : 2 * head + 2] = (attention / attention.sum(1, keepdim=True) @ c).view(2, 5, 7)
    torch.testing.assert_close(net(x), net.project_out(want), rtol=1e-10, atol=1e-12)


def test_hinets_norm_takes_a_single_pixel():
    norm = InstanceNorm2d(3, affine=True)
    nn.init.normal_(norm.bias)
    assert torch.equal(norm(torch.rand(2, 3, 1, 1)), norm.bias.view(1, 3, 1, 1).expand(2, 3, 1, 1))
    x = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(norm(x), F.instance_norm(x, weight=norm.weight, bias=norm.bias))


MISTAKES = [
    ({"type": "Restomer"}, "network_g.type", "`Restormer`"),
    ({"type": "HINetLocl"}, "network_g.type", "`HINetLocal`"),
    ({}, "network_g.type", "HINet"),
    ({"type": "HINet", "hin_position_lft": 3}, "network_g.hin_position_lft", "`hin_position_left`"),
    ({"type": "MPRNet", "n_feats": 96}, "network_g.n_feats", "`n_feat`"),
    ({"type": "Restormer", "layernorm_type": "BiasFree"}, "network_g.layernorm_type", "`LayerNorm_type`"),
    ({"type": "NAFNet", "enc_blks": [1]}, "network_g.enc_blks", "`enc_blk_nums`"),
    ({"type": "NAFNet", "width": "wide"}, "network_g.width", "'wide'"),
    ({"type": "Restormer", "heads": [1, 2, 4]}, "network_g.heads", "[1, 2, 4]"),
    ({"type": "Restormer", "LayerNorm_type": "Biased"}, "network_g.LayerNorm_type", "`BiasFree`"),
    ({"type": "Restormer", "inp_channels": 6}, "network_g", "dual_pixel_task"),
    ({"type": "MPRNet", "out_c": 1}, "network_g", "out_c"),
    ({"type": "HINet", "depth": 1}, "network_g", "depth"),
    ({"type": "NAFNet", "enc_blk_nums": [1, 1]}, "network_g", "dec_blk_nums"),
    ({"type": "NAFNet", "tlc": {"base_sise": 384}}, "network_g.tlc.base_sise", "`base_size`"),
    ({"type": "NAFNet", "tlc": {"base_size": "big"}}, "network_g.tlc.base_size", "'big'"),
    ({"type": "NAFNet", "tlc": {"base_size": 0}}, "network_g.tlc", "base_size"),
    ({"type": "NAFNet", "tlc": {"train_size": [256]}}, "network_g.tlc", "train_size"),
    ({"type": "NAFNet", "tlc": {"train_size": 0}}, "network_g.tlc", "train_size"),
    ({"type": "NAFNet", "tlc": 384}, "network_g.tlc", "384"),
    ({"type": "NAFNetLocal", "tlc": {"base_size": 384}}, "network_g.tlc", "NAFNetLocal"),
    ({"type": "NAFNetLocal", "base_size": "big"}, "network_g.base_size", "'big'"),
    ({"type": "HINetLocal", "base_sise": 384}, "network_g.base_sise", "`base_size`"),
]


@pytest.mark.parametrize(("opt", "path", "text"), MISTAKES, ids=[str(mistake[0]) for mistake in MISTAKES])
def test_a_mistake_names_its_place_and_the_nearest_name(opt: dict, path: str, text: str):
    with pytest.raises(UserError) as caught:
        meta(opt)
    message = str(caught.value)
    assert message.startswith(path + ":")
    assert text in message
    near = message.partition("Did you mean ")[2].partition("?")[0]
    assert not near or near == text


def test_a_mistake_names_the_callers_path():
    with pytest.raises(UserError, match=r"^net\.teacher\.widht: .*`width`"):
        build_network({"type": "NAFNet", "widht": 3}, where="net.teacher")


@pytest.mark.parametrize("name", NAMES)
def test_tlc_option_equals_the_local_type(name: str):
    one = small(name, tlc=dict(TLC))
    two = small(name + "Local", **TLC)
    assert type(one) is type(two) is ARCHS.get(name)
    assert one.tlc_report == two.tlc_report
    assert one.tlc_report.converted
    image = waves(7, 56, 72)
    with torch.inference_mode():
        outputs, plain = stages(one(image)), stages(small(name)(image))
        for output, same in zip(outputs, stages(two(image)), strict=True):
            assert torch.equal(output, same)
    assert (outputs[-1] - plain[-1]).abs().max() > 1e-3 * plain[-1].std()


@pytest.mark.parametrize("train_size", [32, [32, 32], [1, 3, 32, 32]])
def test_spellings_of_the_training_size(train_size: object):
    net = small("NAFNet", tlc={"train_size": train_size, "base_size": [40, 48]})
    assert net.tlc_report.train_size == (32, 32)
    assert net.tlc_report.base_size == (40, 48)


def test_tlc_switch():
    assert small("NAFNet", tlc={}).tlc_report == small("NAFNet", tlc=True).tlc_report == small("NAFNetLocal").tlc_report
    assert small("NAFNetLocal").tlc_report.base_size == (384, 384)
    assert not hasattr(small("NAFNet", tlc=False), "tlc_report")
    assert not hasattr(small("NAFNet"), "tlc_report")


def test_train_size_takes_the_nets_own_channels():
    net = small("Restormer", inp_channels=6, dual_pixel_task=True, tlc=dict(TLC))
    assert net.tlc_report.converted


def test_a_new_arch_has_a_local_type(monkeypatch: pytest.MonkeyPatch):
    class TinyNet(nn.Module):
        def __init__(self, *, width: int = 4) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, width, 1)
            self.norm = nn.InstanceNorm2d(width, affine=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x))

    monkeypatch.setitem(ARCHS._entries, "TinyNet", TinyNet)
    assert {"TinyNet", "TinyNetLocal"} <= set(network_names())
    net = build_network({"type": "TinyNetLocal", "width": 6, "train_size": 16, "base_size": 24})
    assert [(c.path, c.window) for c in net.tlc_report.converted] == [("norm", (24, 24))]
    assert build_network({"type": "TinyNet"}).conv.out_channels == 4


VARIANTS = {
    "plain": {},
    "Local": {"tlc": {"train_size": 16, "base_size": 24}},
    "Local, covered": {"tlc": {"train_size": 64, "base_size": 96}},
    "Local, fast_imp": {"tlc": {"train_size": 16, "base_size": 24, "fast_imp": True}},
    "Local, blended": {"tlc": {"train_size": 16, "base_size": 24, "attention": "blended"}},
}


OF_OTHER_LAYERS = {"Restormer": ("Local, fast_imp",)} | dict.fromkeys(("HINet", "NAFNet"), ("Local, blended",))
TRACED = [(name, variant) for name in NAMES for variant in VARIANTS if variant not in OF_OTHER_LAYERS.get(name, ())]
LIKE_NAFNET = [("MPRNet", variant) for variant in VARIANTS if variant not in ("plain", "Local")]  # one kind of local layer


@pytest.mark.parametrize(("name", "variant"), [pair for pair in TRACED if pair not in LIKE_NAFNET])
def test_traces_with_and_without_autograd(name: str, variant: str):
    """`torch.jit.trace` compares a trace with autograd with one without it: nothing may be done in another way in either."""
    torch.manual_seed(0)
    net = build_network({"type": name, **SMALL[name], **VARIANTS[variant]}).eval()
    x = torch.rand(1, 3, 40, 48)
    with warnings.catch_warnings(), torch.jit.optimized_execution(False):  # to optimise takes longer than to run
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # that the trace is of this size
        traced = torch.jit.trace(net, x, check_trace=True)
        for autograd in (True, False):
            with torch.set_grad_enabled(autograd):
                for ours, plain in zip(as_list(traced(x)), as_list(net(x)), strict=True):
                    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def as_list(outputs: Tensor | list[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


@pytest.mark.parametrize("name", NAMES)
def test_builds_on_the_meta_device(name: str):
    net = meta({"type": name + "Local", **SMALL.get(name, {})})
    assert net.tlc_report.converted
    assert {tensor.device.type for tensor in (*net.parameters(), *net.buffers())} == {"meta"}


CONFIGURATIONS = [
    ("HINet", {}),
    ("HINet", {"wf": 16, "hin_position_left": 3, "hin_position_right": 4}),
    ("HINet", {"in_chn": 1, "wf": 8, "depth": 3, "hin_position_left": 1, "hin_position_right": 1}),
    ("MPRNet", {}),
    ("MPRNet", {"in_c": 1, "out_c": 1, "n_feat": 16, "scale_unetfeats": 8, "scale_orsnetfeats": 4, "num_cab": 3}),
    ("MPRNet", {"n_feat": 24, "kernel_size": 5, "reduction": 8, "bias": True, "num_cab": 1}),
    ("MPRNet", {"n_feat": 40, "scale_unetfeats": 20, "scale_orsnetfeats": 16, "reduction": 12}),
    ("NAFNet", {}),
    ("NAFNet", {"width": 64, "enc_blk_nums": (2, 2, 4, 8), "middle_blk_num": 12, "dec_blk_nums": (2, 2, 2, 2)}),
    ("NAFNet", {"img_channel": 1, "width": 4, "enc_blk_nums": (1, 0, 12), "middle_blk_num": 0, "dec_blk_nums": (0, 1, 2)}),
    ("Restormer", {}),
    ("Restormer", {"LayerNorm_type": "BiasFree", "bias": True, "ffn_expansion_factor": 2.0}),
    ("Restormer", {"inp_channels": 6, "dual_pixel_task": True, "num_refinement_blocks": 2, "ffn_expansion_factor": 2.5}),
    ("Restormer", {"inp_channels": 1, "out_channels": 1, "dim": 24, "num_blocks": (1, 2, 3, 12), "heads": (2, 2, 4, 4)}),
    ("Restormer", {"dim": 32, "ffn_expansion_factor": 3.0, "num_blocks": (1, 1, 1, 1)}),
]


@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS, ids=[f"{name} {options}" for name, options in CONFIGURATIONS])
def test_shapes_show_the_options(name: str, options: dict):
    shapes = shapes_of(meta({"type": name, **options}))
    parameters = inspect.signature(ARCHS.get(name)).parameters
    inferred = ARCHS.get(name).infer_options(shapes)
    assert set(options) <= set(inferred)
    assert shapes_of(meta({"type": name, **inferred})) == shapes
    assert inferred == {key: options.get(key, parameters[key].default) for key in inferred}


def test_hinet_without_norms_shows_its_options():
    shapes = shapes_of(meta({"type": "HINet", "wf": 8, "hin_position_left": 9, "hin_position_right": 9}))
    assert not any("norm" in key for key in shapes)
    assert shapes_of(meta({"type": "HINet", **ARCHS.get("HINet").infer_options(shapes)})) == shapes


def test_every_other_arch_shows_its_options():
    for name in NAMES:
        arch = ARCHS.get(name)
        shapes = shapes_of(meta({"type": name, **SMALL.get(name, {})}))
        if hasattr(arch, "infer_options"):
            assert shapes_of(meta({"type": name, **arch.infer_options(shapes)})) == shapes
