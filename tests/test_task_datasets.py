"""Data sets of the tasks beside motion deblurring, on small sets in the published layouts."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from conftest import picture, write, write_yaml

from basicsr.data import DNDDataset, DualPixelDataset, GaussianDenoisingDataset, PairedImageDataset, SIDDBlocksDataset
from basicsr.data.dnd_dataset import Submission
from basicsr.data.packing import write_lmdb
from basicsr.data.sampler import Draw
from basicsr.errors import UserError

# Gaussian noise.


def clean(folder: Path, count: int = 2, height: int = 24, width: int = 32) -> str:
    for number in range(count):
        write(folder / f"{number}.png", picture(number, height, width))
    return str(folder)


def test_noise_of_published_figures(tmp_path):
    """NumPy's legacy normal numbers of seed 0, in the order of row, column, red, green, blue; the same for every picture."""
    data = GaussianDenoisingDataset(dataroot_gt=clean(tmp_path), sigma_test=25)
    data.check(progress=False)
    samples = [data[0], data[1]]
    noise = [(sample["lq"].double() - sample["gt"].double()).numpy() / (25 / 255) for sample in samples]
    np.testing.assert_allclose(noise[0][:, 0, 0], [1.764052, 0.400157, 0.978738], atol=1e-5)
    assert noise[0][0, 0, 1] == pytest.approx(2.240893, abs=1e-5)  # the fourth draw
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-5)
    drawn = np.random.RandomState(0).standard_normal(24 * 32 * 3).reshape(24, 32, 3).transpose(2, 0, 1)
    np.testing.assert_allclose(noise[0], drawn, atol=1e-5)
    lq = samples[0]["lq"]
    assert lq.dtype == torch.float32
    assert (lq * 255 - (lq * 255).round()).abs().max() > 0.4  # not rounded
    np.testing.assert_array_equal(samples[1]["gt"] * 255, picture(1).transpose(2, 0, 1))


def test_noise_is_not_clipped(tmp_path):
    write(tmp_path / "black.png", np.zeros((16, 16, 3), np.uint8))
    lq = GaussianDenoisingDataset(dataroot_gt=str(tmp_path), sigma_test=50)[0]["lq"]
    assert lq.min() < -0.3


def test_grey_pictures_are_read_as_opencv_reads_them(tmp_path):
    """Of PNG files .299 R + .587 G + .114 B is truncated, not rounded."""
    rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    write(tmp_path / "colour.png", rgb)
    write(tmp_path / "grey.png", rgb[..., 0])
    data = GaussianDenoisingDataset(dataroot_gt=str(tmp_path), in_ch=1, sigma_test=15)
    colour, grey = (data[number]["gt"][0].numpy() * 255 for number in range(2))
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.isin(colour - np.floor(luma), [0]).mean() > 0.95
    assert np.abs(colour - luma).max() < 1.01
    np.testing.assert_array_equal(colour, cv2.imread(str(tmp_path / "colour.png"), cv2.IMREAD_GRAYSCALE))
    np.testing.assert_array_equal(grey, rgb[..., 0])
    assert data[0]["lq"].shape == (1, 16, 16)
    first = (data[0]["lq"] - data[0]["gt"])[0, 0, :3] * 255 / 15
    np.testing.assert_allclose(first, [1.764052, 0.400157, 0.978738], atol=1e-4)


def deviations(data: GaussianDenoisingDataset, count: int = 60) -> list[float]:
    """Of the noise in so many crops, in units of 1/255."""
    return [float((sample["lq"] - sample["gt"]).std() * 255) for sample in (data[Draw(0, (0, i), 64)] for i in range(count))]


def test_sigma_in_training(tmp_path):
    root = clean(tmp_path, height=64, width=80)
    words = {"dataroot_gt": root, "gt_size": 64, "use_flip": True, "use_rot": True}
    constant = deviations(GaussianDenoisingDataset(**words, sigma_type="constant", sigma_range=25))
    assert min(constant) > 23.5
    assert max(constant) < 26.5
    choice = deviations(GaussianDenoisingDataset(**words, sigma_type="choice", sigma_range=[15, 50]))
    assert {round(value, -1) if value > 20 else 15 for value in choice} == {15, 50}
    random = deviations(GaussianDenoisingDataset(**words, sigma_type="random", sigma_range=[0, 50]))
    assert min(random) < 5
    assert max(random) > 45
    assert 20 < np.mean(random) < 30


