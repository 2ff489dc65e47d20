"""Images that are read ahead of the network and measured behind it, by several threads: all is as if it came one by one."""

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SMALL_NETS, make_pairs, write_yaml
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity

from basicsr.archs import build_network
from basicsr.data import DATASETS
from basicsr.data.augment import scaled, to_tensor
from basicsr.data.image_dataset import ImageDataset
from basicsr.data.storage import LmdbStorage
from basicsr.engine.testing import evaluate as evaluation
from basicsr.engine.testing import lanes
from basicsr.engine.testing.lanes import Lanes
from basicsr.engine.testing.saving import Pictures, eight_bits
from basicsr.errors import DiskError, UserError
from basicsr.metrics.similarity import blur_at_once, uniform_map
from basicsr.utils.image import quantise

NAMES = tuple("abcdefghi")


class Four(Lanes):
    reading = workers = 4


@pytest.fixture
def four(monkeypatch):
    monkeypatch.setattr(evaluation, "lanes_for", lambda device, batch_size: Four(batch_size))


@pytest.fixture
def opt(root, test_options) -> dict:
    make_pairs(root / "datasets/Set", names=NAMES)
    torch.manual_seed(0)
    torch.save({"params": build_network({"type": "NAFNet", **SMALL_NETS["NAFNet"]}).state_dict()}, root / "net.pth")
    metrics = {name: {"type": f"calculate_{name}", "crop_border": 0} for name in ("psnr", "ssim")}
    return {**test_options, "path": {"pretrain_network_g": "net.pth"}, "val": {"metrics": metrics, "save_img": True}}


@pytest.fixture
def late(monkeypatch):
    """The first images are the last ones that are measured."""
    measure, seen = evaluation.measure, []

    def slow(*args):
        seen.append(len(seen))
        time.sleep(0.01 * max(0, 8 - seen[-1]))
        return measure(*args)

    monkeypatch.setattr(evaluation, "measure", slow)


