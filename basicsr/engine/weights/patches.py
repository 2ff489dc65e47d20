"""Training patches of published checkpoints of the networks that spandrel knows, in pixels, from their repositories' options.

By the class of the network, and by the file's name where its checkpoints differ. Networks that are not here have no statistics
of the whole image, or enlarge it.
"""

import re
from typing import NamedTuple


class Trained(NamedTuple):
    """Side of the patches of a network's checkpoints whose file name holds `files`, without regard to case; '' any name.

    ended_at: side of the last patches of progressive learning, whose window is 1.5-fold that of `patch` all the same.
    """

    network: str
    patch: int
    files: str = ""
    ended_at: int | None = None


# The first row that fits decides.
TRAINED = (
    Trained("RetinexFormer", 128, r"lol[-_]?v?1|v2[-_]?syn|sdsd[-_]?in"),
    Trained("RetinexFormer", 256, r"v2[-_]?real|^sid\b|smid|sdsd[-_]?out"),
    Trained("RetinexFormer", 280, r"fivek"),
    Trained("RetinexFormer", 2000, r"ntire"),
    Trained("CIDNet", 256),
    Trained("MixDehazeNet", 400, r"haze4k.*[-_]t\b"),
    Trained("MixDehazeNet", 500, r"dense.*[-_]l\b"),
    Trained("MixDehazeNet", 350, r"dense|nh[-_]?haze"),
    Trained("MixDehazeNet", 256, r"reside|haze4k|its|ots"),
    Trained("GRL", 256, r"^dn_|denois|noise"),
    Trained("GRL", 480, r"^db_|deblur"),
    Trained("GRL", 288, r"jpeg"),
    Trained("KBNet_l", 256, ended_at=320),
    Trained("KBNet_s", 256, ended_at=384),
)


def trained(network: str, file: str) -> Trained | None:
    """What a checkpoint of this name of a network of this class was trained on; None: it is not known.

    network: 'KBNet_s'. file: the name without its suffix.
    """
    rows = (row for row in TRAINED if network == row.network and re.search(row.files, file, re.IGNORECASE))
    return next(rows, None)
