"""Nothing that others wrote is run: neither by the source, nor by hostile files of every kind that is read."""

import ast
import itertools
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, make_pairs, picture, write, write_yaml

from basicsr.data.packing import write_lmdb
from basicsr.data.storage import LmdbStorage
from basicsr.errors import UserError
from basicsr.models.exported_model import TorchModel, open_exported
from basicsr.utils import files
from basicsr.utils.exported import foul
from basicsr.utils.files import write_by, write_bytes

SOURCES = [
    *(REPOSITORY / "basicsr").rglob("*.py"),
    *(REPOSITORY / "scripts").rglob("*.py"),
    *(REPOSITORY / name for name in ("hubconf.py", "tlc_restoration.py", "setup.py")),
]
RUNS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pty.spawn", "runpy.run_path", "marshal.loads"}
UNPICKLES = {"pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load", "shelve.open", "pandas.read_pickle"}


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def keyword(node: ast.Call, name: str) -> ast.expr | None:
    return next((word.value for word in node.keywords if word.arg == name), None)


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def is_not_false(value: ast.expr | None) -> bool:
    return value is not None and not (isinstance(value, ast.Constant) and value.value is False)


def danger(node: ast.Call) -> bool:
    """Whether a call may run what a file or a user says."""
    name = called(node)
    if name in RUNS | UNPICKLES or name.startswith(("os.exec", "os.spawn", "yaml.unsafe", "yaml.full")):
        return True
    if name == "torch.load":
        return not is_true(keyword(node, "weights_only"))
    if name in ("np.load", "numpy.load"):
        return is_not_false(keyword(node, "allow_pickle"))
    if name in ("yaml.load", "yaml.load_all"):
        return len(node.args) < 2 or ast.unparse(node.args[1]) not in ("_Loader", "loader", "yaml.SafeLoader")
    if name.startswith("subprocess.") or name in ("Popen", "run"):
        return keyword(node, "shell") is not None
    return name.endswith((".extractall", ".unpack_archive")) or name == "tempfile.mktemp"


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_the_source_runs_nothing_that_others_wrote(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = [
        f"line {node.lineno}: {ast.unparse(node)}" for node in ast.walk(tree) if isinstance(node, ast.Call) and danger(node)
    ]
    assert not found
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not names & {"loads", "Unpickler", "system", "popen", "full_load", "unsafe_load"}


DANGERS = """eval(x); pickle.load(f); torch.load(f); torch.load(f, weights_only=False); yaml.load(f, yaml.Loader); yaml.load(f)
subprocess.run(x, shell=True); os.system(x); a.extractall(x); np.load(f, allow_pickle=True); tempfile.mktemp()"""


@pytest.mark.parametrize("code", re.split("; |\\n", DANGERS))
def test_what_the_source_is_searched_for_is_found(code):
    assert danger(ast.parse(code).body[0].value)


@pytest.mark.parametrize(
    "code", ["net.eval()", "torch.load(f, weights_only=True)", "yaml.load(f, _Loader)", "np.load(f, allow_pickle=False)"]
)
def test_what_is_harmless_is_not(code):
    assert not danger(ast.parse(code).body[0].value)


def test_the_loader_of_options_makes_plain_values_alone():
    import yaml

    from basicsr import options

    loaders = [kind for kind in vars(options).values() if isinstance(kind, type) and hasattr(kind, "yaml_constructors")]
    assert loaders
    for loader in loaders:
        assert issubclass(loader, yaml.SafeLoader)
        assert not [tag for tag in loader.yaml_constructors if tag and "python" in tag]


TAGS = [
    "!!python/object/apply:os.mkdir [hacked]",
    "!!python/object/new:os.mkdir [hacked]",
    "!!python/name:os.mkdir",
    "!!python/module:os",
    "!!python/object:argparse.Namespace {a: 1}",
    "!!python/tuple [1, 2]",
    "!mine {a: 1}",
]


@pytest.mark.parametrize("where", ["file", "override"])
@pytest.mark.parametrize("tag", TAGS)
def test_tags_in_yaml_are_refused(tag, where, root, run, test_options):
    file = write_yaml(root / "opt.yml", test_options)
    if where == "file":
        file.write_text(file.read_text() + f"custom_modules: {tag}\n")
    args = ("--force_yml", f"val:tile={tag}") if where == "override" else ()
    outcome = run("test", "-opt", file, *args)
    assert outcome.code == 2
    assert outcome.err.count("error:") == 1
    assert not (root / "hacked").exists()


# Exported networks, for which torch's own loaders would run code.


class Mischief:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("hacked",)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    net, x = torch.nn.Conv2d(3, 3, 1), torch.rand(1, 3, 16, 16)
    sizes = ({2: torch.export.Dim("h"), 3: torch.export.Dim("w")},)
    torch.export.save(
        torch.export.export(net, (x,), dynamic_shapes=sizes), folder / "net.pt2", extra_files={"metadata.json": "{}"}
    )
    torch.jit.save(torch.jit.trace(net, x), folder / "net.pt", _extra_files={"metadata.json": "{}"})
    return {"torch": folder / "net.pt2", "torchscript": folder / "net.pt"}


def changed(file: Path, target: Path, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        folder = old.namelist()[0].partition("/")[0]
        for name, data in (more or {}).items():
            new.writestr(f"{folder}/{name}", data)
    return target


def in_graph(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith(("models/model.json", "serialized_exported_program.json")):
            return data
        assert re.search(old.encode(), data)
        return re.sub(old.encode(), json.dumps(new)[1:-1].replace("\\", "\\\\").encode(), data)

    return change


EXPR = r"(?<=\"expr_str\": \")[^\"]+|(?<=\"expr_str\":\")[^\"]+"
AS_IT_IS = lambda _name, data: data  # noqa: E731
HOSTILE = {
    "a pickled constant": ("torch", AS_IT_IS, {"data/constants/opaque_obj_0": pickle.dumps(Mischief())}),
    "a custom object": ("torch", AS_IT_IS, {"data/constants/custom_obj_0": b"x"}),
    "a library": ("torch", AS_IT_IS, {"data/aotinductor/model/x.so": b"x"}),
    "a way out": ("torch", AS_IT_IS, {"../../x": b"x"}),
    "a size": ("torch", in_graph(EXPR, "__import__('os').mkdir('hacked')"), None),
    "a size by a function": ("torch", in_graph(EXPR, "preview('hacked')"), None),
    "an operation": ("torch", in_graph(r"torch\.ops\.aten\.conv2d\.default", "torch.os.mkdir"), None),
    "a file": ("torch", in_graph(r"torch\.ops\.aten\.conv2d\.default", "torch.ops.aten.from_file.default"), None),
    "a call": ("torch", in_graph(r"torch\.ops\.aten\.conv2d\.default", "_operator.methodcaller"), None),
    "a script that reads files": (
        "torchscript",
        lambda name, data: data + b"\n# torch.from_file('/etc/passwd')" if name.endswith(".py") else data,
        None,
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_exports_are_not_loaded(case, exported, root, run):
    kind, change, more = HOSTILE[case]
    file = changed(exported[kind], root / exported[kind].name, change, more)
    with pytest.raises(UserError, match="holds more than a network's arithmetic"):
        TorchModel(file, kind)
    write(root / "a.png", picture(0))
    opt = write_yaml(root / "opt.yml", {"name": "x", "network_g": {"type": "NAFNet"}})
    outcome = run("restore", "a.png", "-opt", opt, "--weights", file)
    assert outcome.code == 2
    assert "holds more than a network's arithmetic" in outcome.err
    assert not (root / "hacked").exists()
    assert not (root / "a_restored.png").exists()


def test_a_pickle_among_an_exports_tensors_is_not_run(exported, root):
    import io

    buffer = io.BytesIO()
    torch.save({"x": Mischief()}, buffer)
    tensors = ("model.pt", "serialized_state_dict.pt")  # the latter: torch before 2.9
    file = changed(
        exported["torch"], root / "net.pt2", lambda name, data: buffer.getvalue() if name.endswith(tensors) else data
    )
    with pytest.raises(UserError):
        open_exported(file)
    assert not (root / "hacked").exists()


@pytest.mark.parametrize("kind", ["torch", "torchscript"])
def test_whole_exports_hold_nothing_else(kind, exported):
    assert foul(exported[kind], kind) is None
    x = torch.rand(1, 3, 20, 24)
    assert TorchModel(exported[kind], kind).predict(x).shape == x.shape
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


# Names that lead out of a folder.


@pytest.mark.parametrize("name", ["../../out", "/tmp/out", "a/../../out", "..", "a\\..\\..\\out", "./../out"])
def test_keys_of_an_lmdb_do_not_lead_out(name, root):
    make_pairs(root / "Set", ("a",))
    write_lmdb(root / "Set/target", root / "x.lmdb", progress=False)
    (root / "x.lmdb/meta_info.txt").write_text(f"{name}.png (24,32,3) 1\n")
    with pytest.raises(UserError, match=r"meta_info.txt, line 1.*leads out of the folder"):
        LmdbStorage(root / "x.lmdb", "dataroot_gt")


def test_what_is_written_is_the_users_own(root):
    """A umask of 077 is kept, whatever way a file takes to its place."""
    code = (
        "import os; os.umask(0o077); import torch; from pathlib import Path; from basicsr.utils.checkpoint import save_torch; "
        "save_torch(Path('w.pth'), {'a': torch.ones(1)})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert stat.S_IMODE((root / "w.pth").stat().st_mode) == 0o600
    assert [file.name for file in root.iterdir()] == ["w.pth"]


@pytest.mark.skipif(os.name == "nt", reason="modes are of POSIX")
def test_nobody_reads_what_is_being_written(root):
    """A file has its mode when it is whole; one that others make has the same."""
    (root / "plain").touch()
    usual, seen = stat.S_IMODE((root / "plain").stat().st_mode), []

    def write_watched(file):
        file.write(b"half")
        seen.extend(stat.S_IMODE(other.stat().st_mode) for other in root.glob(".*.tmp"))

    write_by(root / "a.bin", write_watched)
    assert seen == [0o600]
    assert stat.S_IMODE((root / "a.bin").stat().st_mode) == usual


def test_links_in_place_of_temporary_files_are_not_followed(root, monkeypatch):
    """A folder that others may write to: what they put where a file is to be written stays as it is."""
    victim = root / "victim"
    victim.write_bytes(b"kept")
    monkeypatch.setattr(files, "_numbers", itertools.count(7))
    names = [root / files.temporary_beside(root / "a.bin").name]
    names[0].symlink_to(victim)
    monkeypatch.setattr(files, "_numbers", itertools.count(7))
    write_bytes(root / "a.bin", b"mine")  # takes the next name
    assert victim.read_bytes() == b"kept"
    assert (root / "a.bin").read_bytes() == b"mine"
    with pytest.raises(FileExistsError), files.private(names[0]):
        pass
