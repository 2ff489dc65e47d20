"""Measure what TLC gains with the bundled networks and photographs; write it into docs/evidence.md, README.md, figures/ and
the model cards.

    python scripts/evidence.py
    python scripts/evidence.py --nets NAFNet HINet --tasks SampleNoise --no_sweep

Every network of options/test/Sample/<Net>Local-<Task>.yml whose weights are there runs plain, with TLC, on overlapped patches
of its training size (`val.grids`), and with windows of 1 to 4 times that size (`base_size`). What has been measured is kept
in results/evidence/ picture by picture: an interrupted run goes on, and a repeated one only writes. What the networks made of
the photographs, plain and with TLC, is kept in results/evidence/pictures/; the picture at the top of the README is cut out of
it. --nets and --tasks choose what is measured now; what is written holds everything that has been measured.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # another package may be installed under the name basicsr

import basicsr  # noqa: F401 - before torch: it says how threads wait and memory is kept

# isort: split

from gains.best_seen import FIGURE, caption, draw_view, find_view
from gains.cases import FOLDER, Case, find_cases
from gains.figures import BASE_SIZE_FIGURE, FIGURES, GAIN_FIGURE, draw_base_size, draw_gains
from gains.measure import Evidence, collect, measure, open_jobs
from gains.tables import MARKERS, PAGE, PICTURE, card_block, page_block, readme_block, refresh, replaced, write_csv

from basicsr.errors import UserError, did_you_mean
from basicsr.options import display, resolve
from basicsr.utils.files import write_bytes
from basicsr.utils.log import logger, run_entry_point

SWEEP_IMAGES = 6  # every second photograph: with all eight networks about an hour on two CPU cores


def chosen(cases: Sequence[Case], missing: Sequence[str], nets: list[str] | None, tasks: list[str] | None) -> list[Case]:
    known = [name.split(" ")[0] for name in missing] + [case.name for case in cases]
    for option, words, place in (("--nets", nets, 0), ("--tasks", tasks, 1)):
        names = dict.fromkeys(name.split("-", 1)[place] for name in known)
        for word in words or []:
            if word not in names:
                raise UserError(f"{option} {word}: no such name.{did_you_mean(word, names)} Known: {', '.join(names)}.")
    pairs = {name: name.split("-", 1) for name in known}
    named = [name for name, (net, task) in pairs.items() if net in (nets or [net]) and task in (tasks or [task])]
    if known and not named:
        raise UserError(f"--nets and --tasks: there is no such pair. Known: {', '.join(known)}.")
    return [case for case in cases if case.name in named]


def write_all(evidence: Sequence[Evidence], missing: Sequence[str]) -> None:
    written = [resolve(FOLDER) / "evidence.csv", resolve(FIGURES) / GAIN_FIGURE, resolve(PAGE), resolve("README.md")]
    write_csv(written[0], evidence)
    draw_gains(written[1], evidence)
    if swept := [e for e in evidence if e.sweep]:
        written.append(resolve(FIGURES) / BASE_SIZE_FIGURE)
        draw_base_size(written[-1], swept)
    refresh(resolve(PAGE), page_block(evidence, missing))
    refresh(resolve("README.md"), readme_block(evidence))
    if view := find_view(evidence):
        written.append(resolve(FIGURES) / FIGURE)
        write_bytes(written[-1], draw_view(view))
        refresh(resolve("README.md"), caption(view, f"{FIGURES}/{FIGURE}"), PICTURE)
    for e in evidence:
        card = e.case.weights.with_suffix(".md")
        if card.is_file():
            refresh(card, card_block(e), create=True)
            written.append(card)
        else:
            logger.warning("%s has no card: there is no %s.", e.case.name, display(card))
    logger.info("Written: %s", ", ".join(display(file) for file in written))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", metavar="NET", help="measure these networks alone")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="measure these tasks alone")
    parser.add_argument("--sweep_images", type=int, default=SWEEP_IMAGES, help="pictures of the sweep (default: %(default)s)")
    parser.add_argument("--no_sweep", action="store_true", help="do not measure other windows")
    parser.add_argument("--force", action="store_true", help="measure again what has been measured")
    args = parser.parse_args()
    if args.sweep_images < 1:
        raise UserError(f"--sweep_images {args.sweep_images}: must be positive; --no_sweep leaves the sweep out.")
    for name, markers in (("README.md", MARKERS), ("README.md", PICTURE), (PAGE, MARKERS)):  # now, not in an hour
        page = resolve(name)
        replaced(page.read_text(encoding="utf-8") if page.is_file() else "", "", display(page), markers)
    cases, missing = find_cases()
    cases_now = chosen(cases, missing, args.nets, args.tasks)
    for name in missing:
        logger.warning("not measured: %s", name)
    if args.force:
        again = {s.file for case in cases_now for s in case.settings if s.mode != "sweep" or not args.no_sweep}
        for file in again:
            file.unlink(missing_ok=True)
    measure(open_jobs(cases_now, not args.no_sweep, args.sweep_images).values())
    collected = {case.name: collect(case, args.sweep_images) for case in cases}
    missing += [f"{name} (not measured yet)" for name, e in collected.items() if e is None]
    if not (evidence := [e for e in collected.values() if e]):
        raise UserError(f"nothing was measured: {'; '.join(missing)}.")
    write_all(evidence, missing)
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
