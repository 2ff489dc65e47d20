"""The wheel: built without a network, installed into an empty environment, used from another folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, make_pairs, picture, write, write_yaml

import basicsr

LARGEST = 40e6  # bytes
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
SDIST = "from setuptools import build_meta; print(build_meta.build_sdist('..'))"
COMMANDS = """
import json, sys
import basicsr, tlc_restoration
from basicsr.tlc import convert
print(basicsr.__file__, basicsr.__version__, convert.__module__)
for words in json.loads(sys.argv[1]):
    sys.argv = ["tlc", *words]
    assert tlc_restoration.main() == 0
"""


def call(*command: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess:
    """Run a command that cannot see the checkout; its exit code must be `code`."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what the build needs: `build/` and `*.egg-info` do not come to lie in the checkout."""
    folder = tmp_path_factory.mktemp("build")
    sources = folder / "sources"
    sources.mkdir()
    for file in ("LICENSE", "README.md", "pyproject.toml", "setup.py", "tlc_restoration.py"):
        shutil.copy(REPOSITORY / file, sources)
    parts = (
        "basicsr",
        "docs",
        "options",
        "experiments/pretrained_models",
        "datasets/Sample/demo",
        "datasets/Sample/test/target",
    )
    for part in parts:
        shutil.copytree(REPOSITORY / part, sources / part, ignore=shutil.ignore_patterns("__pycache__", "*.pth"))
    (sources / "build/lib/basicsr").mkdir(parents=True)
    (sources / "build/lib/basicsr/of_an_earlier_build.py").touch()
    call(*PIP, "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, cwd=sources)
    call(sys.executable, "-c", SDIST, cwd=sources)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def site_packages(wheel, tmp_path_factory) -> Path:
    """Of an environment with the wheel in it, and this one's packages behind it. Files with `.pth` there, which would make a
    checkout importable, are not read."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=os.name != "nt")
    (site,) = folder.glob("Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages")
    call(*PIP, "--python", python(site), "install", "--no-deps", "--no-index", wheel, cwd=folder)
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "behind.pth").write_text("\n".join(others), encoding="utf-8")
    return site


def python(site: Path) -> Path:
    return site.parents[1] / "Scripts/python.exe" if os.name == "nt" else site.parents[2] / "bin/python"


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_the_wheel_holds_what_its_options_name(wheel):
    assert wheel.stat().st_size < LARGEST
    held = names(wheel)
    assert wheel.name.startswith(f"tlc_restoration-{basicsr.__version__}-")
    assert {"basicsr/py.typed", "tlc_restoration.py"} <= held
    assert "basicsr/of_an_earlier_build.py" not in held
    bundled = {name.removeprefix("basicsr/bundled/") for name in held if name.startswith("basicsr/bundled/")}
    assert all((REPOSITORY / name).is_file() for name in bundled)
    shipped = {file.relative_to(REPOSITORY).as_posix() for file in (REPOSITORY / "options").rglob("*.yml")}
    assert shipped - bundled == {name for name in shipped if "AllNorms" in name}
    for name in shipped & bundled:
        opt = yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))
        pictures = opt.get("img_path", {})
        weights = [path for path in [opt["path"]["pretrain_network_g"]] if path and path.endswith(".safetensors")]
        for path in [*weights, *(pictures[key] for key in ("input_img", "target_img") if key in pictures)]:
            assert path.removeprefix("./") in bundled, name


def test_a_source_distribution_holds_what_the_wheel_needs(wheel):
    (sdist,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {name.removeprefix("basicsr/bundled/") for name in names(wheel) if ".dist-info/" not in name} <= held
    assert {"setup.py", "pyproject.toml"} <= held


def test_an_installed_package_restores_trains_and_tests_in_any_folder(site_packages, tmp_path, test_options, train_options):
    tlc = python(site_packages).with_stem("tlc")
    before = files(site_packages)
    write(tmp_path / "photo.png", picture(0, 48, 64))
    make_pairs(tmp_path / "datasets/Set")
    train_options["train"]["total_iter"] = 1
    train_options["logger"] = {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": True}
    test_options["path"] = {"pretrain_network_g": "experiments/run/models/net_g_1.pth"}
    write_yaml(tmp_path / "train.yml", train_options)
    write_yaml(tmp_path / "test.yml", test_options)
    (tmp_path / "elsewhere").mkdir()

    own = call(tlc, "restore", "../photo.png", cwd=tmp_path / "elsewhere").stdout.splitlines()[-1]
    assert (tmp_path / "elsewhere" / own).resolve() == tmp_path / "photo_restored.png"
    assert (tmp_path / "photo_restored.png").is_file()
    of_the_file = ["-opt", "options/demo/demo.yml", "--force_yml", "img_path:input_img=photo.png", "img_path:target_img=~"]
    commands = [["restore", *of_the_file], ["train", "-opt", "train.yml"], ["test", "-opt", "test.yml"]]
    said = call(python(site_packages), "-c", COMMANDS, json.dumps(commands), cwd=tmp_path).stdout
    assert said.startswith(f"{site_packages / 'basicsr/__init__.py'} {basicsr.__version__} basicsr.tlc.convert\n")
    for says in ("(results/demo/.*)", "Finished: (.*)", "Report: (.*)"):
        assert (tmp_path / re.search(says.replace("/", re.escape(os.sep)), said)[1]).is_file()
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {"datasets", "elsewhere", "experiments", "results", "tb_logger"}
    assert files(site_packages) == before


@pytest.fixture
def other(site_packages, tmp_path):
    """Installs another `basicsr` into a folder, and takes it away; what it replaced comes back."""
    own = site_packages / "basicsr/__init__.py"
    content = own.read_text()

    def install(folder: Path) -> None:
        (folder / "basicsr").mkdir(exist_ok=True, parents=True)
        (folder / "basicsr/__init__.py").write_text("raise ImportError('the other one')")
        (folder / "basicsr-1.4.2.dist-info").mkdir()
        (folder / "basicsr-1.4.2.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: basicsr\nVersion: 1.4.2\n")

    yield install
    own.write_text(content)
    shutil.rmtree(site_packages / "basicsr-1.4.2.dist-info", ignore_errors=True)


def test_another_basicsr_in_the_same_folder_is_one_sentence(site_packages, other, tmp_path):
    tlc, python_basicsr = [python(site_packages).with_stem("tlc"), "restore", "a.png"], [python(site_packages), "-m", "basicsr"]
    own = (site_packages / "basicsr/__init__.py").read_text()
    other(site_packages)  # after this one
    said = [call(*tlc, cwd=tmp_path, code=2).stderr]
    (site_packages / "basicsr/__init__.py").write_text(own)  # before this one
    said += [call(*command, cwd=tmp_path, code=2).stderr for command in (tlc, python_basicsr)]
    assert said[0].startswith(f"error: basicsr 1.4.2 is installed into the same folder, {site_packages / 'basicsr'}, ")
    assert said[0].endswith("run `pip uninstall basicsr tlc-restoration`, then install tlc-restoration again.\n")
    assert said == said[:1] * 3
    (site_packages / "basicsr/__init__.py").unlink()  # as `pip uninstall basicsr` does
    shutil.rmtree(site_packages / "basicsr-1.4.2.dist-info")
    missing = call(*tlc, cwd=tmp_path, code=2).stderr
    assert missing.startswith("error: files of this package are missing from ")
    assert missing.count("\n") == 1


def test_another_basicsr_that_is_found_first_is_one_sentence(site_packages, other, tmp_path):
    other(tmp_path)
    said = call(python(site_packages), "-m", "tlc_restoration", cwd=tmp_path, code=2).stderr  # the current folder comes first
    where = tmp_path / "basicsr/__init__.py"
    assert said == f"error: another basicsr is imported, {where}: uninstall it (pip uninstall basicsr).\n"
