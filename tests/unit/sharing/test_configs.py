"""Configurations for NVIDIA's device plugin and mig-parted: ours keep every rule, and rules find what breaks them."""

import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.facts import catalogue
from headrace.facts.hardware import MigProfile
from headrace.plan.packing.mig import place
from headrace.targets.sharing import device_plugin, mig

NVIDIA = Path(os.environ.get("HEADRACE_SHARED", Path(__file__).parents[4] / "shared")) / "crds" / "nvidia"
A100 = catalogue.gpus()["A100-80GB"]
PROFILES = {profile.name: profile for profile in A100.mig}


@pytest.mark.parametrize(("slices", "how", "cut"), list(product((1, 2, 16), ("time-slicing", "mps"), (False,))))
def test_what_we_write_for_the_device_plugin_keeps_its_rules(slices: int, how: device_plugin.How, cut: bool) -> None:
    assert list(device_plugin.problems(device_plugin.config(slices, how, mig=cut))) == []


def test_shared_gpus_have_a_name_of_their_own_and_nobody_gets_two_slices() -> None:
    means = device_plugin.config(4, "time-slicing")["sharing"]["timeSlicing"]
    assert (means["renameByDefault"], means["failRequestsGreaterThanOne"]) == (True, True)


def shared(**means: Any) -> dict[str, Any]:
    good = {"renameByDefault": True, "failRequestsGreaterThanOne": True, "resources": [{"name": "nvidia.com/gpu", "replicas": 2}]}
    return {"version": "v1", "sharing": {"timeSlicing": {**good, **means}}}


WRONG = [
    ({"version": "v2"}, "only v1"),
    (shared(resources=[]), "no resources specified"),
    (shared(resources=[{"replicas": 2}]), "without a name"),
    (shared(resources=[{"name": "nvidia.com/gpu", "replicas": 1}]), "must be >= 2"),
    (shared(resources=[{"name": "nvidia.com/gpu", "replicas": 2, "devices": [0]}]), "ignored"),
    (shared(failRequestsGreaterThanOne=False), "two slices are two of the same GPU"),
    (shared(renameByDefault=False), "cannot be told apart"),
    # a typo is ignored by the plugin, so that it is ours to find
    (shared(failRequestGreaterThanOne=True), "failRequestGreaterThanOne is no key"),
    ({"flags": {"migstrategy": "mixed"}}, "flags.migstrategy is no key"),
    ({"flags": {"migStrategy": "both"}}, "none, single or mixed"),
    ({"flags": {"migStrategy": "mixed"}, "sharing": {"mps": shared()["sharing"]["timeSlicing"]}}, "MPS on MIG"),
    ({"sharing": {"mps": {}, "timeSlicing": {}}}, "keep one"),
]


@pytest.mark.parametrize(("config", "what"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_rule_of_the_device_plugin_is_found(config: dict[str, Any], what: str) -> None:
    assert any(what in problem for problem in device_plugin.problems(config))


@given(st.lists(st.lists(st.sampled_from(A100.mig), max_size=7), min_size=1, max_size=8))
def test_every_layout_that_can_be_is_written_so_that_mig_parted_takes_it(devices: list[list[MigProfile]]) -> None:
    layout = tuple(tuple(device) if place(device, A100) is not None else () for device in devices)
    config = mig.config({"pool": layout})
    assert list(mig.problems(config, A100)) == []
    written = {index: {} for index in range(len(layout))} if layout else {}
    for entry in config["mig-configs"]["pool"]:
        for index in range(len(layout)) if entry["devices"] == "all" else entry["devices"]:
            written[index] = entry.get("mig-devices", {})
    assert [sum(written[index].values()) for index in range(len(layout))] == [len(device) for device in layout]


WRONG_LAYOUTS = [
    ({"mig-configs": {"a": [{"devices": "all", "mig-enabled": False}]}}, "version"),
    ({"version": "v1", "mig-configs": {}}, "at least one config"),
    ({"version": "v1", "mig-configs": {"a": []}}, "at least one entry"),
    ({"version": "v1", "configs": {}, "mig-configs": {"a": [{"devices": "all", "mig-enabled": False}]}}, "unknown field"),
    ({"version": "v1", "mig-configs": {"a": [{"mig-enabled": False}]}}, "devices"),
    ({"version": "v1", "mig-configs": {"a": [{"devices": "all"}]}}, "mig-enabled is required"),
    ({"version": "v1", "mig-configs": {"a": [{"devices": [0], "mig-enabled": True}]}}, "mig-devices is required"),
    (
        {"version": "v1", "mig-configs": {"a": [{"devices": [0], "mig-enabled": True, "mig-devices": {"1g.99gb": 1}}]}},
        "no profile",
    ),
    # eight of seven
    (
        {"version": "v1", "mig-configs": {"a": [{"devices": [0], "mig-enabled": True, "mig-devices": {"1g.10gb": 8}}]}},
        "cannot be cut",
    ),
    # seven compute slices in all, and no room for the memory of a third
    (
        {"version": "v1", "mig-configs": {"a": [{"devices": [0], "mig-enabled": True, "mig-devices": {"3g.40gb": 3}}]}},
        "cannot be cut",
    ),
]


@pytest.mark.parametrize(("config", "what"), WRONG_LAYOUTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_rule_of_mig_parted_is_found(config: dict[str, Any], what: str) -> None:
    assert any(what in problem for problem in mig.problems(config, A100))


AKS = [
    # all devices in slices of one size: AKS cuts them itself
    ([["1g.10gb"] * 7], "MIG1g"),
    ([["1g.10gb"]], "MIG1g"),
    ([["3g.40gb", "3g.40gb"], ["3g.40gb"]], "MIG3g"),
    # double memory has no flag, nor have mixtures, nor devices that are left whole
    ([["1g.20gb"]], None),
    ([["1g.10gb", "2g.20gb"]], None),
    ([["1g.10gb"], []], None),
]


@pytest.mark.parametrize(("names", "profile"), AKS)
def test_aks_cuts_by_itself_what_it_can(names: list[list[str]], profile: str | None) -> None:
    layout = tuple(tuple(PROFILES[name] for name in device) for device in names)
    assert mig.aks_profile(layout, A100) == profile


def test_slices_are_asked_for_by_the_names_of_the_mixed_strategy() -> None:
    assert mig.resource(PROFILES["1g.10gb"]) == "nvidia.com/mig-1g.10gb"
    assert mig.resource(PROFILES["1g.10gb+me"]) == "nvidia.com/mig-1g.10gb.me"


@pytest.mark.skipif(not NVIDIA.is_dir(), reason="shared/crds is not here")
@pytest.mark.parametrize("name", ["mig-parted-config.example.yaml", "mig-parted-config-default.yaml"])
def test_nvidias_own_configurations_pass_our_rules(name: str) -> None:
    assert list(mig.problems(yaml.safe_load((NVIDIA / name).read_text()))) == []