def test_crops_and_noise_follow_from_the_draw(tmp_path):
    root = clean(tmp_path)
    options = {"sigma_type": "random", "sigma_range": [5, 50], "gt_size": 16, "use_flip": True, "use_rot": True}
    data = GaussianDenoisingDataset(dataroot_gt=root, **options)
    one, again, other = data[Draw(0, (1, 2), 16)], data[Draw(0, (1, 2), 16)], data[Draw(0, (1, 3), 16)]
    assert torch.equal(one["lq"], again["lq"])
    assert not torch.equal(one["lq"], other["lq"])
    held = {
        crop.tobytes() for crop in np.lib.stride_tricks.sliding_window_view(picture(0), (16, 16), (0, 1)).reshape(-1, 3, 16, 16)
    }
    gt = (one["gt"] * 255).round().numpy().astype(np.uint8)
    turned = [np.rot90(flipped, k, (1, 2)) for flipped in (gt, gt[:, ::-1]) for k in range(4)]
    assert any(np.ascontiguousarray(view).tobytes() in held for view in turned)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({}, "sigma_test is missing"),
        ({"sigma_test": -1}, "sigma_test is -1"),
        ({"gt_size": 16, "sigma_test": 25}, "sigma_type is missing"),
        ({"sigma_test": 25, "sigma_range": 25}, "sigma_type is missing: sigma_range needs it"),
        ({"gt_size": 16, "sigma_type": "constant", "sigma_range": [1, 2]}, "sigma_type constant needs one number"),
        ({"gt_size": 16, "sigma_type": "random", "sigma_range": [50, 0]}, "random needs two numbers, the lower one first"),
        ({"gt_size": 16, "sigma_type": "random"}, "sigma_range is None"),
        ({"gt_size": 16, "sigma_type": "choice", "sigma_range": [-5, 5]}, "none of them negative"),
    ],
)
def test_what_is_wrong_with_sigmas(words, says, tmp_path):
    words = {word: tuple(value) if isinstance(value, list) else value for word, value in words.items()}
    with pytest.raises(UserError, match=says):
        GaussianDenoisingDataset(dataroot_gt=clean(tmp_path, count=1), **words)


# 16 bits, dual pixels, positions.

CAMERA = ("1P0A0984", "1P0A0986", "1P0A1001")


def dpdd(folder: Path, *, equal_names: bool = True) -> Path:
    for number, name in enumerate(CAMERA):
        for place, side in enumerate(("target", "inputL", "inputR", "inputC")):
            own = name if equal_names else f"{side}_{number + 9}"
            write(folder / side / f"{own}.png", picture(10 * number + place, 20, 24, np.uint16))
    return folder


def sides(folder: Path, **more) -> dict:
    return {
        word: str(folder / side)
        for word, side in {"dataroot_gt": "target", "dataroot_lqL": "inputL", "dataroot_lqR": "inputR"}.items()
    } | more


def test_two_views_of_16_bits(tmp_path):
    data = DualPixelDataset(**sides(dpdd(tmp_path)))
    data.check(progress=False)
    sample = data[1]
    assert sample["name"] == CAMERA[1]
    assert data.channels == (6, 3)
    views = np.concatenate([picture(11, 20, 24, np.uint16), picture(12, 20, 24, np.uint16)], axis=2)
    np.testing.assert_allclose(sample["lq"], views.transpose(2, 0, 1) / 65535, atol=1e-7)
    np.testing.assert_allclose(sample["gt"], picture(10, 20, 24, np.uint16).transpose(2, 0, 1) / 65535, atol=1e-7)


def test_the_views_are_cut_and_turned_alike(tmp_path):
    for side in ("target", "inputL", "inputR"):
        write(tmp_path / side / "a.png", picture(0, 20, 24, np.uint16))
    data = DualPixelDataset(**sides(tmp_path), gt_size=16, use_flip=True, use_rot=True)
    for number in range(20):
        sample = data[Draw(0, (0, number), 16)]
        assert torch.equal(sample["lq"], torch.cat([sample["gt"], sample["gt"]]))


