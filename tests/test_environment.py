"""What is set before torch is imported, seen from processes of their own, since libraries read it once."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

PROGRAM = """
import os, sys
import basicsr
assert "torch" not in sys.modules
print(*(os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")))
"""


def settings_of_a_process(**given: str) -> str:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {k: v for k, v in os.environ.items() if k not in names} | given
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    return ran.stdout.strip()


def test_threads_that_wait_sleep():
    assert settings_of_a_process() == "PASSIVE 2000 None"


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None None"),
        ({"GOMP_SPINCOUNT": "7"}, "None 7 None"),
        ({"KMP_BLOCKTIME": "1"}, "None None 1"),
    ],
)
def test_what_the_user_has_set_stays(given, seen):
    assert settings_of_a_process(**given) == seen


def imported(file: Path) -> list[str]:
    """Top-level packages in the order in which a file imports them."""
    nodes = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [[alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module] for node in nodes]
    return [name.split(".")[0] for some in names for name in some]


@pytest.mark.parametrize("file", sorted((REPOSITORY / "scripts").glob("*.py")), ids=lambda file: file.stem)
def test_scripts_import_basicsr_before_torch(file):
    """Else what is set for torch comes too late. `gains` imports torch as well."""
    names = imported(file)
    torch = [names.index(name) for name in ("torch", "gains") if name in names]
    assert names.index("basicsr") < min([*torch, len(names)])
