"""Bring the test sets of the RealBlur archive into the toolbox's layout.

The pairs that <input>/RealBlur_J_test_list.txt names, one a line, such as `…/scene001/gt/gt_1.png …/scene001/blur/blur_1.png`,
become <output>/RealBlur_J/test/{input,target}/scene001_blur_1.png; RealBlur_R likewise. Safe to run twice.
"""

from collections.abc import Iterator
from pathlib import Path

from basicsr.engine.preparing.archives import Pair, contents, place
from basicsr.errors import UserError, first_ten

EXPECTED = 980
SETS = ("RealBlur_J", "RealBlur_R")


def pairs(root: Path, listed: Path) -> list[Pair]:
    found, absent = [], []
    for number, line in enumerate(listed.read_text(encoding="utf-8").splitlines(), start=1):
        files = {side: next((word for word in line.split() if f"/{side}/" in word), None) for side in ("blur", "gt")}
        if not line.strip():
            continue
        if None in files.values():
            raise UserError(f"--input: {listed}, line {number}: {line!r} names no pair of .../gt/... and .../blur/... .")
        blur, truth = root / files["blur"], root / files["gt"]
        absent += [str(path) for path in (blur, truth) if not path.is_file()]
        found.append(Pair(f"{blur.parent.parent.name}_{blur.stem}", blur, truth))
    if absent or not found:
        raise UserError(f"--input: {listed} lists what is not there: {first_ten(absent) or 'nothing at all'}; unpack it again.")
    return found


def prepare(root: Path, output: Path, *, link: bool = False, workers: int | None = None) -> Iterator[str]:
    """As `gopro.prepare`."""
    lists = {name: root / f"{name}_test_list.txt" for name in SETS if (root / f"{name}_test_list.txt").is_file()}
    if not lists:
        raise UserError(
            f"--input: {root} holds no RealBlur_J_test_list.txt or RealBlur_R_test_list.txt, but the folders {contents(root)}; "
            "give the folder RealBlur."
        )
    found = {name: pairs(root, listed) for name, listed in lists.items()}
    for name, pictures in found.items():
        folders = [output / name / "test" / side for side in ("input", "target")]
        yield place(pictures, *folders, expected=EXPECTED, link=link, workers=workers)
