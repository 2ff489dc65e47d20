"""Two folders of images: which belong together, and what the pairs are called."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Literal

from basicsr.errors import UserError, did_you_mean, first_ten
from basicsr.utils.files import read_bytes

Pair = tuple[str, str]  # names of ground truth and degraded image
PairBy = Literal["name", "position"]


@dataclass(frozen=True)
class Pairing:
    """How names of degraded images follow from those of their ground truths.

    filename_tmpl: the degraded image's name, `{}` standing for what both share; `*` in it stands for anything, so that many
        degraded images may have one ground truth.
    filename_tmpl_gt: the ground truth's name, likewise, without `*`.
    meta_info_file: lists the pairs, and these alone are taken; one for each of the `folders`.
    folders: what the names in each of several folders begin with, see `folder_names`.
    pair_by: 'position' where names say nothing: the first of one side belongs to the first of the other, in natural order.

    Raises:
        UserError: a template without its `{}`; another number of lists than of folders; templates or lists by position.
    """

    filename_tmpl: str = "{}"
    filename_tmpl_gt: str = "{}"
    meta_info_file: tuple[Path, ...] = ()
    folders: tuple[str, ...] = ("",)
    pair_by: PairBy = "name"

    def __post_init__(self) -> None:
        for word in ("filename_tmpl", "filename_tmpl_gt"):
            if (template := getattr(self, word)).count("{}") != 1:
                raise UserError(f"{word} is {template!r}, but must hold {{}} once, the place of what both names share.")
        if "*" in self.filename_tmpl_gt:
            raise UserError(f"filename_tmpl_gt is {self.filename_tmpl_gt!r}, but * may stand in filename_tmpl alone.")
        if self.meta_info_file and len(self.meta_info_file) != len(self.folders):
            raise UserError(
                f"meta_info_file names {len(self.meta_info_file)} files for {len(self.folders)} folders; name one for each."
            )
        if self.pair_by == "position" and (self.meta_info_file or {self.filename_tmpl, self.filename_tmpl_gt} != {"{}"}):
            raise UserError("pair_by is position, where names say nothing: leave filename_tmpl and meta_info_file out.")

    def match(self, gt_names: Iterable[str], lq_names: Iterable[str]) -> tuple[list[Pair], list[str], list[str]]:
        """The pairs in order, then the ground truths and the degraded images without a partner, which lists leave out.

        Raises:
            UserError: a degraded image that fits several ground truths; a list with names that are not there; sides that are
                not equally many, by position.
        """
        if self.pair_by == "position":
            return by_position(self.folders, {"dataroot_gt": list(gt_names), "dataroot_lq": list(lq_names)}), [], []
        gt_names, lq_names = sorted(gt_names), sorted(lq_names)
        if self.meta_info_file:
            listed = [self._listed(*part, gt_names, lq_names) for part in zip(self.meta_info_file, self.folders, strict=True)]
            return [pair for pairs in listed for pair in pairs], [], []
        shared = {core: name for name in gt_names if (core := self._core(name))}
        found = defaultdict(list)
        for name in lq_names:
            found[self._truth_of(name, shared)].append(name)
        alone_lq = found.pop(None, [])
        pairs = [(gt, lq) for gt in gt_names for lq in found[gt]]
        alone_gt = [name for name in gt_names if not found[name]]
        if gt_names == lq_names and self.filename_tmpl != self.filename_tmpl_gt:  # one folder holds both sides
            truths, degraded = ({pair[side] for pair in pairs} for side in (0, 1))
            return pairs, [n for n in alone_gt if n not in degraded], [n for n in alone_lq if n not in truths | set(alone_gt)]
        return pairs, alone_gt, alone_lq

    def _core(self, gt_name: str) -> Pair | None:
        """The folder, and what a ground truth's name shares with the degraded image's; None where it does not fit."""
        folder, _, stem = gt_name.rpartition("/")
        before, after = self.filename_tmpl_gt.split("{}")
        core = stem.removeprefix(before).removesuffix(after)
        return (folder, core) if core and stem == before + core + after else None

    def _truth_of(self, lq_name: str, shared: Mapping[Pair, str]) -> str | None:
        """The ground truth that a degraded image belongs to."""
        folder, _, stem = lq_name.rpartition("/")
        before, after = self.filename_tmpl.split("{}")
        starts = [i for i in ([len(before)] if "*" not in before else range(len(stem))) if _fits(before, stem[:i])]
        ends = [
            i for i in ([len(stem) - len(after)] if "*" not in after else range(1, len(stem) + 1)) if _fits(after, stem[i:])
        ]
        fits = sorted({shared[folder, stem[i:j]] for i in starts for j in ends if (folder, stem[i:j]) in shared})
        if len(fits) > 1:
            raise UserError(
                f"filename_tmpl {self.filename_tmpl!r}: {lq_name} fits several ground truths, {first_ten(fits)}; "
                "list the pairs in a meta_info_file."
            )
        return fits[0] if fits else None

    def _listed(self, file: Path, folder: str, gt_names: list[str], lq_names: list[str]) -> list[Pair]:
        """The pairs of a list, a line each: the two files, relative to their folders, or that of the ground truth alone."""
        known = {"dataroot_gt": set(gt_names), "dataroot_lq": set(lq_names)}
        pairs: dict[Pair, int] = {}
        faults = []
        for number, names in _lines(file):
            if len(names) == 1:
                core = self._core(_known_name(folder + names[0], known["dataroot_gt"]))
                partner = core and "/".join(filter(None, (core[0], self.filename_tmpl.replace("{}", core[1]))))
                names = (names[0], (partner or "?").removeprefix(folder))
            pair = tuple(_known_name(folder + name, have) for name, have in zip(names, known.values(), strict=True))
            absent = [(root, name) for (root, have), name in zip(known.items(), pair, strict=True) if name not in have]
            nearest = {name: did_you_mean(name, known[root]) for root, name in absent}
            faults += [f"line {number}: {root} has no `{name}`{nearest[name]}" for root, name in absent]
            if (first := pairs.setdefault(pair, number)) != number:
                faults.append(f"line {number} repeats line {first}")
        if faults or not pairs:
            raise UserError(f"meta_info_file {file}: {first_ten(faults) or 'lists no pairs'}; correct the list.")
        return list(pairs)


def natural_order(name: str) -> list[str | int]:
    """What names are sorted by so that 2 comes before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def by_position(folders: Sequence[str], sides: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Names at the same place of each side's natural order, folder by folder; UserError unless sides are equally many.

    Args:
        sides: names by the option that gave them.
    """
    found = []
    for folder in folders:
        parts = [sorted((name for name in side if name.startswith(folder)), key=natural_order) for side in sides.values()]
        if len({len(part) for part in parts}) > 1:
            counts = ", ".join(f"{word} {len(part)}" for word, part in zip(sides, parts, strict=True))
            inside = f" in {folder.rstrip('/')}" if folder else ""
            raise UserError(
                f"pair_by: position needs as many images on every side, but there are{inside}: {counts}; add what is missing, "
                "or pair by name."
            )
        found += zip(*parts, strict=True)
    return found


def _fits(pattern: str, text: str) -> bool:
    """Whether a text is a pattern in which `*` is anything."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None if "*" in pattern else pattern == text


def _lines(file: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The number of a line, and its one or two names; a size behind them, as BasicSR's lists have, is left out."""
    try:
        text = read_bytes(file).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UserError(f"meta_info_file {file}: cannot be read ({why}).") from None
    for number, line in enumerate(text.splitlines(), start=1):
        line = re.sub(r"\s*\(\d+,\s*\d+(,\s*\d+)?\)(\s+\d+)?\s*$", "", line)
        separator = next((sign for sign in ("\t", ",") if sign in line), None)
        names = tuple(name.strip().replace("\\", "/").removeprefix("./") for name in line.split(separator))
        if not any(names):
            continue
        if len(names) > 2 or not all(names):
            raise UserError(
                f"meta_info_file {file}, line {number}: {line!r} is not one name or two; write a tab or a comma between them."
            )
        yield number, names


def _known_name(file: str, known: set[str]) -> str:
    """An image's name: with or without its suffix in the list."""
    return file if file in known else re.sub(r"\.\w+$", "", file)


def folder_names(roots: Sequence[Path]) -> tuple[str, ...]:
    """What names begin with where there are several folders: the last part of their paths in which they differ, and a slash."""
    if len(roots) == 1:
        return ("",)
    for part in range(1, min(len(root.parts) for root in roots) + 1):
        names = [root.parts[-part] for root in roots]
        if len(set(names)) == len(names) and ".." not in names:  # pictures are written under these names
            return tuple(f"{name}/" for name in names)
    return tuple(f"{number}/" for number in range(1, len(roots) + 1))


def name_of_pairs(gt: Path, lq: Path) -> str:
    """What tables call the pairs: the folder that holds both, without the words that every data set has."""
    parts = [part for part in (gt.parent if gt.parent == lq.parent else gt).parts[1:] if part not in ("train", "val", "test")]
    return parts[-1] if parts else "pairs"


def templates(gt_names: Sequence[str], lq_names: Sequence[str]) -> dict[str, str]:
    """The templates of a `Pairing` that leaves nobody alone, as far as they differ from '{}'; none where none does."""
    for found in _candidates(sorted(gt_names), sorted(lq_names)):
        try:
            if Pairing(**found).match(gt_names, lq_names)[1:] == ([], []):
                return {word: template for word, template in found.items() if template != "{}"}
        except UserError:  # a degraded image fits several
            continue
    return {}


def _candidates(gt_names: list[str], lq_names: list[str]) -> Iterator[dict[str, str]]:
    """Templates by which the first ground truth would belong to one of the degraded images, the likeliest first."""
    yield {"filename_tmpl": "{}"}
    stems = [name.rpartition("/")[2] for name in lq_names]
    first = gt_names[0].rpartition("/")[2]
    yield from ({"filename_tmpl": stem.replace(first, "{}", 1)} for stem in stems if first in stem)
    if len(gt_names) == len(lq_names):
        # Both sides say more than what they share; the likeliest partner is the one at the same place of the order.
        for stem in stems[:10]:
            start, at, size = SequenceMatcher(None, first, stem, autojunk=False).find_longest_match()
            for i, j, n in ((start, at, size), *_shared_numbers(first, stem)):
                if n:
                    yield {
                        "filename_tmpl": f"{stem[:j]}{{}}{stem[j + n :]}",
                        "filename_tmpl_gt": f"{first[:i]}{{}}{first[i + n :]}",
                    }
    if len(gt_names) < len(lq_names):
        separators = Counter(stem[len(first)] for stem in stems if stem.startswith(first) and len(stem) > len(first))
        yield from ({"filename_tmpl": f"{{}}{sign}*"} for sign, _ in separators.most_common())


def _shared_numbers(first: str, second: str) -> Iterator[tuple[int, int, int]]:
    """Places and length of the numbers that two names share."""
    for a in re.finditer(r"\d+", first):
        for b in re.finditer(r"\d+", second):
            if a[0] == b[0]:
                yield a.start(), b.start(), len(a[0])
