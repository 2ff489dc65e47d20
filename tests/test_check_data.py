"""tlc check-data: every fault of a data set is found, named by its file, and nothing else is."""

import csv
import os
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from conftest import Outcome, make_pairs, picture, write, write_yaml

from basicsr.data.packing import write_lmdb

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def check(run):
    """check("--gt", ...): the command, in this process."""

    def call(*args: str | Path) -> Outcome:
        workers = () if "--workers" in args else ("--workers", "1")
        return run("check-data", *args, *workers)

    return call


@pytest.fixture
def pairs(tmp_path) -> Path:
    return make_pairs(tmp_path / "Set", names=NAMES)


def sides(folder: Path) -> tuple[str | Path, ...]:
    return "--gt", folder / "target", "--lq", folder / "input"


def found(outcome: Outcome, folder: Path) -> list[str]:
    """'problem: side/file' of every line that reports one."""
    lines = [line for line in outcome.out.splitlines() if f": {folder}" in line]
    parts = [line.split(f"{folder}/", 1) for line in lines]
    return [f"{before.split(': ')[-2]}: {after.split(': ')[0]}" for before, after in parts]


def test_a_clean_set(check, pairs, tmp_path):
    outcome = check(*sides(pairs), "--crop", "24", "--csv", tmp_path / "problems.csv")
    assert outcome.code == 0
    assert found(outcome, pairs) == []
    size = sum(path.stat().st_size for path in pairs.rglob("*.png"))
    assert f"4 pairs, 8 files, {size / 1e9:.3g} GB; sizes: 32x24 (4); problems: none" in outcome.out
    assert (tmp_path / "problems.csv").read_text().split() == ["data_set,problem,file,detail"]


def no_partner(folder: Path) -> None:
    (folder / "input/b.png").rename(folder / "input/e.png")


def another_size(folder: Path) -> None:
    write(folder / "input/b.png", picture(1, 24, 31))


def grey(folder: Path) -> None:
    write(folder / "input/b.png", cv2.cvtColor(picture(1), cv2.COLOR_RGB2GRAY))