def damage(file: Path) -> None:
    """A PNG file whose header is good, so that it is found when it is read."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


def said(root, net: str = "NAFNet") -> list:
    """What a report says of each image, but for seconds; and the pictures, byte by byte."""
    (run,) = json.loads((root / "results/run/report.json").read_text())["runs"]
    pictures = {file.name: file.read_bytes() for file in (root / "results/run/visualization/test" / net).iterdir()}
    return [{**image, "seconds": 0} for image in run["images"]], run["metrics"], pictures


def test_as_one_by_one(opt, root, run, monkeypatch, late):
    file = write_yaml(root / "x.yml", opt)
    assert run("test", "-opt", file).code == 0
    alone = said(root)
    monkeypatch.setattr(evaluation, "lanes_for", lambda device, batch_size: Four(batch_size))
    assert run("test", "-opt", file).code == 0
    assert said(root) == alone
    assert [image["name"] for image in alone[0]] == list(NAMES)
    assert sorted(alone[2]) == [f"{name}.png" for name in NAMES]


def test_an_image_that_fails_fails_alone_and_in_its_place(opt, root, run, four, late, monkeypatch):
    measure = evaluation.measure

    def grumpy(metrics, image, gt):
        if image.shape[1] == 20:
            raise UserError("psnr: too few lines")
        return measure(metrics, image, gt)

    monkeypatch.setattr(evaluation, "measure", grumpy)
    for side in ("target", "input"):
        file = root / "datasets/Set" / side / "d.png"
        cv2.imwrite(str(file), cv2.imread(str(file))[:20])
    damage(root / "datasets/Set/input/f.png")
    outcome = run("test", "-opt", write_yaml(root / "x.yml", opt))
    assert outcome.code == 1
    assert [image["name"] for image in said(root)[0]] == [name for name in NAMES if name not in "df"]
    assert "2 of 9 images failed: d (psnr: too few lines), f (" in outcome.err + outcome.out


def test_a_run_that_is_cut_short_is_gone_on_with(opt, root, run, four, late, monkeypatch):
    file = write_yaml(root / "x.yml", opt)
    assert run("test", "-opt", file).code == 0
    whole, timed, count = said(root), evaluation.timed, []

    def until_the_eighth(predict, lq):
        count.append(lq.shape)
        if len(count) == 8:
            raise KeyboardInterrupt
        return timed(predict, lq)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "timed", until_the_eighth)
        assert run("test", "-opt", file).code == 130
    kept = [json.loads(line)["name"] for line in (root / "results/run/progress-0.jsonl").read_text().splitlines()[1:]]
    assert kept == list(NAMES[:3])  # in their order, whoever was ready first
    assert run("test", "-opt", file, "--resume").code == 0
    assert said(root) == whole


def test_a_full_disk_ends_the_run_with_its_sentence(opt, root, run, four, monkeypatch):
    write = Pictures.write

    def until_full(self, name, restored):
        if name >= "d":
            raise DiskError(f"{name}.png: cannot be written (No space left on device); make room there.")
        write(self, name, restored)

    monkeypatch.setattr(Pictures, "write", until_full)
    outcome = run("test", "-opt", write_yaml(root / "x.yml", opt))
    assert outcome.code == 2
    assert "d.png: cannot be written (No space left on device)" in outcome.err
    assert "Traceback" not in outcome.err


# ---- several at once


def batches(monkeypatch) -> list[int]:
    """Of how many images each run of the network was."""
    timed, seen = evaluation.timed, []

    def counted(predict, images):
        seen.append(len(images))
        return timed(predict, images)

    monkeypatch.setattr(evaluation, "timed", counted)
    return seen


def figures(root) -> list[dict]:
    return [image["metrics"] | image["input_metrics"] for image in said(root)[0]]


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_of_one_size(workers, opt, root, run, monkeypatch):
    """Where sizes change and where an image cannot be read, a batch ends."""
    make_pairs(root / "datasets/Set", names=("g", "h", "i"), height=20)
    file = write_yaml(root / "x.yml", opt)
    damage(root / "datasets/Set/input/c.png")
    assert run("test", "-opt", file).code == 1
    alone, pictures = figures(root), said(root)[2]
    if workers == 4:
        monkeypatch.setattr(evaluation, "lanes_for", lambda device, batch_size: Four(batch_size))
    seen = batches(monkeypatch)
    outcome = run("test", "-opt", file, "--force_yml", "val:batch_size=3")
    assert outcome.code == 1
    assert seen == [2, 3, 3]  # a b, d e f, g h i
    assert "1 of 9 images failed: c (" in outcome.err + outcome.out
    assert [image["name"] for image in said(root)[0]] == list("abdefghi")
    for one, other in zip(figures(root), alone, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    assert said(root)[2].keys() == pictures.keys()


def test_a_network_that_takes_one_image_alone(opt, root, run, monkeypatch, forget_own_code):
    (root / "own.py").write_text(
        "import torch\n"
        "class One(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = torch.nn.Parameter(torch.ones(1))\n"
        "    def forward(self, x):\n"
        "        assert x.shape[0] == 1, 'one image alone'\n"
        "        return x * self.scale\n"
    )
    monkeypatch.syspath_prepend(str(root))
    seen = batches(monkeypatch)
    file = write_yaml(root / "x.yml", {**opt, "network_g": {"type": "own:One"}, "path": {}})
    outcome = run("test", "-opt", file, "--force_yml", "val:batch_size=4")
    assert outcome.code == 0, outcome
    assert seen == [4, *[1] * len(NAMES)]
    said_once = (
        "4 images at once: the network cannot run on 32x24 pixels: one image alone. Those of this size are restored one by"
    )
    assert (outcome.err + outcome.out).count(said_once) == 1
    assert [image["name"] for image in said(root, "One")[0]] == list(NAMES)


# ---- bounds


class Counting(Four):
    """How many samples are held at most, and by how many threads they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.held, self.most, self.threads, self.lock = 0, 0, set(), threading.Lock()

    def read(self, dataset, index):
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
            self.threads.add(threading.get_ident())
        time.sleep(0.002)
        return super().read(dataset, index)


def counted(monkeypatch, dataset) -> Counting:
    counting = Counting()
    monkeypatch.setattr(evaluation, "lanes_for", lambda device, batch_size: counting)

    def ready(result):
        with counting.lock:
            counting.held -= 1

    evaluation.evaluate(lambda image: image, dataset, {}, on_result=ready)
    return counting