def test_pairs_by_position(tmp_path):
    """input_9 comes before input_10."""
    folder = dpdd(tmp_path, equal_names=False)
    with pytest.raises(UserError, match=r"dataroot_lqR do not match; not in dataroot_gt: inputL_10.*pair_by: position"):
        DualPixelDataset(**sides(folder))
    data = DualPixelDataset(**sides(folder), pair_by="position")
    assert data.names == [(f"target_{n}", f"inputL_{n}", f"inputR_{n}") for n in (9, 10, 11)]
    single = {"dataroot_gt": str(folder / "target"), "dataroot_lq": str(folder / "inputC")}
    paired = PairedImageDataset(**single, pair_by="position")
    assert paired.names == [(f"target_{n}", f"inputC_{n}") for n in (9, 10, 11)]
    (folder / "inputC/inputC_9.png").unlink()
    with pytest.raises(UserError, match="on every side, but there are: dataroot_gt 3, dataroot_lq 2; add what"):
        PairedImageDataset(**single, pair_by="position")
    with pytest.raises(UserError, match="pair_by is position, where names say nothing: leave filename_tmpl"):
        PairedImageDataset(**single, pair_by="position", filename_tmpl="{}_blur")


def test_high_bytes_of_16_bit_files(tmp_path):
    folder = dpdd(tmp_path)
    data = PairedImageDataset(dataroot_gt=str(folder / "target"), dataroot_lq=str(folder / "inputC"), bit_depth=8)
    expected = cv2.imread(str(folder / f"inputC/{CAMERA[0]}.png"))[..., ::-1]  # OpenCV's default reader
    np.testing.assert_array_equal((data[0]["lq"] * 255).round(), expected.transpose(2, 0, 1))
    assert (expected == picture(3, 20, 24, np.uint16) // 256).all()
    sample = PairedImageDataset(
        dataroot_gt=str(folder / "target"), dataroot_lq=str(folder / "inputC"), bit_depth=8, gt_size=16
    )[Draw(0, (0, 0), 16)]
    assert torch.equal(sample["lq"] * 255, (sample["lq"] * 255).round())


# Pictures smaller than the crop.


def test_sidds_crops_under_restormers_names(tmp_path, run):
    """Both sides have the noisy picture's name, numbered from 1, and the clean ones lie in target_crops."""
    for folder, first in (("input_crops", 0), ("target_crops", 10)):
        for number in (1, 2, 10):
            write(tmp_path / f"train/SIDD/{folder}/0001_NOISY_SRGB_010-{number}.png", picture(first + number, 32, 32))
    roots = {"dataroot_gt": str(tmp_path / "train/SIDD/target_crops"), "dataroot_lq": str(tmp_path / "train/SIDD/input_crops")}
    data = PairedImageDataset(**roots, gt_size=16)
    data.check(progress=False)
    assert len(data) == 3
    np.testing.assert_array_equal(data[1]["lq"] * 255, picture(10, 32, 32).transpose(2, 0, 1))  # -10, before -2
    np.testing.assert_array_equal(data[1]["gt"] * 255, picture(20, 32, 32).transpose(2, 0, 1))
    outcome = run("check-data", "--gt", roots["dataroot_gt"], "--lq", roots["dataroot_lq"], "--workers", "1")
    assert outcome.code == 0, outcome


def test_small_pictures_are_reflected_on_the_right_and_below(tmp_path):
    rgb = picture(0, 10, 30)
    for side in ("target", "input"):
        write(tmp_path / side / "a.png", rgb)
    roots = {"dataroot_gt": str(tmp_path / "target"), "dataroot_lq": str(tmp_path / "input")}
    with pytest.raises(UserError, match=r"smaller than gt_size 24: a \(30x10\).*or set pad_small: true"):
        PairedImageDataset(**roots, gt_size=24).check(progress=False)
    data = PairedImageDataset(**roots, gt_size=24, pad_small=True)
    data.check(progress=False)
    sample = data[Draw(0, (0, 0), 24)]
    crop = (sample["gt"] * 255).round().numpy().transpose(1, 2, 0)
    left = next(x for x in range(7) if (rgb[:, x : x + 24] == crop[:10]).all())
    np.testing.assert_array_equal(crop[10:20], rgb[::-1, left : left + 24])  # the edge row is repeated
    np.testing.assert_array_equal(crop[20:], rgb[:4, left : left + 24])
    np.testing.assert_array_equal(data[Draw(0, (0, 1), 8)]["gt"].shape, (3, 8, 8))


# SIDD and DND.


def sidd(folder: Path, gt: bool = True) -> dict[str, np.ndarray]:
    blocks = {}
    for number, side in enumerate(("Noisy", "Gt") if gt else ("Noisy",)):
        key = f"{'Validation' if gt else 'Benchmark'}{side}BlocksSrgb"
        blocks[key] = np.random.default_rng(number).integers(0, 256, (2, 3, 16, 20, 3), np.uint8)
        scipy.io.savemat(folder / f"{key}.mat", {key: blocks[key]}, do_compression=True)
    return blocks


def test_blocks_of_sidd(tmp_path):
    blocks = sidd(tmp_path)
    roots = {side: str(tmp_path / f"Validation{word}BlocksSrgb.mat") for side, word in (("gt", "Gt"), ("lq", "Noisy"))}
    data = SIDDBlocksDataset(dataroot_gt=roots["gt"], dataroot_lq=roots["lq"])
    data.check(progress=False)
    assert [data.name(i) for i in range(len(data))] == [f"ValidationBlocksSrgb_{i}" for i in range(6)]
    assert data.sizes["ValidationBlocksSrgb_5"] == (16, 20)
    sample = data[4]  # block 1 of picture 1
    np.testing.assert_array_equal(sample["lq"] * 255, blocks["ValidationNoisyBlocksSrgb"][1, 1].transpose(2, 0, 1))
    np.testing.assert_array_equal(sample["gt"] * 255, blocks["ValidationGtBlocksSrgb"][1, 1].transpose(2, 0, 1))


def test_blocks_of_the_server_have_no_truth(tmp_path):
    sidd(tmp_path, gt=False)
    data = SIDDBlocksDataset(dataroot_lq=str(tmp_path / "BenchmarkNoisyBlocksSrgb.mat"))
    assert not data.has_gt
    assert data[5].keys() == {"lq", "name"}
    assert data[5]["name"] == "BenchmarkBlocksSrgb_5"


def test_restored_blocks_for_matlab(tmp_path):
    """Idenoised: single precision, not rounded, in the shape of the noisy blocks, once all are there, in whatever order."""
    sidd(tmp_path, gt=False)
    data = SIDDBlocksDataset(dataroot_lq=str(tmp_path / "BenchmarkNoisyBlocksSrgb.mat"))
    names, out = [data.name(i) for i in range(6)], tmp_path / "out"
    blocks = {name: torch.rand(3, 16, 20, generator=torch.Generator().manual_seed(i)) * 1.2 for i, name in enumerate(names)}
    for name in reversed(names[1:]):
        data.saver(out).write(name, blocks[name])
    data.saver(out).finish()
    assert not (out / "Idenoised.mat").exists()
    later = data.saver(out)
    assert [later.has(name) for name in names] == [False] + [True] * 5
    later.write(names[0], blocks[names[0]])
    later.finish()
    assert sorted(path.name for path in out.iterdir()) == [
        "BenchmarkBlocksSrgb_0.png",
        *(f"{n}.png" for n in names[1:]),
        "Idenoised.mat",
    ]
    restored = scipy.io.loadmat(out / "Idenoised.mat")["Idenoised"]
    assert (restored.shape, restored.dtype) == ((2, 3, 16, 20, 3), np.float32)
    np.testing.assert_array_equal(restored[1, 2], blocks[names[5]].clamp(0, 1).permute(1, 2, 0))
    assert all(data.saver(out).has(name) for name in names)
    assert cv2.imread(str(out / f"{names[5]}.png")).shape == (16, 20, 3)
    later.write(names[2], blocks[names[2]])  # a run that goes on where a picture was removed
    later.finish()
    assert not list(out.glob("*.npy"))
    np.testing.assert_array_equal(scipy.io.loadmat(out / "Idenoised.mat")["Idenoised"], restored)


def test_what_is_no_file_of_sidd(tmp_path):
    file = tmp_path / "ValidationNoisyBlocksSrgb.mat"
    with pytest.raises(UserError, match="there is no file"):
        SIDDBlocksDataset(dataroot_lq=str(file))
    scipy.io.savemat(file, {"x": np.zeros((2, 2), np.uint8), "y": np.zeros(3)})
    with pytest.raises(UserError, match=r"must hold one uint8 array .* but holds x 2x2"):
        SIDDBlocksDataset(dataroot_lq=str(file))
    file.write_bytes(b"MATLAB 7.3".ljust(128) + bytes(100))
    with pytest.raises(UserError, match=r"cannot be read as a .mat file"):
        SIDDBlocksDataset(dataroot_lq=str(file))
    sidd(tmp_path)
    cut = (tmp_path / "ValidationGtBlocksSrgb.mat").read_bytes()
    (tmp_path / "ValidationGtBlocksSrgb.mat").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(UserError, match=r"dataroot_gt: .* cannot be read as a .mat file"):
        SIDDBlocksDataset(dataroot_gt=str(tmp_path / "ValidationGtBlocksSrgb.mat"), dataroot_lq=str(file)).check(progress=False)


def test_blocks_as_lmdbs_with_the_published_keys(tmp_path):
    for side in ("input_crops", "gt_crops"):
        for number in range(12):
            write(tmp_path / side / f"ValidationBlocksSrgb_{number}.png", picture(number, 16, 16))
        write_lmdb(tmp_path / side, tmp_path / f"{side}.lmdb", progress=False)
    lines = (tmp_path / "gt_crops.lmdb/meta_info.txt").read_text().splitlines()
    assert "ValidationBlocksSrgb_0.png (16,16,3) 1" in lines
    roots = {"dataroot_gt": str(tmp_path / "gt_crops.lmdb"), "dataroot_lq": str(tmp_path / "input_crops.lmdb")}
    data = PairedImageDataset(**roots, io_backend={"type": "lmdb"})
    assert len(data) == 12
    assert data[1]["name"] == "ValidationBlocksSrgb_1"


def dnd(folder: Path) -> list[np.ndarray]:
    """Two photographs of another size each, with three crops of 8x10, as MATLAB writes them: axes the other way round."""
    h5py = pytest.importorskip("h5py")
    (folder / "images_srgb").mkdir()
    photographs = []
    with h5py.File(folder / "info.mat", "w") as info:
        tables = []
        for picture_number in range(2):
            boxes = [(1, 1, 8, 10), (3, 5, 10, 14), (13 + picture_number, 11, 20 + picture_number, 20)]
            tables.append(info.create_dataset(f"#refs#/{picture_number}", data=np.array(boxes, float).T).ref)
            photograph = np.random.default_rng(picture_number).random((20 + picture_number, 20, 3))
            photographs.append(photograph)
            with h5py.File(folder / f"images_srgb/{picture_number + 1:04d}.mat", "w") as file:
                file["InoisySRGB"] = photograph.astype(np.float32).transpose(2, 1, 0)
        boxes = info.create_dataset("info/boundingboxes", (1, 2), h5py.ref_dtype)
        boxes[0] = tables
    return photographs


def test_crops_of_dnd(tmp_path):
    photographs = dnd(tmp_path)
    data = DNDDataset(dataroot_lq=str(tmp_path))
    data.check(progress=False)
    assert [data.name(i) for i in range(6)] == [f"{p:04d}_{c:02d}" for p in (1, 2) for c in (1, 2, 3)]
    assert data[0].keys() == {"lq", "name"}
    np.testing.assert_allclose(data[1]["lq"], photographs[0][2:10, 4:14].transpose(2, 0, 1), atol=1e-7)
    np.testing.assert_allclose(data[5]["lq"], photographs[1][13:21, 10:20].transpose(2, 0, 1), atol=1e-7)
    (tmp_path / "images_srgb/0002.mat").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"0002\.mat: is none of DND's files"):
        data[5]
    (tmp_path / "images_srgb/0002.mat").unlink()
    with pytest.raises(UserError, match=r"lacks 0002\.mat"):
        DNDDataset(dataroot_lq=str(tmp_path))


