"""The one-way rule, between the parts of the package and between the rooms of the two large ones; how large a file may be."""

import ast
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "basicsr"
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = [
    {"environment", "errors"},
    {"custom", "paths"},
    {"section_types", "published", "texts"},
    {"training_sections"},
    {"sections"},
    {"registry", "options"},
    {"kernels"},
    {"tlc", "utils"},
    {"archs", "data", "losses", "metrics"},
    {"models"},
    {"engine"},
    {"commands"},
    {"train", "test", "demo", "__main__"},
]
# Inside a part: what a file of a room, or a file beside the rooms, may import is further down.
ROOMS = {
    "tlc": [
        {"local"},
        {"sizes", "report", "published", "selection"},
        {"rules"},
        {"dryrun"},
        {"rewriting"},
        {"revert"},
        {"convert"},
        {"__init__"},
    ],
    "engine": [
        {"weights", "channels"},
        {"build", "export", "preparing", "benchmark", "networks"},
        {"testing", "run_export"},
        {"training", "restoring", "flicker", "reference"},
        {"__init__"},
    ],
}
# In these rooms, the files that make options or take them apart; all others are handed what they need.
DOORS = {"flicker": {"run_flicker.py"}, "training": {"fit.py"}, "testing": {"pairs.py", "run_test.py", "sweep.py"}}
LONGEST_FILE, LONGEST_FUNCTION = 350, 60  # lines
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def imports(file: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            if node.module == "basicsr":
                found |= {f"basicsr.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def room_of(file: Path) -> str:
    """Of a file in one of ROOMS' parts: its folder's name, or its own."""
    return file.relative_to(PACKAGE).parts[1].removesuffix(".py")


def inside(file: Path) -> set[str]:
    """The parts of basicsr that a file imports: 'basicsr.utils.image' -> 'utils'."""
    parts = {name.split(".")[1] for name in imports(file) if name.startswith("basicsr.")}
    return parts - {"__version__"}


def outside(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)} - {"basicsr"}


def label(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def test_every_file_has_its_layer():
    parts = {part_of(file) for file in FILES} - {"__init__"}
    assert parts == set(LEVEL)


@pytest.mark.parametrize("file", FILES, ids=label)
def test_imports_go_one_way(file):
    own = part_of(file)
    if own == "__init__":
        assert inside(file) <= {"environment"}  # torch's first allocation must not come before it
        assert not outside(file)
        return
    for other in inside(file) - {own}:
        assert LEVEL[other] < LEVEL[own], f"{label(file)} ({own}) imports {other}"


@pytest.mark.parametrize("part", ROOMS)
def test_imports_between_rooms_go_one_way(part):
    level = {room: number for number, rooms in enumerate(ROOMS[part]) for room in rooms}
    assert {room_of(f) for f in FILES if part_of(f) == part} == set(level)
    for file in FILES:
        if part_of(file) == part:
            for name in imports(file):
                _, other, *rest = [*name.split("."), ""]
                if other == part and rest[0] in level and rest[0] != room_of(file):
                    assert level[rest[0]] < level[room_of(file)], f"{label(file)} imports {name}"


@pytest.mark.parametrize("folder", sorted({f.parent for f in FILES}), ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_every_room_says_who_enters(folder):
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("file", FILES, ids=label)
def test_files_and_functions_are_short(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0].lineno  # a kernel's arguments have a line each, which says what they are
            assert node.end_lineno - first < LONGEST_FUNCTION, f"{label(file)}: {node.name}"


@pytest.mark.parametrize("file", [f for f in FILES if part_of(f) == "tlc"], ids=label)
def test_tlc_knows_torch_alone(file):
    """It knows no arch and no option. Kernels make it faster where they are, and one file asks whether."""
    assert inside(file) <= ({"tlc", "kernels"} if file.name == "functional.py" else {"tlc"})
    assert outside(file) - sys.stdlib_module_names <= {"torch"}


@pytest.mark.parametrize("file", [f for f in FILES if part_of(f) == "kernels"], ids=label)
def test_kernels_know_torch_and_triton_alone(file):
    assert inside(file) <= {"kernels"}
    triton = {"triton"} if file.stem.endswith("_triton") else set()
    assert outside(file) - sys.stdlib_module_names <= {"torch"} | triton


@pytest.mark.parametrize("file", FILES, ids=label)
def test_triton_is_imported_when_a_kernel_runs(file):
    """It takes a moment, and is not everywhere: `choice` imports what needs it by name. Launchers may use one another."""
    found = [name for name in imports(file) if name.startswith("basicsr.kernels.") and name.endswith("_triton")]
    assert not found or file.stem.endswith("_triton")


def test_tlc_works_when_it_is_copied_out_alone(tmp_path):
    """With torch and nothing of this repository around it."""
    shutil.copytree(PACKAGE / "tlc", tmp_path / "basicsr" / "tlc")
    (tmp_path / "basicsr" / "__init__.py").touch()
    code = """
        import sys, torch
        from torch import nn
        sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]  # of a checkout
        sys.path.insert(0, sys.argv[1])
        from basicsr.tlc import convert, local_channel_attention
        from basicsr.tlc.local import functional
        assert functional.__file__.startswith(sys.argv[1]) and functional.kernels is None
        net = convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.AdaptiveAvgPool2d(1)), train_size=(1, 3, 8, 8))
        assert [c.before for c in net.eval().tlc_report.converted] == ["InstanceNorm2d", "AdaptiveAvgPool2d"]
        assert net(torch.rand(1, 3, 20, 24)).shape == (1, 4, 18, 22)
        q, k, v = torch.rand(3, 1, 2, 4, 9, 9)
        assert local_channel_attention(q, k, v, 1.0, (4, 5)).shape == (1, 8, 9, 9)
        assert not any(name.startswith("basicsr.") and not name.startswith("basicsr.tlc") for name in sys.modules)
    """
    run = [sys.executable, "-I", "-c", textwrap.dedent(code), str(tmp_path)]
    subprocess.run(run, check=True, cwd=tmp_path)


def test_tlc_imports_what_torch_has_imported_and_little_else():
    """PyTorch's compiler takes longer to import than torch itself; a conversion and an image do without it as well."""
    code = """
        import sys, torch
        from torch import nn
        before = set(sys.modules)
        from basicsr.tlc import convert
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        assert new - set(sys.stdlib_module_names) == {"basicsr"}, new
        assert not [name for name in set(sys.modules) - before if name.startswith("torch.")]

        class Shifted(nn.Module):  # tokens in rolled windows, and a gate of the spectrum
            def __init__(self):
                super().__init__()
                self.mix = nn.Linear(4, 4)

            def forward(self, x):
                y = self.mix(x.roll(2, 3).flip(2).permute(0, 2, 3, 1).reshape(-1, 4)).view(-1, 4, 4)
                y = nn.functional.scaled_dot_product_attention(y, y, y).view(x.shape)
                return x + y + torch.fft.ifft2(torch.fft.fft2(x) * 1j).real

        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4), nn.PReLU(), Shifted())
        convert(net, train_size=8, statistics="patches").eval()(torch.rand(1, 3, 20, 24))
        assert not {"torch._dynamo", "sympy"} & (set(sys.modules) - before)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=REPOSITORY)


def test_options_and_what_they_need_import_no_torch():
    for name in (
        "errors",
        "custom",
        "registry",
        "published",
        "texts",
        "section_types",
        "training_sections",
        "sections",
        "options",
    ):
        assert not outside(PACKAGE / f"{name}.py") & {"torch", "cv2", "numpy"}
    assert inside(PACKAGE / "errors.py") == set()
    assert inside(PACKAGE / "custom.py") == {"errors"}
    assert inside(PACKAGE / "section_types.py") == set()
    assert inside(PACKAGE / "training_sections.py") == {"section_types"}
    assert inside(PACKAGE / "sections.py") == {"errors", "section_types", "training_sections"}
    assert inside(PACKAGE / "options.py") == {"errors", "custom", "paths", "published", "sections", "texts"}
    assert inside(PACKAGE / "registry.py") == {"errors", "custom", "texts"}


@pytest.mark.parametrize("file", FILES, ids=label)
def test_only_options_read_yaml_and_only_the_top_sees_them(file):
    if part_of(file) != "options":
        assert "yaml" not in outside(file)
    if {"options", "sections", "training_sections"} & inside(file) and part_of(file) not in ("options", "sections"):
        assert LEVEL[part_of(file)] > LEVEL["models"]


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name in DOORS], ids=label)
def test_only_the_door_of_a_room_asks_the_options(file):
    """The others may at most write a path as users know it."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    taken = {alias.name for node in nodes if node.module in ("basicsr.options", "basicsr.sections") for alias in node.names}
    if file.name in DOORS[file.parent.name]:
        assert "Options" in taken
    else:
        assert taken <= {"display"}
        assert not {"basicsr.sections", "basicsr.training_sections", "basicsr.engine.build"} & imports(file)


def test_only_one_arch_file_sees_tlc():
    assert [f.name for f in FILES if part_of(f) == "archs" and "tlc" in inside(f)] == ["local_arch.py"]


@pytest.mark.parametrize("file", FILES, ids=label)
def test_entry_points_print_and_nothing_else_does(file):
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    assert not {"eval", "exec", "__import__"} & set(names)
    if part_of(file) not in ("commands", "train", "test", "demo") and label(file) != "utils/log.py":
        assert "print" not in names


def test_the_checker_sees_imports_inside_functions(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from basicsr import engine\n    import basicsr.models.schedule, torch\n")
    assert imports(file) == {"basicsr.engine", "basicsr.models.schedule", "torch"}
    assert inside(file) == {"engine", "models"}