@pytest.fixture
def pairs(root):
    make_pairs(root / "datasets/Set", names=[f"{number:02}" for number in range(24)])
    sides = {f"dataroot_{side}": str(root / "datasets/Set" / folder) for side, folder in (("gt", "target"), ("lq", "input"))}
    return DATASETS.get("PairedImageDataset")(**sides)


def test_so_many_images_wait_and_no_more(pairs, monkeypatch):
    found = counted(monkeypatch, pairs)
    assert 4 < found.most <= 4 + 1 + 4 + 1  # ahead, in the network, behind, and the one that is asked for
    assert 1 < len(found.threads) <= 4


def test_large_images_wait_one_by_one(pairs, monkeypatch):
    monkeypatch.setattr(lanes, "_HELD", 24 * 32 * 3 * 4 * 2)  # bytes of one pair
    assert counted(monkeypatch, pairs).most <= 4


def test_data_sets_of_ones_own_are_read_by_one_thread(pairs, monkeypatch):
    own = [pairs[number] for number in range(12)]
    assert len(counted(monkeypatch, own).threads) == 1


def test_the_cpu_has_a_thread_on_each_side():
    for device in (None, torch.device("cpu"), torch.device("mps")):
        assert type(lanes.lanes_for(device, 1)) is Lanes
    assert Lanes.workers == 1


def test_an_lmdb_is_read_by_many_threads(root, run):
    make_pairs(root / "datasets/Set", names=NAMES)
    assert run("lmdb", "--input", "datasets/Set/target", "--output", "set.lmdb").code == 0
    storage = LmdbStorage(root / "set.lmdb", "dataroot_gt")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(storage.read_bytes, NAMES * 20))
    assert found == [(root / f"datasets/Set/target/{name}.png").read_bytes() for name in NAMES] * 20


# ---- beside a GPU


@pytest.fixture
def pretended(monkeypatch) -> lanes.GpuLanes:
    """Those of a GPU whose memory is the CPU's, and whose streams say when they are waited for."""

    class Stream:
        def __init__(self, device, priority) -> None:
            self.waits = 0

        def synchronize(self) -> None:
            self.waits += 1

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda image: image.clone())
    monkeypatch.setattr(lanes, "_cores", lambda: 8)
    return lanes.GpuLanes(torch.device("cpu"))


def test_samples_are_on_the_gpu_before_they_are_asked_for(pretended):
    sample = {"lq": torch.rand(3, 4, 5), "gt": torch.rand(3, 4, 5), "name": "x"}
    found = pretended.read([sample], 0)
    assert found.keys() == sample.keys()
    assert all(torch.equal(found[side], sample[side]) and found[side] is not sample[side] for side in ("lq", "gt"))
    assert pretended.inward.waits == 1


def test_samples_stay_on_the_cpu_where_the_network_has_all_memory(pretended, monkeypatch):
    def full(image):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.Tensor, "pin_memory", full)
    sample = {"lq": torch.rand(3, 4, 5), "name": "x"}
    assert pretended.read([sample], 0)["lq"] is sample["lq"]


def scenes(root: Path) -> dict[str, ImageDataset]:
    """Of 8 and 16 bits, grey, with alpha, without ground truth; one that makes its noise; and one that is somebody's own."""
    random = np.random.default_rng(0)
    for name, image in {
        "a": random.integers(0, 256, (9, 7, 3), np.uint8),
        "b": random.integers(0, 65536, (9, 7, 3), np.uint16),
        "c": random.integers(0, 256, (9, 7), np.uint8),
        "d": random.integers(0, 256, (9, 7, 4), np.uint8),
    }.items():
        for side in ("target", "input"):
            (root / side).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / side / f"{name}.png"), image)
    paired = DATASETS.get("PairedImageDataset")

    class Darker(paired):
        def whole(self, names):
            return {**super().whole(names), "lq": super().whole(names)["lq"] / 2, "extra": np.zeros(3)}

    target, both = str(root / "target"), {"dataroot_gt": str(root / "target"), "dataroot_lq": str(root / "input")}
    return {
        "pairs": paired(**both),
        "grey": paired(**both, in_ch=1),
        "alone": paired(dataroot_lq=target),
        "noise": DATASETS.get("GaussianDenoisingDataset")(
            dataroot_gt=target, sigma_type="constant", sigma_range=25, sigma_test=25
        ),
        "own": Darker(**both),
    }


