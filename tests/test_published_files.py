"""Options files as the published repositories write them, on tiny data of the published layout and fresh small nets."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import SMALL_NETS, make_pairs, picture, write, write_yaml
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from basicsr.archs import build_network
from basicsr.data.packing import write_lmdb
from basicsr.utils.checkpoint import save_safetensors

FOLDERS = """\
    dataroot_gt: ./datasets/{set}/test/target
    dataroot_lq: ./datasets/{set}/test/input
    io_backend:
      type: disk
"""
LMDBS = """\
    dataroot_gt: ./datasets/REDS/val/sharp_300.lmdb
    dataroot_lq: ./datasets/REDS/val/blur_300.lmdb
    io_backend:
      type: lmdb
"""
EVALUATION = """\
# general settings
name: {name}
model_type: ImageRestorationModel
scale: 1
num_gpu: 1
manual_seed: 10

datasets:
  val:
    name: {set}-val
    type: PairedImageDataset
{data}
# network structures
network_g:
  type: {net}Local
{network}
  train_size: [1, 3, 16, 16]
  base_size: 24

# path
path:
  pretrain_network_g: experiments/pretrained_models/{weights}
  strict_load_g: true
  param_key: {param_key}
  resume_state: ~

# validation settings
val:
  val_freq: !!float 2e4
  save_img: {save_img}
  rgb2bgr: true
  use_image: false
  max_minibatch: 8
  grids: false
  crop_size: 256

  metrics:
    psnr: # metric name, can be arbitrary
      type: calculate_psnr
      crop_border: 0
      test_y_channel: false
    ssim:
      type: calculate_ssim
      crop_border: 0
      test_y_channel: false

# logging settings
logger:
  print_freq: 200
  save_checkpoint_freq: !!float 5e3
  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~

# dist training settings
dist_params:
  backend: nccl
  port: 29500
"""
TRAINING = """\
name: {net}-GoPro
model_type: ImageRestorationModel
scale: 1
num_gpu: 8
manual_seed: 10

datasets:
  train:
    name: gopro-train
    type: PairedImageDataset
    dataroot_gt: ./datasets/GoPro/train/sharp_crops.lmdb
    dataroot_lq: ./datasets/GoPro/train/blur_crops.lmdb
    filename_tmpl: '{{}}'
    io_backend:
      type: lmdb

    gt_size: 16
    use_flip: true
    use_rot: true

    # data loader
    use_shuffle: true
    num_worker_per_gpu: 0
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 1
    prefetch_mode: ~

  val:
    name: gopro-test
    type: PairedImageDataset
    dataroot_gt: ./datasets/GoPro/test/target
    dataroot_lq: ./datasets/GoPro/test/input
    io_backend:
      type: disk

network_g:
  type: {net}
{network}

path:
  pretrain_network_g: ~
  strict_load_g: true
  resume_state: ~

train:
  optim_g:
    type: AdamW
    lr: !!float 1e-3
    weight_decay: !!float 1e-3
    betas: [0.9, 0.9]

  scheduler:
    type: TrueCosineAnnealingLR
    T_max: 4
    eta_min: !!float 1e-7

  total_iter: 4
  warmup_iter: -1 # no warm up
  mixup: false
  use_grad_clip: true

  # losses
  pixel_opt:
    type: PSNRLoss
    loss_weight: 0.5
    reduction: mean

val:
  val_freq: !!float 2e0
  save_img: false
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 0
      test_y_channel: false

logger:
  print_freq: 2
  save_checkpoint_freq: !!float 2e0
  use_tb_logger: false
  wandb:
    project: ~
    resume_id: ~

dist_params:
  backend: nccl
  port: 29500
"""
DEMO = """\
name: {net}-demo
model_type: ImageRestorationModel
scale: 1
num_gpu: 1  # set num_gpu: 0 for cpu mode
manual_seed: 10

img_path:
  input_img: ./demo/blurry-{set}.jpg
  output_img: ./demo/deblur_img.png

network_g:
  type: {net}Local
{network}
  train_size: [1, 3, 16, 16]
  base_size: 24

path:
  pretrain_network_g: experiments/pretrained_models/{weights}
  strict_load_g: true

val:
  save_img: true
  tile: 0
  tile_overlap: ~

dist_params:
  backend: nccl
  port: 29500
