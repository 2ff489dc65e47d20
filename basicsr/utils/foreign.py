"""What a file is that cannot be read as weights, in words for its user. Nothing in it is run: pickles are only taken apart."""

import io
import json
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from basicsr.errors import first_ten

AGAIN = "download or copy it again"
RUN = "reading it would run"
SIGNATURES = {
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"Rar!": "a rar archive: unpack it",
    b"\xfd7zXZ": "an xz archive: unpack it",
    b"BZh": "a bzip2 archive: unpack it",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it",
    b"\x89HDF": "an HDF5 file, as of Keras or MATLAB, which holds no weights of torch",
    b"\x93NUMPY": "an array of NumPy: save a state dict with torch.save",
    b"GGUF": "a GGUF file, as of llama.cpp, which holds no weights of torch",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"%PDF": "a PDF document",
}
HARMLESS = re.compile(
    r"(collections\.(OrderedDict|Counter)|_codecs\.encode|torch(\.\w+)*\.(\w*Storage|_rebuild_\w+|Size|device|dtype|\w+\d+)"
    r"|torch\._utils\.\w+|torch\.(Tensor|nn\.parameter\.Parameter)|numpy\.(dtype|ndarray|_?core\.(multiarray|numeric)\.\w+)|builtins\.(set|bytearray|complex)|__builtin__\.\w+)"
)
LEGACY_HEADERS = 3  # pickles before the content in files of torch before 1.6


def what_it_is(path: Path) -> str | None:
    """'it is a Git LFS pointer: run `git lfs pull`'; None where nothing can be told."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(1 << 12)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if size == 0:
        return f"it is empty; {AGAIN}"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, which only names the file: run `git lfs pull` in its repository, or download the file"
    if start.startswith(b"PK"):
        return _zip(path, size)
    if found := next((words for signature, words in SIGNATURES.items() if start.startswith(signature)), None):
        return f"it is {found}"
    if start[257:262] == b"ustar":
        return "it is a tar archive: unpack it"
    if start.startswith(b"\x80"):
        with open(path, "rb") as file:
            return _pickle(file, size)
    if re.match(rb"\x08[\x01-\x20](\x12.[ -~]+|:)", start, re.DOTALL):
        return "it is a network in ONNX: give it the suffix .onnx, and `tlc restore --weights` runs it"
    return _safetensors(path, start, size) or _text(start)


def is_safetensors(path: Path) -> bool:
    """By content: the length of a header, then the header, in JSON."""
    with open(path, "rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000  # the format's limit


def _safetensors(path: Path, start: bytes, size: int) -> str | None:
    if not is_safetensors(path):
        return None
    end = 8 + int.from_bytes(start[:8], "little")
    if end > size:
        return f"it is cut off in its header after {size:,} of {end:,} bytes; {AGAIN}"
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(end)[8:])
        whole = end + max((value["data_offsets"][1] for key, value in header.items() if key != "__metadata__"), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return f"its header is damaged; {AGAIN}"
    return f"it is cut off after {size:,} of {whole:,} bytes; {AGAIN}" if whole > size else f"its header is damaged; {AGAIN}"


def _text(start: bytes) -> str | None:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not all(character.isprintable() or character.isspace() for character in text):
        return None
    line = text.strip().partition("\n")[0].strip()[:60]
    return f"it is a text file that begins with {line!r}, not weights; download the file itself"


def _zip(path: Path, size: int) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            content = next((name for name in names if re.fullmatch(r"([^/]+/)?data\.pkl", name)), None)
            if content is not None:
                data = archive.read(content)
                found = _pickle(io.BytesIO(data), len(data))
                return f"it is damaged inside; {AGAIN}" if found.startswith("it is cut off") else found
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, NotImplementedError, RuntimeError):
        return f"it is cut off or damaged, after {size:,} bytes; {AGAIN}"
    if names and all(name.endswith(".npy") for name in names):
        return "it is an archive of NumPy arrays (.npz): save a state dict with torch.save"
    return f"it is a zip archive that holds {first_ten(names) or 'nothing'}: unpack it, and name the weights"


def _pickle(file: io.BufferedIOBase, size: int) -> str:
    """Of a pickle: what in it would have to be run."""
    numpy, protocol = False, 0
    try:
        for _ in range(LEGACY_HEADERS + 1):  # a single one in zip archives and in what `pickle.dump` wrote
            if file.tell() == size:
                break
            for name, whole in _names(file):
                if isinstance(name, int):
                    protocol = max(protocol, name)
                elif words := _run_by(name, whole):
                    return f"{RUN} {words}"
                else:
                    numpy |= name.startswith("numpy.")
    except (ValueError, EOFError, LookupError, ArithmeticError, MemoryError) as error:
        if re.search("exhausted|not enough|expected", str(error)):
            return f"it is cut off after {size:,} bytes; {AGAIN}"
    if protocol > 3:
        return (
            f"it has pickle protocol {protocol}, which only code could read: save it again with torch.save, which has another"
        )
    if numpy:
        return "it holds values of NumPy beside its tensors that are no numbers: whoever made it can save the state dict alone"
    return f"it is cut off or damaged, after {size:,} bytes; {AGAIN}"


def _run_by(name: str, whole: bool) -> str | None:
    """What is to be said of a name in a pickle; whole: it is that of the pickled object itself."""
    if name == "torch.storage._load_from_bytes":
        return "pickle on its tensors, as it was not written by torch.save: load it where it was made, and torch.save it"
    is_class = name[name.rfind(".") + 1 :][:1].isupper() or name.startswith(("collections.", "datetime."))
    if whole and is_class and name != "collections.OrderedDict":
        return f"the code of {name}, as it is a whole pickled object: load it where that class is, save net.state_dict()"
    if HARMLESS.fullmatch(name):
        return None
    if is_class:
        return f"the code of {name}, which lies beside its tensors: whoever made it can save the state dict alone"
    return f"{name}: take weights from a source that you trust, at best as .safetensors"


def _names(file: io.BufferedIOBase) -> Iterator[tuple[str | int, bool]]:
    """The protocol of a pickle; what it names by module and name, and whether that is the pickled object itself, rather than
    something in it."""
    stack: list[str] = []  # strings, the last ones
    memo: dict[int, str] = {}
    whole, pushed, count = True, False, 0
    for code, argument, _ in pickletools.genops(file):
        if code.name == "PROTO":
            yield argument, False
        elif code.name == "GLOBAL":
            yield str(argument).replace(" ", "."), whole
        elif code.name == "STACK_GLOBAL" and len(stack) > 1:
            yield ".".join(stack[-2:]), whole
        elif "UNICODE" in code.name:
            stack = [*stack[-1:], str(argument)]
        elif code.name in ("BINGET", "LONG_BINGET") and argument in memo:
            stack = [*stack[-1:], memo[argument]]
        elif code.name == "MEMOIZE":  # what was made last, a string where that was pushed
            memo |= {count: stack[-1]} if stack and pushed else {}
            count += 1
        pushed = "UNICODE" in code.name
        if not pushed and code.name not in ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT"):
            whole = False
