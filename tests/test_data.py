"""Pairs from folders and LMDBs: matched by name, checked, cropped and flipped alike; BasicSR's LMDB layout both ways."""

import pickle
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch
from conftest import make_pairs, picture, write
from PIL import Image
from torch.utils.data import DataLoader

from basicsr.data.augment import augment, random_crop
from basicsr.data.packing import write_lmdb
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.sampler import Draw
from basicsr.data.storage import FolderStorage, LmdbStorage
from basicsr.errors import UserError


def pixels(path: Path) -> np.ndarray:
    """(3, H, W) in [0, 255], by Pillow."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def dataset(folder: Path, **options) -> PairedImageDataset:
    return PairedImageDataset(dataroot_gt=str(folder / "target"), dataroot_lq=str(folder / "input"), **options)


def test_pairs_by_name_whatever_the_suffix(tmp_path):
    make_pairs(tmp_path, names=("a", "b"))
    write(tmp_path / "input/b.jpg", picture(3))
    (tmp_path / "input/b.png").unlink()
    (tmp_path / "input/.DS_Store").touch()
    (tmp_path / "input/._a.png").write_bytes(b"left by macOS")
    (tmp_path / "target/notes.txt").touch()
    data = dataset(tmp_path)
    data.check(progress=False)
    assert [data[i]["name"] for i in range(len(data))] == ["a", "b"]
    np.testing.assert_array_equal((data[0]["lq"] * 255).round(), pixels(tmp_path / "input/a.png"))
    np.testing.assert_array_equal((data[0]["gt"] * 255).round(), pixels(tmp_path / "target/a.png"))
    assert data[1]["lq"].dtype == torch.float32
    assert data[1]["lq"].shape == data[1]["gt"].shape == (3, 24, 32)


def test_sub_folders(tmp_path):
    make_pairs(tmp_path, names=("000/00000009", "001/00000009"))
    assert [gt for gt, _ in dataset(tmp_path).names] == ["000/00000009", "001/00000009"]


@pytest.mark.parametrize("template", ["{}_blur", "lq_{}", "{{}}"])
def test_name_patterns(template, tmp_path):
    for stem in ("x", "y.2"):
        write(tmp_path / "target/clip" / f"{stem}.png", picture(1))
        write(tmp_path / "input/clip" / f"{template.replace('{}', stem)}.png", picture(2))
    data = dataset(tmp_path, filename_tmpl=template)
    assert data.names == [(f"clip/{stem}", f"clip/{template.replace('{}', stem)}") for stem in ("x", "y.2")]


def test_names_are_matched_not_zipped(tmp_path):
    """As many files on both sides, and in the same order, but of different names."""
    make_pairs(tmp_path, names=("a", "b"))
    (tmp_path / "input/b.png").rename(tmp_path / "input/c.png")
    with pytest.raises(UserError, match=r"in dataroot_lq: b; without a ground truth in dataroot_gt: c; add, remove or rename"):
        dataset(tmp_path)


def test_check_names_every_fault(tmp_path):
    make_pairs(tmp_path, names=tuple("abcdefghijklmn"))
    for name in "abcdefghijkl":
        (tmp_path / f"input/{name}.png").write_bytes(b"")
    write(tmp_path / "input/m.png", picture(1, 24, 31))
    with pytest.raises(UserError) as error:
        dataset(tmp_path, gt_size=25).check(progress=False)
    text = str(error.value)
    assert text.count("is an empty file") == 10
    assert "(12 in all)" in text
    assert "different sizes: m (32x24 and 31x24)" in text
    assert "smaller than gt_size 25: n (32x24)" in text


def test_sixteen_bit_grey_and_alpha_pairs(tmp_path):
    rgb = picture(1, dtype=np.uint16)
    write(tmp_path / "target/deep.png", rgb)
    write(tmp_path / "input/deep.png", np.dstack([rgb, rgb[..., 0]]))
    write(tmp_path / "target/grey.png", picture(2)[..., 0])
    write(tmp_path / "input/grey.png", picture(2)[..., 0])
    data = dataset(tmp_path)
    data.check(progress=False)
    np.testing.assert_allclose(data[0]["gt"].numpy(), rgb.transpose(2, 0, 1) / 65535, atol=1e-7)
    assert torch.equal(data[0]["gt"], data[0]["lq"])
    assert torch.equal(data[1]["gt"], data[1]["lq"])
    np.testing.assert_array_equal((data[1]["lq"][2] * 255).round(), picture(2)[..., 0])


# Crops and flips.


def numbered(height: int, width: int) -> np.ndarray:
    """Every pixel tells its place: (row, column, 0)."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.dstack([rows, columns, 0 * rows]).astype(np.float32)


