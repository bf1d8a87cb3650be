"""What is shipped beside the pages: the Grafana dashboard, alert rules, vendored files; all true of this Headrace."""

import hashlib
import json
import re

import yaml

from headrace.dashboard.files import HERE
from headrace.gateway.metrics import NAMES

KNOWN = {name.name for name in NAMES} | {
    name.name + suffix for name in NAMES if name.kind == "histogram" for suffix in ("_bucket", "_sum", "_count")
}
LABELS = {name.name: set(name.labels) for name in NAMES}


def expressions() -> list[str]:
    panels = json.loads((HERE / "grafana.json").read_text())["panels"]
    rules = yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"][0]["rules"]
    return [target["expr"] for panel in panels for target in panel["targets"]] + [rule["expr"] for rule in rules]


def test_every_metric_that_is_asked_for_exists() -> None:
    used = {name for each in expressions() for name in re.findall(r"headrace_\w+", each)}
    assert len(used) > 12
    assert used <= KNOWN


def test_every_label_that_is_asked_for_exists() -> None:
    for each in expressions():
        for metric, labels in re.findall(r"(headrace_\w+?)(?:_bucket)?\{([^}]*)\}", each):
            assert set(re.findall(r"(\w+)=", labels)) <= LABELS[metric], each


def test_the_grafana_dashboard_has_no_two_panels_in_one_place() -> None:
    panels = json.loads((HERE / "grafana.json").read_text())["panels"]
    assert (
        len({(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels}) == len(panels) == len({one["id"] for one in panels})
    )


def test_every_alert_says_what_is_wrong_and_how_bad() -> None:
    rules = yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert all(rule["labels"]["severity"] in ("warning", "critical") and rule["annotations"]["summary"] for rule in rules)


def test_vendored_files_are_those_of_their_packages() -> None:
    rows = re.findall(r"^\| (\S+) \|.*\| ([0-9a-f]{64}) \|$", (HERE / "static" / "VENDORED.md").read_text(), re.MULTILINE)
    folder = HERE / "static" / "vendored"
    assert {name for name, _ in rows} == {file.name for file in folder.iterdir() if file.suffix != ".LICENSE"}
    for name, digest in rows:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_pages_hold_no_script_and_no_style_of_their_own() -> None:
    """The content security policy would refuse them."""
    for page in (HERE / "pages").rglob("*.html"):
        text = page.read_text()
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|javascript:|\|\s*safe\b", text), page
        assert "//" not in re.sub(r"https?://www\.w3\.org\S*", "", text).replace("<!--", ""), page