def test_dnd_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "info.mat").touch()
    with pytest.raises(UserError, match="need h5py, which is not installed; `pip install h5py`"):
        DNDDataset(dataroot_lq=str(tmp_path))
    (tmp_path / "info.mat").unlink()
    with pytest.raises(UserError, match=r"holds no info\.mat"):
        DNDDataset(dataroot_lq=str(tmp_path))


def test_files_for_dnds_server(tmp_path):
    names = [f"{p:04d}_{c:02d}" for p in (1, 2) for c in (1, 2, 3)]
    crops = {name: torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(i)) * 1.2 for i, name in enumerate(names)}
    out = tmp_path / "out"
    for name in names[:4]:
        Submission(out, names).write(name, crops[name])
    Submission(out, names).finish()
    assert sorted(path.name for path in out.iterdir()) == ["0001.mat", "0002_01.npy"]
    later = Submission(out, names)
    assert [later.has(name) for name in names] == [True] * 4 + [False] * 2
    for name in names[4:]:
        later.write(name, crops[name])
    later.finish()
    assert sorted(path.name for path in out.iterdir()) == ["0001.mat", "0002.mat"]
    content = scipy.io.loadmat(out / "0002.mat")
    assert content["Idenoised"].shape == (1, 3)
    assert content["Idenoised"][0, 1].dtype == np.float32
    np.testing.assert_array_equal(content["Idenoised"][0, 1], crops["0002_02"].clamp(0, 1).numpy().transpose(1, 2, 0))
    assert not content["israw"]
    assert content["eval_version"] == "1.0"


