"""Parts of a data set that figures are published for, such as DPDD's indoor and outdoor scenes: by files of positions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from basicsr.data.pairs import natural_order
from basicsr.errors import UserError, first_ten


def groups_of(names: Sequence[str], files: Mapping[str, Path], where: str) -> dict[str, frozenset[str]]:
    """The names of the images of each group.

    Args:
        names: of all images.
        files: by group, a .npy file of whole numbers, or a text file of them: positions in the natural
            order of the names (2 before 10), as in DPDD's label files, THE FIRST ONE IS 1.
        where: the YAML path to blame.

    Raises:
        UserError: a file that is not there or holds something else; a position that is none.
    """
    found, names = {}, sorted(names, key=natural_order)
    for group, file in files.items():
        blamed = f"{where}.{group}.labels"
        positions = _positions(file, blamed)
        if outside := [str(position) for position in positions if not 1 <= position <= len(names)]:
            raise UserError(f"{blamed}: {file} holds {first_ten(outside)}, but the positions are 1 to {len(names)}.")
        found[group] = frozenset(names[position - 1] for position in positions)
    return found


def _positions(file: Path, where: str) -> list[int]:
    try:
        values = np.load(file) if file.suffix == ".npy" else np.loadtxt(file, ndmin=1)
    except (OSError, ValueError) as error:
        reason = "does not exist" if not file.is_file() else f"cannot be read ({str(error).splitlines()[0]})"
        raise UserError(f"{where}: {file} {reason}; give a .npy or .txt file of positions, the first one 1.") from None
    values = np.atleast_1d(values)
    whole = values.ndim == 1 and values.size and values.dtype.kind in "iuf" and (values == np.rint(values)).all()
    if not whole:
        raise UserError(f"{where}: {file} must hold a row of whole numbers, positions of images, the first one 1.")
    return [int(value) for value in values]
