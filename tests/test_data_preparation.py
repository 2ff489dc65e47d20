"""Preparation of data sets: the archives' layouts, LMDBs that grow, go on and are verified, and second runs of every script."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from conftest import REPOSITORY, make_pairs, picture, write

from basicsr.data import packing
from basicsr.data.packing import write_lmdb
from basicsr.data.pairs import Pairing
from basicsr.data.storage import LmdbStorage
from basicsr.engine.preparing import gopro as gopro_archive
from basicsr.errors import UserError
from basicsr.utils.image import image_size
from basicsr.utils.parallel import in_parallel


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def times(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.lstat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


# Several processes.


# The workers import what they unpickle: built-in functions, as this file would take them seconds.
PID = "__import__('os').getpid()"


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_order_and_errors_arrive(workers, tmp_path):
    paths = [write(tmp_path / f"{n}.png", picture(0, n, 7)) for n in range(1, 31)]
    assert list(in_parallel(image_size, paths, workers)) == [(n, 7) for n in range(1, 31)]
    paths[2].write_bytes(b"")
    results = in_parallel(image_size, paths, workers)
    assert [next(results), next(results)] == [(1, 7), (2, 7)]
    with pytest.raises(UserError, match=r"^\S*3\.png: is an empty file; replace or remove the file\.$"):
        next(results)


def test_a_killed_worker_is_one_sentence():
    with pytest.raises(UserError, match="A worker process was killed, most likely for want of memory; use fewer --workers"):
        list(in_parallel(signal.raise_signal, [signal.SIGKILL] * 3, 2))


def test_no_more_processes_than_pay():
    assert set(in_parallel(eval, [PID] * 19, worth=10)) == {os.getpid()}  # less than two processes' worth
    assert os.getpid() not in set(in_parallel(eval, [PID] * 4, 2))
    with pytest.raises(UserError, match="workers: 0"):
        in_parallel(eval, [PID], 0)


def test_names_are_matched_and_the_lonely_told_apart():
    pairs, alone_gt, alone_lq = Pairing("{}_lq").match(["b/x", "a", "c"], ["a_lq", "b/x_lq", "z_lq"])
    assert pairs == [("a", "a_lq"), ("b/x", "b/x_lq")]
    assert (alone_gt, alone_lq) == (["c"], ["z_lq"])


# The archives.


def frame(path: Path, seed: int) -> bytes:
    return write(path, picture(seed)).read_bytes()


@pytest.fixture
def gopro(tmp_path) -> Path:
    """GOPRO_Large with two clips in train and one in test, two frames each, every file of another content."""
    root, seed = tmp_path / "GOPRO_Large", 0
    for clip in ("train/GOPR0372_07_00", "train/GOPR0884_11_00", "test/GOPR0384_11_00"):
        for side in ("blur", "blur_gamma", "sharp"):
            for number in ("000285", "000286"):
                seed += 1
                frame(root / clip / side / f"{number}.png", seed)
    (root / "test/GOPR0384_11_00/blur/._000285.png").write_bytes(b"left by macOS")
    return root


def gopro_wanted(root: Path) -> dict[str, bytes]:
    wanted = {}
    for split, clip in (("train", "GOPR0372_07_00"), ("train", "GOPR0884_11_00"), ("test", "GOPR0384_11_00")):
        for number in ("000285", "000286"):
            for side, name in (("input", "blur"), ("target", "sharp")):
                wanted[f"{split}/{side}/{clip}-{number}.png"] = (root / split / clip / name / f"{number}.png").read_bytes()
    return wanted


@pytest.mark.parametrize(("link", "workers"), [(False, 2), (True, 1)])
def test_gopro(link, workers, gopro, run, tmp_path):
    command = ("prepare_gopro", "--input", gopro, "--output", tmp_path / "out", *(["--link"] if link else []))
    outcome = run(*command, "--workers", workers)
    assert outcome.code == 0, outcome
    assert contents(tmp_path / "out") == gopro_wanted(gopro)
    assert "4 pairs, but the published set has 2,103" in outcome.out
    assert "2 pairs, but the published set has 1,111" in outcome.out
    one = tmp_path / "out/test/input/GOPR0384_11_00-000285.png"
    assert one.samefile(gopro / "test/GOPR0384_11_00/blur/000285.png") == link


def test_gopro_second_run_copies_what_is_missing(gopro, run, tmp_path):
    command = ("prepare_gopro", "--input", gopro, "--output", tmp_path / "out", "--workers", "1")
    assert "(8 files copied, 0 were there already)" in run(*command).out
    before = times(tmp_path / "out")
    (tmp_path / "out/train/target/GOPR0372_07_00-000286.png").unlink()
    inodes = {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*.png")}
    outcome = run(*command)
    assert "(1 files copied, 7 were there already)" in outcome.out
    assert "(0 files copied, 4 were there already)" in outcome.out
    assert times(tmp_path / "out") == before
    assert all(path.stat().st_ino == inode for path, inode in inodes.items())
    assert contents(tmp_path / "out") == gopro_wanted(gopro)


@pytest.mark.parametrize("named", [True, False])
def test_gopro_one_split_alone(named, gopro, run, tmp_path, monkeypatch):
    monkeypatch.chdir(gopro / "test")
    source = gopro / "test" if named else "../test"
    assert run("prepare_gopro", "--input", source, "--output", tmp_path / "out", "--workers", "1").code == 0
    assert contents(tmp_path / "out") == {name: data for name, data in gopro_wanted(gopro).items() if name.startswith("test")}


def test_gopro_full_count_needs_no_warning(gopro, run, tmp_path, monkeypatch):
    outcome = run("prepare_gopro", "--input", gopro, "--output", tmp_path / "out", "--workers", "1")
    monkeypatch.setattr(gopro_archive, "EXPECTED", {"train": 4, "test": 2})
    assert outcome.out.count("warning") == 2
    outcome = run("prepare_gopro", "--input", gopro, "--output", tmp_path / "out", "--workers", "1")
    assert "warning" not in outcome.out


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


ARCHIVE_FAULTS = {
    "no partner": (lambda root: (root / "train/GOPR0372_07_00/blur/000286.png").unlink(), "GOPR0372_07_00/sharp/000286.png"),
    "no sharp folder": (lambda root: shutil.rmtree(root / "train/GOPR0372_07_00/sharp"), "sharp: GOPR0372_07_00."),
    "truncated": (lambda root: damage(root / "test/GOPR0384_11_00/blur/000286.png"), "000286.png: is a truncated PNG"),
    "no clips": (lambda root: shutil.rmtree(root), "GOPRO_Large does not exist"),
}


@pytest.mark.parametrize("case", ARCHIVE_FAULTS)
def test_a_bad_archive_is_one_sentence(case, gopro, run, tmp_path):
    change, says = ARCHIVE_FAULTS[case]
    change(gopro)
    outcome = run("prepare_gopro", "--input", gopro, "--output", tmp_path / "out", "--workers", "1")
    assert outcome.code == 2
    error = outcome.err[outcome.err.index("error: ") :]
    assert says in error
    assert error.count("\n") == 1
    # Train is placed before the frames of test are read; nothing may be half-written.
    assert all(gopro_wanted_part(gopro, name) == data for name, data in contents(tmp_path / "out").items())


def gopro_wanted_part(root: Path, name: str) -> bytes:
    split, side, file = name.split("/")
    clip, number = file.split("-")
    return (root / split / clip / {"input": "blur", "target": "sharp"}[side] / number).read_bytes()


def test_another_folder_is_not_an_archive(run, tmp_path):
    (tmp_path / "Downloads/music").mkdir(parents=True)
    outcome = run("prepare_gopro", "--input", tmp_path / "Downloads")
    assert outcome.code == 2
    assert "holds neither train nor test, but music; give the folder GOPRO_Large" in outcome.err


def test_files_of_other_contents_are_never_overwritten(gopro, run, tmp_path):
    mine = tmp_path / "out/train/input/GOPR0372_07_00-000285.png"
    write(mine, picture(99))
    before = contents(tmp_path / "out")
    outcome = run("prepare_gopro", "--input", gopro, "--output", tmp_path / "out", "--workers", "1")
    assert outcome.code == 2
    assert f"there with other contents: {mine}; remove" in outcome.err
    assert contents(tmp_path / "out") == before


def test_other_images_in_the_output_are_named(gopro, run, tmp_path):
    write(tmp_path / "out/train/input/holiday.png", picture(99))
    outcome = run("prepare_gopro", "--input", gopro, "--output", tmp_path / "out", "--workers", "1")
    assert outcome.code == 0
    assert "input holds other images, too: holiday.png" in outcome.out


@pytest.mark.parametrize(
    ("close", "far", "truth"),
    [
        ("test/test-close-ups", "test/test-long-shot", "GT"),
        ("test/test_close_ups", "test/Test-Long-Shot", "gt"),
        ("test", "test", "test/GT"),
        ("test-close-ups", "test-long-shot", "ground_truth"),
    ],
)
def test_hide(close, far, truth, run, tmp_path):
    root, wanted = tmp_path / "HIDE_dataset", {}
    for seed, (folder, name) in enumerate([(close, "11fromGOPR1096.MP4.png"), (far, "3fromGOPR0950.png")]):
        wanted[f"test/input/{name}"] = frame(root / folder / name, seed)
        wanted[f"test/target/{name}"] = frame(root / truth / name, seed + 10)
    frame(root / "train/9fromGOPR1.png", 20)
    frame(root / truth / "9fromGOPR1.png", 21)  # the training set's
    outcome = run("prepare_hide", "--input", root, "--output", tmp_path / "out", "--workers", "1")
    assert outcome.code == 0, outcome
    assert contents(tmp_path / "out") == wanted
    assert "2 pairs, but the published set has 2,025" in outcome.out


@pytest.mark.parametrize(
    ("remove", "says"),
    [("GT", "holds no folder GT"), ("test", "holds no folder test"), ("GT/a.png", "without a partner")],
)
def test_hide_with_a_part_missing(remove, says, run, tmp_path):
    for seed, name in enumerate(("test/test-close-ups/a.png", "test/test-long-shot/b.png", "GT/a.png", "GT/b.png")):
        frame(tmp_path / "HIDE" / name, seed)
    path = tmp_path / "HIDE" / remove
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    outcome = run("prepare_hide", "--input", tmp_path / "HIDE", "--output", tmp_path / "out")
    assert outcome.code == 2
    assert says in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def reds(tmp_path) -> Path:
    """val: two clips of 20 frames, blurred ones in JPEG; train: one clip of 2."""
    root, image = tmp_path / "REDS", picture(0, 16, 16)
    for split, clip, count in (("val", "000", 20), ("val", "029", 20), ("train", "239", 2)):
        for number in range(count):
            image[0, 0] = (number, int(clip), 0)
            write(root / f"{split}/{split}_blur_jpeg/{clip}/{number:08d}.jpg", 255 - image)
            write(root / f"{split}/{split}_sharp/{clip}/{number:08d}.png", image)
    return root


VAL_300 = ["000_00000009", "000_00000019", "029_00000009", "029_00000019"]


@pytest.mark.parametrize("nested", [True, False])
def test_reds(nested, reds, run, tmp_path):
    if not nested:  # unpacked without the folders val and train
        for split in ("val", "train"):
            for folder in (reds / split).iterdir():
                folder.rename(reds / folder.name)
    command = ("prepare_reds", "--input", reds, "--output", tmp_path / "out", "--workers", "1")
    outcome = run(*command)
    assert outcome.code == 0, outcome
    out = tmp_path / "out"
    source = next(reds.rglob("val_sharp"))
    for name in VAL_300:
        assert (out / f"val/sharp_300/{name}.png").read_bytes() == (source / f"{name.replace('_', '/')}.png").read_bytes()
    assert sorted(p.name for p in (out / "val/blur_300").iterdir()) == [f"{name}.jpg" for name in VAL_300]
    for side in ("blur_300", "sharp_300"):
        packed = LmdbStorage(out / f"val/{side}.lmdb", "x")
        assert packed.names() == VAL_300
        assert [packed.read_bytes(n) for n in VAL_300] == [p.read_bytes() for p in sorted((out / f"val/{side}").iterdir())]
    assert sorted(p.name for p in (out / "train/blur_jpeg").iterdir()) == ["239_00000000.jpg", "239_00000001.jpg"]
    assert sorted(p.name for p in (out / "train/sharp").iterdir()) == ["239_00000000.png", "239_00000001.png"]
    assert "4 pairs, but the published set has 300" in outcome.out
    before = times(out)
    outcome = run(*command)
    assert outcome.code == 0
    assert "complete and equal" in outcome.out
    assert times(out) == before


def test_reds_with_one_archive_of_two(reds, run, tmp_path):
    shutil.rmtree(reds / "val/val_sharp")
    outcome = run("prepare_reds", "--input", reds, "--output", tmp_path / "out")
    assert outcome.code == 2
    assert "val_blur_jpeg is there, but val_sharp is not" in outcome.err
    assert not (tmp_path / "out").exists()


# LMDB.


def noise_folder(folder: Path, count: int = 8) -> Path:
    """Images of 12 kB that do not compress."""
    for number in range(count):
        write(folder / f"{number:03d}.png", np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8))
    return folder


def packed(root: Path) -> dict[str, bytes]:
    """Read with lmdb alone."""
    with lmdb.open(str(root), readonly=True, lock=False) as env, env.begin() as transaction:
        return {key.decode(): value for key, value in transaction.cursor()}


def test_the_map_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "FIRST_MAP", 1 << 15)  # two images and a half
    folder = noise_folder(tmp_path / "in")
    assert write_lmdb(folder, tmp_path / "x.lmdb", progress=False) == 8
    assert packed(tmp_path / "x.lmdb") == {path.stem: path.read_bytes() for path in folder.iterdir()}
    assert (tmp_path / "x.lmdb/data.mdb").stat().st_size > 3 * (1 << 15)


class Interruption:
    """Lets so many batches pass, then acts like Ctrl-C; keeps the names of what was written."""

    def __init__(self, monkeypatch, after: int) -> None:
        self.written, self.left, self.commit = [], after, packing._commit
        monkeypatch.setattr(packing, "BATCH", 20_000)  # two images
        monkeypatch.setattr(packing, "_commit", self)

    def __call__(self, env, batch) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.commit(env, batch)
        self.written += batch


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch, caplog):
    folder = noise_folder(tmp_path / "in")
    first = Interruption(monkeypatch, after=2)
    with pytest.raises(KeyboardInterrupt):
        write_lmdb(folder, tmp_path / "x.lmdb", progress=False)
    assert first.written == ["000", "001", "002", "003"]
    assert not (tmp_path / "x.lmdb").exists()
    monkeypatch.setattr(packing, "_commit", first.commit)
    second = Interruption(monkeypatch, after=9)
    with caplog.at_level("INFO", "basicsr"):
        assert write_lmdb(folder, tmp_path / "x.lmdb", progress=False) == 8
    assert second.written == ["004", "005", "006", "007"]
    assert "4 of 8 images are packed" in caplog.text
    assert packed(tmp_path / "x.lmdb") == {path.stem: path.read_bytes() for path in folder.iterdir()}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "x.lmdb"]


def change_a_packed_file(folder: Path) -> None:
    write(folder / "001.png", picture(1))


def remove_a_packed_file(folder: Path) -> None:
    (folder / "001.png").unlink()


def cut_the_unfinished(folder: Path) -> None:
    file = folder.parent / ".x.lmdb.tmp/data.mdb"
    os.truncate(file, file.stat().st_size - 30_000)


def spoil_the_unfinished(folder: Path) -> None:
    (folder.parent / ".x.lmdb.tmp/data.mdb").write_bytes(b"no LMDB" * 5000)


@pytest.mark.parametrize("change", [change_a_packed_file, remove_a_packed_file, cut_the_unfinished, spoil_the_unfinished])
def test_what_is_unfinished_is_verified(change, tmp_path, monkeypatch):
    """Whatever happened to it or to the folder in between, the result is the folder's."""
    folder = noise_folder(tmp_path / "in")
    interruption = Interruption(monkeypatch, after=2)
    with pytest.raises(KeyboardInterrupt):
        write_lmdb(folder, tmp_path / "x.lmdb", progress=False)
    monkeypatch.setattr(packing, "_commit", interruption.commit)
    change(folder)
    write_lmdb(folder, tmp_path / "x.lmdb", progress=False)
    assert packed(tmp_path / "x.lmdb") == {path.stem: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_process_leaves_what_goes_on(tmp_path):
    """SIGKILL, by which nothing can be put in order."""
    folder = noise_folder(tmp_path / "in", 60)
    code = (
        "import sys, time, pathlib; from basicsr.data import packing; packing.BATCH = 20_000; commit = packing._commit\n"
        "packing._commit = lambda *a: (commit(*a), time.sleep(0.1))\n"
        "packing.write_lmdb(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, folder, tmp_path / "x.lmdb"], cwd=REPOSITORY)
    data = tmp_path / ".x.lmdb.tmp/data.mdb"
    deadline = time.monotonic() + 300  # only against waiting for ever: a busy machine may take a minute to start it
    while not data.exists() or data.stat().st_size < 200_000:  # a quarter
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    there = packed(tmp_path / ".x.lmdb.tmp")
    assert 4 < len(there) < 60
    assert write_lmdb(folder, tmp_path / "x.lmdb", progress=False) == 60
    assert packed(tmp_path / "x.lmdb") == {path.stem: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read_back(tmp_path, monkeypatch):
    """A commit that stores one wrong byte is found before the LMDB gets its name."""
    commit = packing._commit

    def wrong(env, batch):
        commit(env, {name: data[:-1] + b"?" if name == "003" else data for name, data in batch.items()})

    monkeypatch.setattr(packing, "_commit", wrong)
    with pytest.raises(UserError, match=r"what was read back differs from 003; run the same command again"):
        write_lmdb(noise_folder(tmp_path / "in"), tmp_path / "x.lmdb", progress=False)
    assert not (tmp_path / "x.lmdb").exists()
    monkeypatch.setattr(packing, "_commit", commit)
    assert write_lmdb(tmp_path / "in", tmp_path / "x.lmdb", progress=False) == 8


def test_all_damaged_images_are_named_at_once(tmp_path):
    folder = noise_folder(tmp_path / "in")
    damage(folder / "002.png")
    (folder / "005.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"002.png: is a truncated PNG file, .*005.png: is an empty file; replace"):
        write_lmdb(folder, tmp_path / "x.lmdb", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_finished_lmdb_is_left_alone(run, tmp_path):
    make_pairs(tmp_path)
    command = ("create_lmdb", "--input", tmp_path / "input", "--output", tmp_path / "x.lmdb", "--workers")
    assert run(*command, "1").code == 0
    before = times(tmp_path)
    outcome = run(*command, "2")
    assert outcome.code == 0
    assert "x.lmdb is complete and equal to" in outcome.out
    assert "3 images in" in outcome.out
    assert times(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: write(folder / "d.png", picture(9)), "d is not in it"),
        (lambda folder: (folder / "b.png").unlink(), "b is in it alone"),
        (lambda folder: write(folder / "b.png", picture(9)), "b has other contents"),
    ],
)
def test_a_different_lmdb_is_not_touched(change, says, run, tmp_path):
    make_pairs(tmp_path)
    command = ("create_lmdb", "--input", tmp_path / "input", "--output", tmp_path / "x.lmdb", "--workers", "1")
    assert run(*command).code == 0
    change(tmp_path / "input")
    before = contents(tmp_path / "x.lmdb")
    outcome = run(*command)
    assert outcome.code == 2
    assert "x.lmdb: exists already and differs from" in outcome.err
    assert says in outcome.err
    assert contents(tmp_path / "x.lmdb") == before


def test_a_cut_lmdb_is_refused_before_it_ends_the_process(tmp_path):
    write_lmdb(noise_folder(tmp_path / "in"), tmp_path / "x.lmdb", progress=False)
    os.truncate(tmp_path / "x.lmdb/data.mdb", 40_000)
    with pytest.raises(UserError, match=r"x: .*x.lmdb is truncated: data.mdb ends before its last page"):
        LmdbStorage(tmp_path / "x.lmdb", "x")


def test_names_too_long_for_a_key(tmp_path):
    write(tmp_path / "in" / ("a" * 200) / ("b" * 200) / ("c" * 200 + ".png"), picture(1))
    with pytest.raises(UserError, match="longer than the 511 bytes"):
        write_lmdb(tmp_path / "in", tmp_path / "x.lmdb", progress=False)


# Crops.


@pytest.fixture
def crops(run, tmp_path):
    """extract() of tmp/in into tmp/out with crops of 16 every 16."""
    write(tmp_path / "in/f.png", picture(1, 32, 32))
    write(tmp_path / "in/sub/g.png", picture(2, 32, 48))

    def extract(*more: str | Path):
        arguments = {"--input": tmp_path / "in", "--output": tmp_path / "out", "--crop_size": 16, "--step": 16, "--workers": 1}
        flat = [x for pair in arguments.items() for x in pair]
        return run("extract_subimages", *flat, *more)

    return extract


def test_crops_second_run_cuts_what_is_missing_or_damaged(crops, tmp_path):
    outcome = crops()
    assert "10 crops in" in outcome.out
    assert "10 cut now, 0 were there already" in outcome.out
    first, before = contents(tmp_path / "out"), times(tmp_path / "out")
    assert "0 cut now, 10 were there already" in crops().out
    assert changed(before, times(tmp_path / "out")) == {"extract_subimages.json"}
    (tmp_path / "out/f_s002.png").unlink()
    assert "4 cut now, 6 were there already" in crops().out
    damage(tmp_path / "out/sub/g_s006.png")
    assert "6 cut now, 4 were there already" in crops().out
    assert contents(tmp_path / "out") == first


def test_crops_of_a_changed_image_are_cut_again(crops, tmp_path):
    crops()
    crop = tmp_path / "out/f_s001.png"
    old = crop.read_bytes()
    other = write(tmp_path / "other.png", picture(5, 16, 48))
    os.utime(other, (1, 1))  # an old picture that takes the place of a newer one
    other.replace(tmp_path / "in/f.png")
    outcome = crops()
    assert "9 crops in" in outcome.out
    assert crop.read_bytes() != old
    np.testing.assert_array_equal(cv2.imread(str(crop))[..., ::-1], picture(5, 16, 48)[:, :16])
    # The smaller image has one crop less, and the larger one's last is not left behind.
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == ["f_s001.png", "f_s002.png", "f_s003.png"]


def test_crops_of_two_settings_do_not_mix(crops, tmp_path):
    crops()
    first = contents(tmp_path / "out")
    outcome = crops("--step", "8")
    assert outcome.code == 2
    assert "made with other settings" in outcome.err
    assert contents(tmp_path / "out") == first
    assert crops("--step", "32", "--overwrite").code == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4 + 4  # the first of 10 are gone
    assert crops("--crop_size", "32", "--step", "32", "--overwrite").code == 0
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.png")) == ["f_s001.png", "g_s001.png", "g_s002.png"]


def test_crops_are_not_cut_into_their_own_input(crops, tmp_path):
    for folder in ("in", "in/crops"):
        outcome = crops("--output", tmp_path / folder)
        assert outcome.code == 2
        assert "lies in the input folder" in outcome.err
    assert sorted(contents(tmp_path / "in")) == ["f.png", "sub/g.png"]


def test_training_pairs_twice(run, tmp_path):
    for seed, name in enumerate("abc"):
        write(tmp_path / f"photos/{name}.png", picture(seed, 64, 64))
    command = ["make_training_pairs", "--input", tmp_path / "photos", "--output", tmp_path / "out"]
    command += ["--crop", "32", "--val_crop", "48", "--workers", "1"]
    assert run(*command, "--val", "a").code == 0
    first = contents(tmp_path / "out")
    assert {Path(name).parent.as_posix() for name in first} == {
        f"{part}/{side}" for part in ("train", "val") for side in ("input_noise", "target")
    }
    (tmp_path / "out/train/input_noise/b_s001.png").unlink()
    assert run(*command, "--val", "a").code == 0
    assert contents(tmp_path / "out") == first
    for other in (("--val", "b"), ("--val", "a", "--seed", "7"), ("--val", "a", "--crop", "16")):
        outcome = run(*command, *other)
        assert outcome.code == 2
        assert "made with other settings" in outcome.err
        assert contents(tmp_path / "out") == first
    assert run(*command, "--val", "b", "--overwrite").code == 0
    names = {part: {p.stem[0] for p in (tmp_path / f"out/{part}").rglob("*.png")} for part in ("train", "val")}
    assert names == {"train": {"a", "c"}, "val": {"b"}}  # b is not in both


def test_degrade_tells_what_was_done(run, tmp_path):
    write(tmp_path / "photos/a.png", picture(1, 64, 64))
    write(tmp_path / "photos/b.png", picture(2, 64, 64))
    command = ("degrade", "--input", tmp_path / "photos", "--output", tmp_path / "out", "--kind", "noise", "--workers", "1")
    first = run(*command)
    assert "2 pictures in" in first.out
    assert "2 made now, 0 were there already" in first.out
    (tmp_path / "out/a.png").unlink()
    assert "1 made now, 1 were there already" in run(*command).out
    wrong = run(*command, "--seed", "5")
    assert wrong.code == 2
    assert wrong.err.startswith("error: ")
    assert wrong.err.count("\n") == 1
