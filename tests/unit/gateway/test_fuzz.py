"""benchmarks/fuzz.py at the size of CI; the million is run by hand. Planted faults show that it finds what it looks for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[3] / "benchmarks" / "fuzz.py"


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, FUZZ, "--processes", "1", *options], capture_output=True, text=True, timeout=110)


def counted(output: str, name: str) -> int:
    found = re.search(rf"^{re.escape(name)} +([\d,]+)$", output, re.MULTILINE)
    return int(found[1].replace(",", "")) if found else 0


def test_nothing_that_clients_send_is_misread_or_leaves_something_behind():
    done = fuzz("--requests", "6000", "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert counted(done.stdout, "forwarded and compared") > 500
    assert counted(done.stdout, "good requests behind") > 400
    assert counted(done.stdout, "400") > 500, "it must be refused a lot, or it is no fuzzing"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("length", "the body has"),
        ("memo", "by h11 as"),
        ("leak", "connections are left"),
        ("hang", "it hangs"),
    ],
)
def test_a_planted_fault_is_found(fault, told):
    done = fuzz("--requests", "6000", "--broken", fault)
    assert done.returncode == 1
    assert told in done.stderr
    assert "--only" in done.stderr, "how to repeat it alone"