# The commands.


def test_a_test_on_dnd_writes_the_servers_files(root, run, test_options, forget_own_code):
    photographs = dnd(root)
    test_options["datasets"] = {"test": {"name": "DND", "type": "DNDDataset", "dataroot_lq": str(root)}}
    test_options["custom_modules"] = ["same.py"]
    (root / "same.py").write_text(
        "import torch\nfrom basicsr.archs import ARCHS\n\n\n@ARCHS.register\nclass Same(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.one = torch.nn.Parameter(torch.ones(1))\n\n"
        "    def forward(self, x):\n        return x * self.one\n"
    )
    test_options["network_g"] = {"type": "Same"}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", test_options))
    assert outcome.code == 0, outcome
    files = sorted((root / "results/run").rglob("*.mat"))
    assert [file.name for file in files] == ["0001.mat", "0002.mat"]
    assert not list((root / "results/run").rglob("*.npy"))
    crop = scipy.io.loadmat(files[1])["Idenoised"][0, 2]
    np.testing.assert_allclose(crop, photographs[1][13:21, 10:20], atol=1e-6)


@pytest.mark.parametrize(
    ("lq", "gt", "words"),
    [
        ("Gt", "Noisy", "dataroot_lq: .* holds ValidationGtBlocksSrgb"),
        ("Noisy", "Noisy", "dataroot_gt: .* holds ValidationNoisy"),
    ],
)
def test_noise_and_truth_are_not_taken_for_each_other(lq, gt, words, root):
    sidd(root)
    lq, gt = (str(root / f"Validation{side}BlocksSrgb.mat") for side in (lq, gt))
    with pytest.raises(UserError, match=words):
        SIDDBlocksDataset(dataroot_lq=lq, dataroot_gt=gt)


