"""benchmarks/hot_path.py, at its smallest: every set of features answers, and is told."""

import re
import subprocess
import sys
from pathlib import Path

HOT_PATH = Path(__file__).parents[3] / "benchmarks" / "hot_path.py"


def test_every_feature_is_measured():
    run = [sys.executable, HOT_PATH, "--rounds", "1", "--requests", "20"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    told = re.findall(r"^a (request|stream|chunk) +(.+?) +(\d+\.\d\d) µs .* (\d+\.\d) calls$", done.stdout, re.MULTILINE)
    assert {what for what, _, _, _ in told} == {"request", "stream", "chunk"}
    assert {"bare", "key with rpm and tpm", "traces", "kept to be resumed"} <= {name for _, name, _, _ in told}
    assert all(float(cost) > 0 and float(calls) > 0 for _, _, cost, calls in told)