def deep(folder: Path) -> None:
    write(folder / "input/b.png", picture(1, dtype=np.uint16) // 2)


def alpha(folder: Path) -> None:
    write(folder / "input/b.png", np.dstack([picture(1) // 2, picture(1)[..., 0]]))


def cut(folder: Path) -> None:
    (folder / "input/b.png").write_bytes((folder / "input/b.png").read_bytes()[:-30])


def flipped_bits(folder: Path) -> None:
    """Header and end are whole; only decoding tells."""
    data = bytearray((folder / "target/b.png").read_bytes())
    data[len(data) // 2] ^= 0x55
    (folder / "target/b.png").write_bytes(data)


def hole_in_a_jpeg(folder: Path) -> None:
    data = cv2.imencode(".jpg", picture(1, 24, 32)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    (folder / "target/b.png").unlink()
    (folder / "target/b.jpg").write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 300 :])


def empty(folder: Path) -> None:
    (folder / "input/b.png").write_bytes(b"")


def text(folder: Path) -> None:
    (folder / "input/b.png").write_text("<html>404</html>")


def dangling(folder: Path) -> None:
    (folder / "input/b.png").unlink()
    os.symlink(folder / "nothing.png", folder / "input/b.png")


def equal(folder: Path) -> None:
    """The same pixels in another file."""
    image = cv2.imread(str(folder / "target/b.png"))
    cv2.imwrite(str(folder / "input/b.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 0])


def negative(folder: Path) -> None:
    square = np.zeros((24, 32, 3), np.uint8)
    write(folder / "target/b.png", square)
    write(folder / "input/b.png", square + 200)


def copy(folder: Path) -> None:
    for side in ("target", "input"):
        (folder / side / "d.png").write_bytes((folder / side / "b.png").read_bytes())


FAULTS = {
    no_partner: ["no degraded image: target/b.png", "no ground truth: input/e.png"],
    another_size: ["different sizes: input/b.png"],
    grey: ["different formats: input/b.png"],
    deep: ["different formats: input/b.png"],
    alpha: ["different formats: input/b.png"],
    cut: ["unreadable: input/b.png"],
    flipped_bits: ["damaged: target/b.png"],
    hole_in_a_jpeg: ["damaged: target/b.jpg"],
    empty: ["empty file: input/b.png"],
    text: ["unreadable: input/b.png"],
    dangling: ["unreadable: input/b.png"],
    equal: ["equal to its ground truth: input/b.png"],
    negative: ["unlike its ground truth: input/b.png"],
    copy: ["duplicate: target/d.png", "duplicate: input/d.png"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_alone(fault, check, pairs):
    fault(pairs)
    outcome = check(*sides(pairs))
    assert outcome.code == 2
    assert found(outcome, pairs) == FAULTS[fault]
    assert f"problems: {len(FAULTS[fault])}" in outcome.out
    assert "Traceback" not in outcome.err


def test_all_faults_at_once_and_in_the_table(check, pairs, tmp_path):
    """More than the ten that a message names, in several processes."""
    make_pairs(pairs, names=tuple(f"more{n:02d}" for n in range(20)))
    for number in range(12):
        (pairs / f"input/more{number:02d}.png").write_bytes(b"")
    write(pairs / "input/c.png", picture(1, 24, 31))
    outcome = check(*sides(pairs), "--crop", "32", "--csv", tmp_path / "sub/problems.csv", "--workers", "2")
    assert outcome.code == 2
    with open(tmp_path / "sub/problems.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = [row["problem"] for row in rows]
    # more00 to more03 show what a to d show; their degraded sides are among the twelve empty ones.
    assert kinds.count("empty file") == 12
    assert kinds.count("different sizes") == 1
    assert kinds.count("smaller than the crop") == 24 + 12
    assert kinds.count("duplicate") == 4
    assert len(found(outcome, pairs)) == len(rows) == 12 + 1 + 36 + 4
    different = next(row for row in rows if row["problem"] == "different sizes")
    assert (different["file"], different["detail"]) == (str(pairs / "input/c.png"), "31x24, its ground truth 32x24")


def test_the_threshold_of_unlike_pairs(check, pairs):
    """White noise of 12 of 255 is 26.5 dB."""
    assert check(*sides(pairs), "--min_psnr", "25").code == 0
    outcome = check(*sides(pairs), "--min_psnr", "28")
    assert found(outcome, pairs) == [f"unlike its ground truth: input/{name}.png" for name in NAMES]
    assert "PSNR 26." in outcome.out


def test_name_patterns_and_one_side_alone(check, pairs):
    for path in sorted((pairs / "input").iterdir()):
        path.rename(path.with_name(f"{path.stem}_blur.png"))
    assert check(*sides(pairs), "--filename_tmpl", "{}_blur").code == 0
    assert check(*sides(pairs)).code == 0  # found
    assert len(found(check(*sides(pairs), "--filename_tmpl", "{}"), pairs)) == 8
    outcome = check("--gt", pairs / "target", "--crop", "25")
    assert found(outcome, pairs) == [f"smaller than the crop: target/{name}.png" for name in NAMES]
    assert check("--gt", pairs / "target").code == 0


def test_lmdbs(check, pairs, tmp_path):
    for side in ("target", "input"):
        write_lmdb(pairs / side, tmp_path / f"{side}.lmdb", progress=False)
    args = ("--gt", tmp_path / "target.lmdb", "--lq", tmp_path / "input.lmdb")
    outcome = check(*args)
    assert outcome.code == 0
    assert "4 pairs, 8 files" in outcome.out
    with lmdb.open(str(tmp_path / "input.lmdb"), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        transaction.put(b"b", transaction.get(b"b")[:-30])
        transaction.put(b"c", cv2.imencode(".png", picture(2, 23, 32))[1].tobytes())
    outcome = check(*args)
    assert outcome.code == 2
    assert f"unreadable: {tmp_path}/input.lmdb:b: is a truncated PNG file" in outcome.out
    assert f"wrong size: {tmp_path}/input.lmdb:c: 32x23, but 32x24 in" in outcome.out
    assert f"different sizes: {tmp_path}/input.lmdb:c: 32x23, its ground truth 32x24" in outcome.out
    assert "problems: 3" in outcome.out


@pytest.mark.parametrize("progressive", [False, True])
def test_the_data_sets_of_a_yaml_file(progressive, check, root, train_options):
    """Crops and roots as in the file; what cannot be opened is reported beside the rest."""
    make_pairs(root / "datasets/Set", names=NAMES)
    train = train_options["datasets"]["train"]
    file = root / "opt.yml"
    assert check("-opt", write_yaml(file, train_options)).code == 0
    train["gt_size"] = 30
    if progressive:
        train["progressive"] = [{"iters": 3, "gt_size": 16, "batch_size": 2}, {"iters": 3, "gt_size": 30, "batch_size": 2}]
        del train["gt_size"]
    train_options["datasets"]["val"] = {"name": "Other", "dataroot_gt": "datasets/Set/target", "dataroot_lq": "datasets/None"}
    (root / "datasets/Set/input/b.png").write_bytes(b"")
    outcome = check("-opt", write_yaml(file, train_options))
    assert outcome.code == 2
    lines = [line.split(": ")[:3] for line in outcome.out.splitlines()]
    assert lines[0] == ["Other", "cannot be opened", "datasets/None"]
    assert lines[1][:2] == ["Set", "smaller than the crop"]
    assert "problems: 8" in outcome.out  # seven are too small, one is empty
    assert check("-opt", file, "--crop", "8").out.count("smaller than") == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "give --gt and --lq, or -opt"),
        (("--gt", "nothing"), "--gt: the folder nothing does not exist"),
        (("--gt", "Set/target/a.png"), "--gt: Set/target/a.png is a file; name the folder that holds it"),
        (("--gt", "Set/target", "--lq", "x.lmdb"), "--lq: x.lmdb is no LMDB"),
        (("--gt", "Set/target", "--lq", "Set/input", "--filename_tmpl", "blur"), "must hold {}"),
        (("--gt", "Set/target", "-opt", "x.yml"), "leave out --gt and --lq"),
        (("-opt", "x.yml"), "there is no such options file"),
        (("--gt", "Set/target", "--workers", "0"), "--workers: '0'"),
        (("--gt", "Set/target", "--csv", "Set"), "Set: cannot be written"),
    ],
)
def test_mistakes_are_one_sentence(args, says, check, pairs, root):
    outcome = check(*args)
    assert outcome.code == 2
    error = outcome.err[outcome.err.index("error: ") :]
    assert says in error
    assert error.count("\n") == 1