@pytest.mark.parametrize("memory_is_out", [False, True])
def test_bytes_become_what_they_are_on_the_cpu(root, pretended, memory_is_out, monkeypatch):
    moved = []

    def pinned(image):
        if memory_is_out:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        moved.append(image.dtype)
        return image.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    for dataset in scenes(root).values():
        for index in range(len(dataset)):
            found, wanted = pretended.read(dataset, index), dataset[index]
            assert found.keys() == wanted.keys()
            for word, part in wanted.items():
                assert type(found[word]) is type(part)
                if isinstance(part, torch.Tensor):
                    assert found[word].dtype == part.dtype
                    assert torch.equal(found[word], part)
    assert memory_is_out or set(moved) == {torch.uint8, torch.float32}


def test_what_is_measured_is_waited_for(pretended):
    for broken in (False, True):
        with contextlib.suppress(ZeroDivisionError), pretended.behind():
            assert pretended.outward.waits == broken
            _ = 1 / (not broken)
    assert pretended.outward.waits == 2


def test_as_one_by_one_beside_a_gpu(pretended, opt, root, run, monkeypatch, late):
    file = write_yaml(root / "x.yml", opt)
    assert run("test", "-opt", file).code == 0
    alone = said(root)
    monkeypatch.setattr(evaluation, "lanes_for", lambda device, batch_size: pretended)
    assert run("test", "-opt", file).code == 0
    assert said(root) == alone
    assert (pretended.inward.waits, pretended.outward.waits) == (len(NAMES), len(NAMES))


@pytest.mark.parametrize(
    ("cores", "processes", "readers", "workers"),
    [(1, 1, 1, 1), (2, 1, 1, 1), (6, 1, 4, 3), (16, 1, 14, 8), (64, 1, 16, 8), (64, 8, 6, 4), (4, 8, 1, 1)],
)
def test_almost_all_cores_read_and_half_of_them_finish(cores, processes, readers, workers, monkeypatch, pairs):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: None)
    monkeypatch.setattr(lanes.os, "sched_getaffinity", lambda process: range(cores), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    found = lanes.GpuLanes(torch.device("cpu"))
    assert (found.readers(pairs), found.workers) == (readers, workers)


# ---- what is computed there


def test_bytes_are_divided_as_arrays_are():
    """To the bit, which the inverse of 255 would not give."""
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert torch.equal(scaled(torch.from_numpy(values)), to_tensor(values))
    assert scaled(torch.from_numpy(values)).is_contiguous()
    assert not np.array_equal(values.astype(np.float32) * np.float32(1 / 255), values.astype(np.float32) / np.float32(255))


def test_eight_bits_are_those_of_arrays():
    """Also halfway between two values, and one bit beside that."""
    half = (np.arange(-3, 260, dtype=np.float32) + np.float32(0.5)) / np.float32(255)
    values = np.concatenate([half, *(np.nextafter(half, np.float32(way)) for way in (-1, 2)), [-0.0, 1.0, 1.5, -7.0]])
    values = np.concatenate([values, np.random.default_rng(0).random(100_000)]).astype(np.float32)
    assert np.array_equal(eight_bits(torch.from_numpy(values)).numpy(), quantise(values))
    assert len(np.unique(quantise(values))) == 256


@pytest.mark.parametrize("shape", [(4, 3, 29, 37), (4, 3, 3, 4), (4, 29, 37), (2, 1, 9)])
def test_windows_at_once_are_the_gaussian_window(shape):
    maps = np.random.default_rng(1).normal(100, 60, shape)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    want = maps
    for axis in range(1, len(shape)):
        want = correlate1d(want, line / line.sum(), axis, mode="nearest")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = blur_at_once(torch.from_numpy(maps).float())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), want, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 29, 37), (1, 7, 40)])
def test_uniform_windows_are_those_of_scikit_image(shape):
    random = np.random.default_rng(2)
    x = random.random(shape)
    y = (x + random.normal(0, 0.1, shape)).clip(0, 1)
    found = uniform_map(torch.from_numpy(x), torch.from_numpy(y), 1).mean().item()
    assert found == pytest.approx(structural_similarity(x, y, channel_axis=0, data_range=1), abs=1e-12)