"""


def network(name: str) -> str:
    return "\n".join("  " + line for line in yaml.safe_dump(SMALL_NETS[name]).splitlines())


def fill(template: str, root: Path, **words: str) -> Path:
    words["network"] = network(words["net"])
    (root / "opt.yml").write_text(template.format(**words), encoding="utf-8")
    return root / "opt.yml"


def net_and_weights(name: str, wrapper: str, root: Path) -> tuple[torch.nn.Module, str]:
    """A small net, and its weights' file in experiments/pretrained_models in one of the published formats."""
    torch.manual_seed(5)
    net = build_network({"type": name, **SMALL_NETS[name]})
    for parameter in net.parameters():  # away from initial values (NAFNet's start as the identity)
        parameter.data += 0.02 * torch.randn_like(parameter)
    folder = root / "experiments/pretrained_models"
    folder.mkdir(parents=True)
    if wrapper == "safetensors":
        save_safetensors(folder / f"{name}.safetensors", net.state_dict())
        return net, f"{name}.safetensors"
    weights = net.state_dict()
    content = {
        "params": {"params": weights},
        "params_ema": {"params_ema": weights, "params": {k: 0 * v for k, v in weights.items()}},
        "state_dict": {"epoch": 2999, "state_dict": {f"module.{k}": v for k, v in weights.items()}, "optimizer": {}},
        "model": {"model": {f"_orig_mod.{k}": v for k, v in weights.items()}},
        "bare": weights,
    }[wrapper]
    torch.save(content, folder / f"{name}.pth")
    return net, f"{name}.pth"


