"""What is set before torch is imported, seen from processes of their own, since libraries read it once."""

import os
import subprocess
import sys

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
