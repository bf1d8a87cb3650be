"""The picture shows every end and every event, and the page needs nothing else; disturbances come in a fixed order."""

import json
import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from headrace.drill.base import ENDS, Asked, Event, Report, Wish
from headrace.drill.picture import html, svg
from headrace.drill.steps import Steps

REPORT = Report(
    "chat",
    [Asked(float(n), 0.5 + n % 3, "whole") for n in range(100)]
    + [Asked(40.0, 2.0, "told", "a stream's last event: <gone>", stream=True), Asked(41.0, 9.0, "dropped", "cut after 7 bytes")],
    [Event(10.0, "kill", "killed chat-1 (pid 7, 2 in flight)"), Event(60.0, "swap", "asks <notes>")],
    ["reload: the gateway serves no file"],
    seconds=100.0,
    resumed=3,
    retried=5,
)


def test_the_page_is_whole_by_itself() -> None:
    page = html(REPORT)
    assert not re.findall(r'(?:src|href)="', page)
    assert "<script" not in page
    assert "102 requests in 1m40s: 100 whole, 1 ended in a clear error, 1 dropped." in page
    assert "&lt;gone&gt;" in page
    assert "another replica went on with: 3." in page
    assert "not proven: reload: the gateway serves no file" in page


def test_every_end_and_every_event_is_drawn() -> None:
    found = svg(REPORT)
    for colour in ("c2", "c1", "c5"):  # dots of each end
        assert f'class="dots {colour}"' in found
    titles = [one.text for one in ElementTree.fromstring(found).iter() if one.tag.endswith("title")]
    assert "1: killed chat-1 (pid 7, 2 in flight)" in titles
    assert "2: asks <notes>" in titles
    counted = sum(int(title.split()[0]) for title in titles if title and re.match(r"\d+ (whole|ended|dropped)", title))
    assert counted == len(REPORT.asked), "each request is in one bar"


@given(
    st.lists(st.builds(Asked, st.floats(0, 1e5), st.floats(0, 1e4), st.sampled_from(ENDS), st.text()), min_size=1, max_size=30),
    st.lists(st.builds(Event, st.floats(0, 1e5), st.sampled_from(["kill", "roll"]), st.text("a<&\"'")), max_size=5),
)
def test_any_report_is_a_picture(asked: list[Asked], events: list[Event]) -> None:
    found = svg(Report("chat", asked, events, seconds=1.0))
    ElementTree.fromstring(found)
    assert "nan" not in found
    assert "inf" not in found


def test_the_report_for_machines_has_every_request() -> None:
    found = json.loads(REPORT.data())
    assert found["ends"] == {"whole": 100, "told": 1, "dropped": 1}
    assert len(found["requests"]) == 102
    assert found["resumed"] == 3


def test_kills_come_between_the_other_steps() -> None:
    wish = Wish("chat", kills=3, roll=True, swap="notes", reload="other.yaml", graduate="openvino")
    kinds = [kind for kind, _ in Steps("http://127.0.0.1:1", wish, lambda kind, said: None).all()]
    assert kinds == ["kill", "scale", "kill", "swap", "kill", "roll", "reload", "graduate"]
    assert [kind for kind, _ in Steps("", Wish("chat", kills=2, scale=False), lambda kind, said: None).all()] == ["kill", "kill"]
