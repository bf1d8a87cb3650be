"""Headrace for the tests' control plane: what 1.20 has in an earlier version only is written in that. `older.py graduate …`."""

import sys
from collections.abc import Callable
from typing import Any

from control_plane import downlevel

from headrace import clusters
from headrace.cli import main
from headrace.cluster_graduation import prospect
from headrace.targets.kubernetes import survey


def talk_older(replace: Callable[[object, str, Any], None] = setattr) -> None:
    """From now on objects are made so, and looked for so."""
    rendered = clusters.objects

    def objects(*arguments: Any) -> Any:
        cluster, made = rendered(*arguments)
        return cluster, downlevel(made)

    for module in (clusters, prospect):
        replace(module, "objects", objects)
    kinds = tuple((each["apiVersion"], kind) for version, kind in survey.KINDS for each in downlevel([{"apiVersion": version}]))
    replace(survey, "KINDS", kinds)


if __name__ == "__main__":
    talk_older()
    sys.exit(main(sys.argv[1:]))
