"""`from headrace import Fleet`: the commands' questions, asked from Python. Every call blocks, in notebooks too."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Unpack

import yaml

from headrace.control.recording import in_cache
from headrace.control.replay import export
from headrace.dashboard.past import SPANS, Curves, curves
from headrace.elsewhere import Question, together, weighed
from headrace.errors import PlanError, UsageError
from headrace.learned import knowledge
from headrace.measure.asking import Options as Bench
from headrace.measure.asking import asked
from headrace.measure.base import Report
from headrace.measure.bench import bench, measured
from headrace.measure.wish import Wish
from headrace.named import spec_named
from headrace.notebook import tables
from headrace.notebook.result import Result
from headrace.notebook.tables import Offers
from headrace.plan import offer_text
from headrace.plan.base import Plan
from headrace.plan.fleet import Fleet as Packed
from headrace.plan.fleet import fleet as packed
from headrace.planning import members_of, plan_here
from headrace.prepare import cache_of, history_of
from headrace.report import get
from headrace.simulate.outcome import Outcome
from headrace.simulate.suggest import Suggestion
from headrace.simulating import Options as Simulation
from headrace.simulating import Wish as Asked
from headrace.simulating import compared, suggested
from headrace.spec.addresses import GATEWAY
from headrace.spec.file import lock_of
from headrace.spec.load import loads
from headrace.spec.model import Spec
from headrace.terminal import Terminal
from headrace.top.base import Look, Watched
from headrace.weights.source import parse


class Fleet:
    """The models of a file, or one model, and the gateway that serves them where one is running.

    `what` is as for `headrace plan`: a YAML file, ./model.gguf, hf:org/name; None: only the gateway is asked. `url` is the
    gateway's address (default: HEADRACE_URL, else http://127.0.0.1:8000), `key` an administrator's where it has keys (default:
    HEADRACE_KEY). Nothing is read, asked or fetched until a question needs it. With `offline` nobody but the gateway is asked.
    """

    def __init__(
        self, what: str | os.PathLike[str] | None = None, *, url: str | None = None, key: str | None = None, offline: bool = False
    ) -> None:
        self._what = None if what is None else os.fspath(what)
        self._url, self._offline = url or os.environ.get("HEADRACE_URL", GATEWAY), offline
        self._remote = url is not None or what is None
        self._key = os.environ.get("HEADRACE_KEY", "") if key is None else key
        self._made: Spec | None = None

    @classmethod
    def from_models(
        cls,
        models: Mapping[str, str | Mapping[str, Any]],
        *,
        url: str | None = None,
        key: str | None = None,
        offline: bool = False,
        **sections: Any,
    ) -> "Fleet":
        """A fleet without a file: `models` and further `sections` are as in one, {"chat": "hf:org/name"}. Raises SpecError."""
        made = cls(None, url=url, key=key, offline=offline)
        text = yaml.safe_dump({"models": dict(models), **sections}, sort_keys=False, allow_unicode=True)
        made._made = loads(text, "from_models", parse)
        made._remote = url is not None
        return made

    def __repr__(self) -> str:
        where = self._what or (", ".join(self._made.models) if self._made else "what is served")
        return f"<Fleet: {where}, at {self._url}>"

    @property
    def spec(self) -> Spec:
        """What the file says, read once. Raises SpecError with every mistake, and UsageError where no models are named."""
        if self._made is None:
            if self._what is None:
                raise UsageError(
                    "No models are named, only a gateway.", 'Write Fleet("headrace.yaml") or Fleet.from_models({…}).'
                )
            self._made = spec_named(self._what)
        return self._made

    def plan(
        self,
        machine: str | None = None,
        *,
        users: int | None = None,
        prompt: int | str | None = None,
        output: int | str | None = None,
        context: int | str | None = None,
        ttft: float | str | None = None,
        tpot: float | str | None = None,
    ) -> Result[Plan] | Result[Offers] | Result[Packed]:
        """What would run where. Nothing is fetched.

        Without `machine`, on this one or the file's: a Plan. On machines that are asked about ("2 x A100-80GB", "azure"): the
        Offers for one model, or several packed together. The rest is what it is for (default: the file's); `ttft` and `tpot` are
        in seconds, or text such as "500ms". Raises HeadraceError.
        """
        said = {"users": users, "prompt": prompt, "output": output, "context": context, "ttft": ttft, "tpot": tpot}
        wanted = ",".join(f"{name}={_said(name, value)}" for name, value in said.items() if value is not None)
        question, terminal = Question(machine, wanted, offline=self._offline), Terminal()
        asked = self.spec.elsewhere if machine is None else None if machine == "auto" else machine
        if asked is None:
            if wanted:
                raise UsageError(f"{wanted} needs a machine that is asked about.", "For this one, write `for` in the file.")
            return tables.of_plan(plan_here(self.spec, self._lock, question, terminal))
        members, machines = members_of(self.spec, question, terminal)
        known = knowledge(cache_of(self.spec).root)
        if together(members):
            return tables.of_packing(packed(members, machines, known))
        ((name, member),) = members.items()
        considered, best = weighed(member, machines, known)
        if not best:
            text = offer_text.explain(name, considered, best, member.intent).rstrip()
            raise PlanError(f"{text}\n\nAsk for less, or for other machines.")
        return tables.of_offers(name, Offers(tuple(considered), tuple(best)), member.intent)

    def status(self) -> Result[Look]:
        """The models that the gateway serves, and their load; waiting since it started. Raises HeadraceError."""
        status, decisions, keys = (self._get(f"/admin/{name}") for name in ("status", "decisions", "keys"))
        look = Watched(self._url, whole=True).seen(time.time(), status, decisions["decisions"], keys["keys"])
        return tables.of_look(look)

    def decisions(self) -> Result[tuple[dict[str, Any], ...]]:
        """What changed a number of replicas, and why, the newest last. Raises HeadraceError."""
        return tables.of_decisions(self._get("/admin/decisions")["decisions"], time.time())

    def history(self, model: str | None = None, span: str = "1h") -> Result[Curves]:
        """A model's load over `span` (15m, 1h, 6h, 1d, 7d, 30d): from the gateway where its `url` was given, else from what is
        kept here. `model` may be left out where there is one. Raises HeadraceError.
        """
        if span not in SPANS:
            raise UsageError(f'span: "{span}" is not one.', f"There are {', '.join(SPANS)}.")
        if self._remote:
            from urllib.parse import urlencode

            name = self._one(model, [one["name"] for one in self._get("/admin/status")["models"]])
            found = self._get("/admin/pages/history?" + urlencode({"model": name, "span": span}))
            told = [(float(at), str(change), str(why)) for at, change, why in found.pop("decisions")]
            return tables.of_curves(name, Curves(decisions=told, **found))
        name = self._one(model, list(self.spec.models))
        served = os.path.abspath(self._what) if self._what and os.path.exists(self._what) else self._what or ""
        return tables.of_curves(name, curves(self._history, name, SPANS[span], served))

    def export(self, file: str | os.PathLike[str]) -> int:
        """Write the requests of the history that is kept here as a trace for `simulate`, .csv or .parquet; their number."""
        return export(self._history, Path(file))

    def bench(self, model: str | None = None, **options: Unpack[Bench]) -> Result[Report]:
        """Measure the gateway. Without a load: 1, 8 and 32 at once.

        The options are those of `headrace bench`, with _ for -: concurrency=[1, 8], rate=4, find_rate=True,
        slo="ttft=500ms,tpot=50ms", trace="requests.csv", prompt=512, output=128, duration="30s", seed=1, and the others.
        Interrupted, what was measured until then is returned. Raises HeadraceError.
        """
        url = self._url.rstrip("/").removesuffix("/v1") + "/v1"
        return tables.of_report(_measured(asked(url, model, self._key, options)))

    def simulate(
        self, trace: str | os.PathLike[str], policies: Sequence[str] = (), **options: Unpack[Simulation]
    ) -> Result[tuple[Outcome, ...]]:
        """A trace through scaling policies. Raises HeadraceError.

        The options are those of `headrace simulate`, with _ for -: model="chat", machine="A100-80GB", replicas="1..4",
        replica="slots=8,prefill=9000,step=12ms", cold_start="2m", limit="2s", times=3.
        """
        wish = Asked(Path(trace), tuple(policies), offline=self._offline, **options)
        return tables.of_outcomes(*compared(self._simulated(wish), wish, Terminal()))

    def suggest(self, trace: str | os.PathLike[str], **options: Unpack[Simulation]) -> Result[Suggestion]:
        """The fewest replicas and the `scale.queue` that keep the limit at least cost, as `headrace simulate --suggest`; the
        options are those of `simulate`. Raises HeadraceError.
        """
        wish = Asked(Path(trace), offline=self._offline, **options)
        return tables.of_suggestion(*suggested(self._simulated(wish), wish, Terminal()))

    def _simulated(self, wish: Asked) -> Spec | None:
        """What is simulated; None where only rates are given."""
        named = self._made is not None or self._what is not None
        return self.spec if named or not wish.replica else None

    @property
    def _lock(self) -> Path | None:
        return lock_of(self._what) if self._what else None

    @property
    def _history(self) -> Path:
        from headrace.weights.cache import default_root

        return history_of(self.spec) if self._made or self._what else in_cache(default_root())

    def _get(self, path: str) -> Any:
        return get(self._url, path, self._key)

    def _one(self, model: str | None, known: Sequence[str]) -> str:
        if model is None and len(known) == 1:
            return known[0]
        if model is None or model not in known:
            problem = "There are several models." if model is None else f'There is no model "{model}".'
            raise UsageError(problem, f"Name one of {', '.join(known)}.")
        return model


def _measured(wish: Wish) -> Report:
    """The bench, on a loop of its own: the one that runs a notebook's cells cannot be run within itself."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return bench(wish)
    began: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> Report:
        stop = asyncio.Event()
        began.append((asyncio.get_running_loop(), stop))
        return await measured(wish, stop=stop)

    with ThreadPoolExecutor(1, "bench") as pool:
        report = pool.submit(lambda: asyncio.run(run()))
        try:
            return report.result()
        except KeyboardInterrupt:
            for loop, stop in began:
                loop.call_soon_threadsafe(stop.set)
            return report.result()


def _said(name: str, value: float | str) -> str:
    return f"{value * 1000:g}ms" if name in ("ttft", "tpot") and not isinstance(value, str) else str(value)