def test_a_test_on_blocks_of_sidd(root, run, test_options):
    blocks = sidd(root)
    gt, lq = (blocks[f"Validation{side}BlocksSrgb"].reshape(6, -1) / 255 for side in ("Gt", "Noisy"))
    words = {"type": "SIDDBlocksDataset", "dataroot_gt": "ValidationGtBlocksSrgb.mat"}
    test_options["datasets"] = {"test": {"name": "SIDD", **words, "dataroot_lq": "ValidationNoisyBlocksSrgb.mat"}}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", test_options))
    assert outcome.code == 0, outcome
    report = json.loads((root / "results/run/report.json").read_text())
    images = report["runs"][0]["images"]
    assert [image["name"] for image in images] == [f"ValidationBlocksSrgb_{i}" for i in range(6)]
    psnr = -10 * np.log10(np.square(gt - lq).mean(1))
    np.testing.assert_allclose([image["input_metrics"]["psnr"] for image in images], psnr, atol=1e-4)


def test_sets_that_are_not_there_or_are_cut_are_named_with_a_way_out(root, run, test_options):
    sidd(root)
    words = {"type": "SIDDBlocksDataset", "dataroot_gt": "ValidationGtBlocksSrgb.mat"}
    sets = {"test": {"name": "SIDD", **words, "dataroot_lq": "ValidationNoisyBlocksSrgb.mat"}}
    test_options["datasets"] = {
        **sets,
        "test_X": {"name": "X", "type": "GaussianDenoisingDataset", "dataroot_gt": "X", "sigma_test": 5},
    }
    file = write_yaml(root / "opt.yml", test_options)
    outcome = run("test", "-opt", file)
    assert outcome.code == 2
    assert "datasets.test_X.dataroot_gt: the folder" in outcome.err
    assert outcome.err.endswith("or test on the others: --force_yml datasets:test_X=~.\n")
    assert run("test", "-opt", file, "--force_yml", "datasets:test_X=~").code == 0
    cut = (root / "ValidationGtBlocksSrgb.mat").read_bytes()
    (root / "ValidationGtBlocksSrgb.mat").write_bytes(cut[: len(cut) // 2])
    outcome = run("test", "-opt", file, "--force_yml", "datasets:test_X=~")
    assert outcome.code == 2
    assert outcome.err.startswith("error: datasets.test.dataroot_gt: ")
    assert "cannot be read as a .mat file" in outcome.err


def test_tlc_is_said_once_and_windows_with_the_set(root, run, test_options):
    for name in "AB":
        clean(root / name)
        test_options["datasets"][f"test_{name}"] = {
            **{"name": f"Set{name}", "type": "GaussianDenoisingDataset", "dataroot_gt": name, "sigma_test": 5}
        }
    del test_options["datasets"]["test"]
    test_options["network_g"] |= {"type": "NAFNetLocal", "train_size": 64}
    outcome = run("test", "-opt", write_yaml(root / "opt.yml", test_options))
    assert outcome.out.count("TLC: trained on 64x64") == 1
    assert all(outcome.out.count(f"covers 2 of 2 images of Set{name}: TLC changes nothing") == 1 for name in "AB")


def test_mixed_training_goes_on_where_it_was(root, run, train_options):
    """Three iterations, and three more, are six; mixed is not as plain."""
    clean(root / "clean")
    words = {"type": "GaussianDenoisingDataset", "dataroot_gt": "clean", "sigma_type": "random", "sigma_range": [0, 50]}
    train_options["datasets"] = {"train": {**words, "gt_size": 16, "batch_size": 4, "batch_size_per_gpu": 2}}
    train_options["train"]["mixing_augs"] = {"mixup": True, "use_identity": True}
    train_options["logger"]["save_checkpoint_freq"] = 3
    file = write_yaml(root / "opt.yml", train_options)

    def weights(name: str, *overrides: str) -> torch.Tensor:
        outcome = run("train", "-opt", file, "--auto_resume", "--force_yml", f"name={name}", *overrides)
        assert outcome.code == 0, outcome
        latest = max((root / f"experiments/{name}/models").glob("net_g_*"), key=lambda path: path.stat().st_mtime_ns)
        return torch.cat([value.flatten() for value in torch.load(latest, weights_only=True)["params"].values()])

    whole = weights("whole")
    weights("halves", "train:total_iter=3")
    assert torch.equal(weights("halves"), whole)
    assert not torch.equal(weights("plain", "train:mixing_augs:mixup=false"), whole)


def test_check_data_knows_these_data_sets(root, run):
    dpdd(root, equal_names=False)
    write(root / "inputR/inputR_10.png", np.zeros((20, 24, 3), np.uint16))
    words = {"type": "DualPixelDataset", **sides(root), "pair_by": "position"}
    noise = {"type": "GaussianDenoisingDataset", "dataroot_gt": str(root / "target"), "pad_small": True, "gt_size": 99}
    sets = {"train": noise, "test": {"name": "DPDD", **words}, "val": {"type": "SIDDBlocksDataset", "dataroot_lq": "a.mat"}}
    file = write_yaml(root / "opt.yml", {"name": "x", "network_g": {"type": "NAFNet"}, "datasets": sets})
    outcome = run("check-data", "-opt", file, "--workers", "1")
    assert outcome.code == 2, outcome
    assert "DPDD L: 3 pairs, 6 files" in outcome.out
    assert "DPDD R: 3 pairs, 6 files" in outcome.out
    assert "unlike its ground truth" in outcome.out
    assert "train: 3 files" in outcome.out
    assert outcome.out.count("problems: none") == 2  # left views, and the noise's clean pictures, however small
    assert "datasets.val: SIDDBlocksDataset reads MATLAB files" in outcome.out