def restored(net: torch.nn.Module, file: Path) -> np.ndarray:
    """The plain net's result by hand: 8-bit RGB."""
    with Image.open(file) as image:
        lq = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        out = net.eval()(lq)
    out = out[-1] if isinstance(out, list) else out
    return (out[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def by_hand(net: torch.nn.Module, folder: Path) -> list[float]:
    """PSNR of each picture, by Pillow and scikit-image."""
    psnr = []
    for file in sorted((folder / "input").iterdir()):
        with Image.open(folder / "target" / file.name) as image:
            psnr.append(peak_signal_noise_ratio(np.asarray(image), restored(net, file), data_range=255))
    return psnr


NAMES = ("GOPR0384_11_00-000001", "GOPR0384_11_05-004001", "GOPR0410_11_00-000237")
EVALUATED = [
    ("GoPro", "HINet", "params", "params"),
    ("GoPro", "MPRNet", "state_dict", "state_dict"),
    ("GoPro", "Restormer", "params", "~"),
    ("GoPro", "NAFNet", "params_ema", "~"),
    ("HIDE", "MPRNet", "bare", "~"),
    ("HIDE", "NAFNet", "model", "model"),
    ("HIDE", "HINet", "safetensors", "~"),
    ("REDS", "HINet", "params", "~"),
    ("REDS", "NAFNet", "state_dict", "~"),
]


@pytest.mark.parametrize(("data", "net", "wrapper", "param_key"), EVALUATED)
def test_evaluation(data, net, wrapper, param_key, root, run):
    folder = root / "datasets" / data / "test"
    make_pairs(folder, names=NAMES if data != "REDS" else ("000_00000009", "000_00000019", "029_00000099"), height=40, width=56)
    if data == "REDS":
        write_lmdb(folder / "input", root / "datasets/REDS/val/blur_300.lmdb", progress=False)
        write_lmdb(folder / "target", root / "datasets/REDS/val/sharp_300.lmdb", progress=False)
    module, weights = net_and_weights(net, wrapper, root)
    name = f"{net}Local-{data}"
    where = LMDBS if data == "REDS" else FOLDERS.format(set=data)
    words = {"name": name, "set": data, "net": net, "data": where, "weights": weights, "param_key": param_key}
    outcome = run("test", "-opt", fill(EVALUATION, root, **words, save_img="true"), "--tlc", "both")
    assert outcome.code == 0, outcome
    assert outcome.out.count("num_gpu is 1, but there is no GPU here: running on the CPU.") == 1 or torch.cuda.is_available()

    report = json.loads((root / f"results/{name}/report.json").read_text())
    plain, local = report["runs"]
    assert (plain["network"], plain["tlc"], local["network"], local["tlc"]) == (net, False, f"{net}Local", True)
    expected = by_hand(module, folder)
    assert [image["metrics"]["psnr"] for image in plain["images"]] == pytest.approx(expected, abs=0.02)
    assert plain["metrics"]["psnr"] == pytest.approx(np.mean(expected), abs=0.02)
    assert local["metrics"]["psnr"] != plain["metrics"]["psnr"]  # the window of 24 does not cover 40 x 56
    noise = []
    for file in (folder / "input").iterdir():
        pair = [cv2.imread(str(folder / side / file.name)) for side in ("target", "input")]
        noise.append(peak_signal_noise_ratio(*pair))
    assert plain["input_metrics"]["psnr"] == pytest.approx(np.mean(noise), abs=1e-6)
    assert 0 < plain["metrics"]["ssim"] < 1
    assert plain["seconds_per_image"] > 0
    assert report["weights"]["file"] == f"experiments/pretrained_models/{weights}"

    with open(root / f"results/{name}/images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert [float(row["psnr"]) for row in rows if row["tlc"] == "False"] == pytest.approx(expected, abs=0.02)
    pictures = root / f"results/{name}/visualization/val"
    assert len(list(pictures.rglob("*.png"))) == 6
    with Image.open(pictures / net / f"{plain['images'][0]['name']}.png") as image:  # and not in BGR
        difference = np.asarray(image).astype(int) - restored(module, folder / "input" / f"{plain['images'][0]['name']}.png")
    assert np.abs(difference).max() <= 1


def test_expected_figures_and_the_window(root, run, test_options):
    make_pairs(root / "datasets/Set")
    test_options["expected"] = {"psnr": 10.0}
    test_options["network_g"] |= {"type": "NAFNetLocal", "train_size": 64, "base_size": 96}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", test_options))
    report = json.loads((root / "results/run/report.json").read_text())
    measured = report["runs"][0]["metrics"]["psnr"]
    figure = report["expected"]["NAFNetLocal"]
    assert figure == {"psnr": {"published": 10.0, "measured": measured, "difference": pytest.approx(measured - 10)}}
    assert f"published 10, measured {measured:.4f}, {measured - 10:+.4f}" in outcome.out
    assert "covers 3 of 3 images of Set: TLC changes nothing there" in outcome.out


@pytest.mark.parametrize("choice", ["on", "off", "both", None])
def test_tlc_on_off_both(choice, root, run, test_options):
    make_pairs(root / "datasets/Set")
    args = ("--tlc", choice) if choice else ()
    assert run("test", "-opt", write_yaml(root / "opt.yml", test_options), *args).code == 0
    report = json.loads((root / "results/run/report.json").read_text())
    assert [r["tlc"] for r in report["runs"]] == {"on": [True], "off": [False], "both": [False, True], None: [False]}[choice]


@pytest.mark.parametrize("net", ["HINet", "NAFNet"])
def test_training(net, root, run):
    make_pairs(root / "datasets/GoPro/test", names=NAMES)
    make_pairs(root / "train", names=tuple("abcd"))
    for side, name in (("input", "blur_crops"), ("target", "sharp_crops")):
        write_lmdb(root / "train" / side, root / f"datasets/GoPro/train/{name}.lmdb", progress=False)
    outcome = run("train", "-opt", fill(TRAINING, root, net=net))
    assert outcome.code == 0, outcome
    assert "iter 4, validation psnr: " in outcome.out
    names = ["net_g_2.pth", "net_g_4.pth", "net_g_best.pth", "net_g_latest.pth"]
    assert sorted(p.name for p in (root / f"experiments/{net}-GoPro/models").iterdir()) == names


@pytest.mark.parametrize("net", ["HINet", "MPRNet", "Restormer"])
def test_demo(net, root, run):
    module, weights = net_and_weights(net, "params", root)
    write(root / "demo/blurry-gopro.jpg", picture(1, 20, 22))  # the window of 24 covers it: local is plain
    outcome = run("demo", "-opt", fill(DEMO, root, net=net, set="gopro", weights=weights))
    assert outcome.code == 0, outcome
    with Image.open(root / "demo/deblur_img.png") as image:
        difference = np.asarray(image).astype(int) - restored(module, root / "demo/blurry-gopro.jpg")
    assert np.abs(difference).max() <= 1


def test_demo_with_weights_alone(root, run):
    """--arch reads the options off the weights; --target prints PSNR; --compare draws."""
    _, weights = net_and_weights("HINet", "params", root)
    folder = make_pairs(root / "photos", names=("a", "b"), height=40, width=56)
    file = fill(DEMO, root, net="NAFNet", set="x", weights="none.pth")
    args = ("--arch", "HINetLocal", "--weights", f"experiments/pretrained_models/{weights}")
    paths = ("--input", folder / "input", "--output", root / "out", "--target", folder / "target", "--compare")
    outcome = run("demo", "-opt", file, *args, *paths)
    assert outcome.code == 0, outcome
    assert sorted(p.name for p in (root / "out").iterdir()) == ["a.png", "a_compare.png", "b.png", "b_compare.png"]
    for name in ("a", "b"):
        pictures = [np.asarray(Image.open(p)) for p in (folder / f"target/{name}.png", folder / f"input/{name}.png")]
        assert f"PSNR of {name}.png: input {peak_signal_noise_ratio(*pictures):.2f} dB, HINet" in outcome.out


def test_demo_keeps_depth_grey_and_alpha(root, run):
    _, weights = net_and_weights("NAFNet", "params", root)
    deep = picture(2, dtype=np.uint16)
    write(root / "in/deep.png", np.dstack([deep, picture(3, dtype=np.uint16)[..., 0]]))
    write(root / "in/grey.png", picture(4)[..., 0])
    outcome = run(
        "demo", "-opt", fill(DEMO, root, net="NAFNet", set="x", weights=weights), "--input", "in/*.png", "--output", "out"
    )
    assert outcome.code == 0, outcome
    again = cv2.imread(str(root / "out/deep.png"), cv2.IMREAD_UNCHANGED)
    assert (again.dtype, again.shape) == (np.uint16, (24, 32, 4))
    np.testing.assert_array_equal(again[..., 3], picture(3, dtype=np.uint16)[..., 0])
    assert len(np.unique(again[..., 0] % 257)) > 100  # really 16 bits
    assert cv2.imread(str(root / "out/grey.png"), cv2.IMREAD_UNCHANGED).ndim == 2