def test_crops_are_the_same_part_and_reach_every_place():
    seen = set()
    for seed in range(200):
        first, second = random_crop([numbered(7, 6), numbered(7, 6) + 1], 4, np.random.default_rng(seed))
        top, left = first[0, 0, :2].astype(int)
        np.testing.assert_array_equal(first, numbered(7, 6)[top : top + 4, left : left + 4])
        np.testing.assert_array_equal(second, first + 1)
        seen.add((top, left))
    assert seen == {(top, left) for top in range(4) for left in range(3)}


def orientations(image: np.ndarray) -> dict[bytes, str]:
    """The eight by name: r<quarter turns>, then f for a flip."""
    turned = {f"r{k}": np.rot90(image, k) for k in range(4)}
    turned |= {f"{name}f": x[:, ::-1] for name, x in list(turned.items())}
    return {np.ascontiguousarray(x).tobytes(): name for name, x in turned.items()}


@pytest.mark.parametrize(
    ("flip", "rotate", "expected"),
    [
        (False, False, {"r0": 1}),
        (True, False, {"r0": 1 / 2, "r0f": 1 / 2}),
        (True, True, dict.fromkeys(("r0", "r1", "r2", "r3", "r0f", "r1f", "r2f", "r3f"), 1 / 8)),
    ],
)
def test_flips_are_the_same_and_equally_likely(flip, rotate, expected):
    image = numbered(5, 5)
    names, counts = orientations(image), {}
    for seed in range(1600):
        first, second = augment([image, image + 1], flip, rotate, np.random.default_rng(seed))
        np.testing.assert_array_equal(second, first + 1)
        name = names[np.ascontiguousarray(first).tobytes()]
        counts[name] = counts.get(name, 0) + 1
    assert set(counts) == set(expected)
    for name, share in expected.items():
        assert counts[name] / 1600 == pytest.approx(share, abs=0.04)  # 4.8 standard deviations at 1/8


def test_a_sample_follows_from_its_seed(tmp_path):
    data = dataset(make_pairs(tmp_path), gt_size=16, use_flip=True, use_rot=True)
    one, same, other = data[Draw(1, (0, 5), 16)], data[Draw(1, (0, 5), 16)], data[Draw(1, (0, 6), 16)]
    assert one["lq"].shape == one["gt"].shape == (3, 16, 16)
    assert torch.equal(one["lq"], same["lq"])
    assert torch.equal(one["gt"], same["gt"])
    assert not torch.equal(one["gt"], other["gt"])
    assert (one["lq"] - one["gt"]).abs().mean() < 0.1  # the noise: the same place in both


# LMDB.


@pytest.fixture
def packed(tmp_path) -> Path:
    """tmp/{input,target}.lmdb beside the folders, with a JPEG, a grey and a 16-bit picture among them."""
    make_pairs(tmp_path, names=("000_00000009", "x.y", "clip/z"))
    for side in ("input", "target"):
        write(tmp_path / side / "photo.jpg", picture(7))
        write(tmp_path / side / "grey.png", picture(8)[..., 0])
        write(tmp_path / side / "deep.png", picture(9, dtype=np.uint16))
        assert write_lmdb(tmp_path / side, tmp_path / f"{side}.lmdb", progress=False) == 6
    return tmp_path


def lmdb_dataset(folder: Path) -> PairedImageDataset:
    return PairedImageDataset(
        dataroot_gt=str(folder / "target.lmdb"), dataroot_lq=str(folder / "input.lmdb"), io_backend={"type": "lmdb"}
    )


def test_layout_is_basicsrs(packed):
    """A line `name.png (height,width,channels) level` a key; the key is the name without suffix, the value the file."""
    assert sorted(p.name for p in (packed / "input.lmdb").iterdir()) == ["data.mdb", "lock.mdb", "meta_info.txt"]
    lines = (packed / "input.lmdb/meta_info.txt").read_text().splitlines()
    assert "000_00000009.png (24,32,3) 1" in lines
    assert "photo.jpg (24,32,3) 1" in lines
    assert "grey.png (24,32,1) 1" in lines
    with lmdb.open(str(packed / "input.lmdb"), readonly=True, lock=False) as env, env.begin() as transaction:
        assert transaction.get(b"000_00000009") == (packed / "input/000_00000009.png").read_bytes()
        assert transaction.stat()["entries"] == 6


def test_lmdb_gives_what_the_folders_give(packed):
    from_folder, from_lmdb = dataset(packed), lmdb_dataset(packed)
    from_lmdb.check(progress=False)
    assert from_lmdb.names == from_folder.names
    assert len(from_lmdb) == 6
    for i in range(6):
        assert torch.equal(from_lmdb[i]["lq"], from_folder[i]["lq"])
        assert torch.equal(from_lmdb[i]["gt"], from_folder[i]["gt"])


