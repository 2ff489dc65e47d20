"""Where weights are that are called by name: in the repository, bundled, or downloaded into the user's cache folder.

Beside a downloaded file lies its SHA-256, as `sha256sum -c` reads it, and is compared whenever the file is used. The terms that
were accepted are in a list there.
"""

import functools
import logging
from pathlib import Path, PurePath

from filelock import FileLock

from basicsr.engine.weights.identify import from_shapes
from basicsr.engine.weights.known import cached, named, record, recorded, same_network
from basicsr.engine.weights.published import PUBLISHED, Published
from basicsr.errors import UserError, did_you_mean
from basicsr.options import resolve, resolve_input
from basicsr.paths import BUNDLED, cache, display
from basicsr.sections import PathOptions
from basicsr.utils.checkpoint import read_weights, sha256
from basicsr.utils.download import NotDownloaded, fetch, web_page
from basicsr.utils.files import write_bytes

logger = logging.getLogger("basicsr")
FOLDER = "experiments/pretrained_models"  # of the repository
SUFFIXES = (".pth", ".safetensors")
OF_FILES = (*SUFFIXES, ".pt", ".pt2", ".onnx", ".ckpt")  # what ends so is no name, even where there is no such file
COPIES = 8  # of the parameters that a file can be as large as: averaged ones, and an optimiser's moments of all of them


def weights_of(path: PathOptions) -> Path | None:
    """The file of `pretrain_network_g`; see `find`."""
    return find(path.pretrain_network_g, resolve(path.pretrain_network_g)) if path.pretrain_network_g else None


def find(said: str | Path, file: Path) -> Path:
    """`file`, or else the one at hand of the name that was said: a bundled one's, or a published one's.

    Args:
        said: a path or a name, as it was given. file: the path that it amounts to.

    Raises:
        UserError: a name of no weights, with the nearest one; of weights that were not downloaded yet; a downloaded file that
            has changed.
    """
    if file.exists():
        return file
    known, bare = named(said), len(PurePath(said).parts) == 1
    if (bare or known) and (found := at_hand(known.name if known else str(said))):
        return found
    if known:
        raise UserError(f"the weights {display(file)} do not exist: `tlc weights download {known.name}` fetches them.")
    if bare and file.suffix not in OF_FILES:
        raise _unknown(str(said))
    return file  # whose absence is explained where it is read


def at_hand(name: str) -> Path | None:
    """The file of weights of this name, without downloading: in the repository, bundled, or in the cache."""
    known = named(name)
    names = [known.name, *(PurePath(file).stem for file in known.files)] if known else [name.removesuffix(".safetensors")]
    for folder in (resolve(FOLDER), BUNDLED / FOLDER):
        found = [folder / f"{stem}{suffix}" for stem in names for suffix in SUFFIXES]
        if there := next((file for file in found if file.is_file()), None):
            return there
    return _checked(cached(known)) if known and cached(known).is_file() else None


def obtain(said: str | Path, *, accept: bool = False) -> Path:
    """The file of --weights, a path or a name; published weights that are not at hand are downloaded.

    Args:
        accept: whether the user accepts their terms.

    Raises:
        UserError: see `find`, and `download`.
    """
    file, known = resolve_input(said), named(said)
    if known and not file.exists() and file.suffix not in OF_FILES:
        return download(known, accept=accept)
    return find(said, file)


def published(name: str) -> Published:
    """UserError for a name of none, with the nearest."""
    if (known := named(name)) is None:
        raise _unknown(name)
    return known


def _unknown(name: str) -> UserError:
    folders = {resolve(FOLDER), BUNDLED / FOLDER}
    names = [known.name for known in PUBLISHED] + [file.stem for folder in folders for file in folder.glob("*.safetensors")]
    longer = [known for known in names if known.lower().startswith(name.lower())]
    near = did_you_mean(longer[0] if longer else name, names)
    return UserError(f"the weights {name}: there is no such file, and no weights of that name.{near} `tlc weights` lists them.")


def download(known: Published, *, accept: bool = False) -> Path:
    """Download published weights into the cache folder, unless they are at hand; one process does, others wait for it.

    Raises:
        UserError: terms that were not accepted; no file, with the reason, and where to put it by hand; something else than
            these weights, or than what was downloaded before under their name.
    """
    if found := at_hand(known.name):
        return found
    file = cached(known)
    _require_acceptance(known, accept)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")):
            if not file.is_file():
                _download(known, file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}).") from None
    return _checked(file)


def _download(known: Published, file: Path) -> None:
    part = file.with_name(f"{file.name}.part")
    reasons = []
    for source in known.sources:
        logger.info("Downloading %s from %s (%s, %s).", known.name, web_page(source), known.terms.name, known.terms.url)
        try:
            fetch(source, part, most=COPIES * known.size)
        except NotDownloaded as error:
            reasons.append(f"from {web_page(source)}: {error}")
            continue
        _require_it(part, known, source)
        part.replace(file)
        logger.info("%s is in %s, with its SHA-256.", known.name, file)
        return
    raise UserError(f"{known.name} could not be downloaded {'; '.join(reasons)}. By hand, put it at {file}.")


def _require_it(part: Path, known: Published, source: str) -> None:
    """UserError, and no file, where what came is something else."""
    try:
        same = same_network(from_shapes(read_weights(part), "the file"), known.net.options)
        fault = "" if same else "it is of another network"
        digest, kept = sha256(part), record(cached(known))
        if not fault and (before := recorded(kept)) not in (None, digest):
            fault = f"it is another file than before, of SHA-256 {digest} instead of {before}; to take it, delete {kept}"
    except UserError as error:
        fault = str(error).replace(str(part), "the file").rstrip(".")
    if fault:
        part.unlink()
        raise UserError(f"what {web_page(source)} gives cannot be taken for {known.name}: {fault}.")


def _checked(file: Path) -> Path:
    """A file of the cache that is as it was when it came; its SHA-256 is recorded the first time.

    Raises:
        UserError: it has changed.
    """
    state = file.stat()
    digest, kept = _digest(file, state.st_mtime_ns, state.st_size), record(file)
    before = recorded(kept)
    if before is None:
        write_bytes(kept, f"{digest}  {file.name}\n".encode())
    elif before != digest:
        raise UserError(
            f"{file} has changed since it was downloaded: its SHA-256 is {digest}, not {before}; delete it to download it "
            f"again, or {kept.name} to take it as it is."
        )
    return file


@functools.lru_cache(maxsize=8)
def _digest(file: Path, modified: int, size: int) -> str:
    """Once for each state of a file in a process."""
    return sha256(file)


def _require_acceptance(known: Published, accept: bool) -> None:
    terms = known.terms
    if terms.commercial:
        return
    accepted = cache() / "weights" / "accepted-licences.txt"
    before = accepted.read_text(encoding="utf-8").splitlines() if accepted.is_file() else []
    if terms.url in before:
        return
    if not accept:
        raise UserError(f"{known.name} is under the {terms.name}: read {terms.url}, and accept it with --accept-licence.")
    write_bytes(accepted, "".join(f"{line}\n" for line in (*before, terms.url)).encode())
