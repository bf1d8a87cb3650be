"""How long hundreds of models take to render, and to apply to a real API server on this machine: the first time, and again.

`python benchmarks/apply.py` takes a minute or two. It starts the control plane of `make test-cluster` (etcd, API server,
controllers), on loopback. Without one (`make control-plane` builds it), only rendering is measured.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import yaml
from gateway_tools.tables import machine, table

from headrace import __version__, clusters
from headrace.rendering import Wish, objects
from headrace.spec.load import load
from headrace.targets.kubernetes import survey
from headrace.terminal import Terminal
from headrace.weights.source import parse

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
from control_plane import absent, control_plane, downlevel

LLAMA = "hf:meta-llama/Llama-3.1-8B-Instruct"  # its facts are in the catalogue: no network is needed
GOALS = {"render": 5.0, "apply": 60.0}


def main() -> int:
    """Measure and print; returns the exit code: 1 when a goal is missed, or when applying again changed something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=200)
    count = parser.parse_args().models
    print(machine([f"headrace {__version__}"]))
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder, chdir(folder):
        os.environ["HEADRACE_CACHE"] = str(Path(folder) / "cache")
        rows, seconds = measured(Path(folder), count)
    print(table(rows, markdown=False))
    return int(any(seconds[each] > goal for each, goal in GOALS.items() if each in seconds))


def measured(folder: Path, count: int) -> tuple[list[list[str]], dict[str, float]]:
    """The rows of the table, and the seconds that have a goal."""
    file = folder / "headrace.yaml"
    file.write_text(yaml.safe_dump(spec(count)))
    rows, seconds = [["what", "seconds", "said"]], {}
    with open(os.devnull, "w") as nowhere:
        terminal, asked = Terminal(nowhere), load(str(file), parse)
        begun = time.monotonic()
        made = objects(asked, Wish(offline=True), terminal)[1]
        seconds["render"] = time.monotonic() - begun
        rows.append(["render", f"{seconds['render']:.2f}", f"{len(made)} objects of {count} models"])
        if why := absent():
            print(f"Not applied: {why}", file=sys.stderr)
            return rows, seconds
        _write_as_of_1_20()
        request = clusters.Request(Wish(offline=True))
        with control_plane(folder) as plane:
            which = clusters.Which(str(plane.kubeconfig))
            for what in ("apply", "again"):
                begun = time.monotonic()
                said = clusters.apply(asked, which, request, terminal)
                seconds[what] = time.monotonic() - begun
                rows.append([what, f"{seconds[what]:.1f}", said.partition(" in the cluster")[0]])
            if rows[-1][2] != f"{len(made)} unchanged":
                seconds["apply"] = float("inf")  # not what was asked for, however fast
            begun = time.monotonic()
            clusters.diff(asked, which, request.wish, terminal)
            rows.append(["diff", f"{time.monotonic() - begun:.1f}", ""])
            begun = time.monotonic()
            said = clusters.delete(asked, which, terminal, yes=True, weights=True)
            rows.append(["delete", f"{time.monotonic() - begun:.1f}", said.partition(" from")[0]])
    return rows, seconds


def spec(count: int) -> dict[str, Any]:
    """So many models that sleep and scale, each with a volume, a Job, a Deployment, a Service and what else belongs to it."""
    return {
        "models": {f"model-{number}": {"source": LLAMA, "replicas": "0..8"} for number in range(count)},
        "machine": {"azure": "Standard_NC24ads_A100_v4"},
        "kubernetes": {"namespace": "bench", "scaler": "keda", "image": "registry.example.com/headrace:1"},
    }


def _write_as_of_1_20() -> None:
    """The control plane is older than the objects: see tests/cluster/control_plane.py."""
    rendered = clusters.objects
    clusters.objects = lambda *arguments: (None, downlevel(rendered(*arguments)[1]))
    survey.KINDS = tuple(
        (each["apiVersion"], kind) for version, kind in survey.KINDS for each in downlevel([{"apiVersion": version}])
    )


if __name__ == "__main__":
    sys.exit(main())