def test_an_lmdb_written_by_basicsr_is_read(tmp_path):
    """Written here as BasicSR's make_lmdb_from_imgs writes it: PNG whatever the source, keys in ASCII."""
    for side, seed in (("input", 1), ("target", 2)):
        folder = tmp_path / f"{side}.lmdb"
        with lmdb.open(str(folder), map_size=1 << 20) as env, env.begin(write=True) as transaction:
            _, data = cv2.imencode(".png", picture(seed)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
            transaction.put(b"000_00000009", data.tobytes())
        (folder / "meta_info.txt").write_text("000_00000009.png (24,32,3) 1\n")
    sample = lmdb_dataset(tmp_path)[0]
    assert sample["name"] == "000_00000009"
    np.testing.assert_array_equal((sample["lq"] * 255).round().numpy().transpose(1, 2, 0), picture(1))
    np.testing.assert_array_equal((sample["gt"] * 255).round().numpy().transpose(1, 2, 0), picture(2))


def test_lmdb_in_worker_processes(packed):
    data = lmdb_dataset(packed)
    first = data[0]["gt"]  # opened here before the fork
    samples = list(DataLoader(data, batch_size=None, num_workers=2))
    assert [sample["name"] for sample in samples] == [gt for gt, _ in data.names]
    assert torch.equal(samples[0]["gt"], first)
    assert torch.equal(pickle.loads(pickle.dumps(data))[0]["gt"], first)  # as spawned workers get it


def test_one_lmdb_for_two_data_sets(packed):
    first, second = lmdb_dataset(packed), lmdb_dataset(packed)
    assert torch.equal(first[0]["gt"], second[0]["gt"])


def test_an_lmdb_is_written_whole_or_not_at_all(tmp_path):
    make_pairs(tmp_path)
    (tmp_path / "input/c.png").write_bytes((tmp_path / "input/c.png").read_bytes()[:-20])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"c.png: is a truncated PNG"):
        write_lmdb(tmp_path / "input", tmp_path / "x.lmdb", progress=False)
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / ".y.lmdb.tmp/old").mkdir(parents=True)  # left by a killed run
    write_lmdb(tmp_path / "target", tmp_path / "y.lmdb", progress=False)
    assert len(LmdbStorage(tmp_path / "y.lmdb", "x").names()) == 3
    assert not (tmp_path / ".y.lmdb.tmp").exists()


def test_nearest_folder_is_named(tmp_path):
    make_pairs(tmp_path / "Set/test")
    with pytest.raises(UserError, match=r"dataroot_lq: the folder .*does not exist; .*test exists and holds input, target;"):
        FolderStorage(tmp_path / "Set/test/inputs", "dataroot_lq")
    with pytest.raises(UserError, match=r"Set exists and holds test;"):
        FolderStorage(tmp_path / "Set/val/input", "dataroot_lq")


# Preparation.


def test_crops_of_a_720p_frame(run, tmp_path):
    """512 x 512 every 256, the last flush with the border: eight, and the names that the recipes use."""
    frame = picture(1, 720, 1280)
    write(tmp_path / "in/f.png", frame)
    outcome = run("extract_subimages", "--input", tmp_path / "in", "--output", tmp_path / "out", "--workers", "1")
    assert outcome.code == 0
    places = [(y, x) for y in (0, 208) for x in (0, 256, 512, 768)]
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == [f"f_s00{i}.png" for i in range(1, 9)]
    for number, (y, x) in enumerate(places, start=1):
        np.testing.assert_array_equal(
            pixels(tmp_path / f"out/f_s00{number}.png").transpose(1, 2, 0), frame[y : y + 512, x : x + 512]
        )


def test_crops_keep_sixteen_bits(run, tmp_path):
    write(tmp_path / "in/f.png", picture(1, 20, 20, np.uint16))
    write(tmp_path / "in/g.png", picture(1, 20, 20)[..., 0])
    args = ("--crop_size", "16", "--step", "16", "--workers", "1")
    assert run("extract_subimages", "--input", tmp_path / "in", "--output", tmp_path / "out", *args).code == 0
    crop = cv2.imread(str(tmp_path / "out/f_s004.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(crop[..., ::-1], picture(1, 20, 20, np.uint16)[4:, 4:])
    assert cv2.imread(str(tmp_path / "out/g_s001.png"), cv2.IMREAD_UNCHANGED).ndim == 2


def test_images_below_a_crop_are_named(run, tmp_path):
    write(tmp_path / "in/f.png", picture(1, 20, 10))
    outcome = run("extract_subimages", "--input", tmp_path / "in", "--output", tmp_path / "out", "--crop_size", "16")
    assert outcome.code == 2
    assert "smaller than a crop of 16: f" in outcome.err


def test_create_lmdb_script(run, tmp_path):
    make_pairs(tmp_path)
    outcome = run("create_lmdb", "--input", tmp_path / "input", "--output", tmp_path / "x.lmdb")
    assert outcome.code == 0
    assert "3 images in" in outcome.out
    assert LmdbStorage(tmp_path / "x.lmdb", "x").look("b").size == (24, 32)
