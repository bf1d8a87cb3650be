"""What can be served with on this machine: the engines that are installed, and what to say of those that are not."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headrace.engines.base import Engine, Installed
from headrace.plan.base import Decision
from headrace.plan.local_speed import Rates
from headrace.plan.offer import Knowledge
from headrace.units import show_duration

_GENERAL = ("llamacpp", "openvino", "vllm", "sglang", "tgi")
"""Engines that `auto` chooses from for language models; Triton and custom code are for what these cannot do."""


@dataclass(frozen=True, slots=True)
class Here:
    """`engines` are all that Headrace knows, `installed` those that are here, `rates` what was measured of them on a CPU,
    `starts` the seconds that starts of (engine, weights) took here, and how many of them that is from. `knowledge` is what was
    measured of vLLM on GPUs; None where there is no GPU, or no vLLM for it.
    """

    engines: Mapping[str, Engine]
    installed: Mapping[str, Installed]
    rates: Rates = field(default_factory=Rates)
    starts: Mapping[tuple[str, str], tuple[float, int]] = field(default_factory=dict)
    knowledge: Knowledge | None = None

    @property
    def general(self) -> list[str]:
        """Those that may be chosen for a language model, the embedded one first; engines of other packages last."""
        ours = [name for name in _GENERAL if name in self.installed and self.engines[name].local]
        return ours + [name for name in self.installed if name not in (*_GENERAL, "triton", "custom")]

    @property
    def on_cpu(self) -> "Here":
        """Without engines that are built for GPUs."""
        if self.knowledge is None:
            return self
        return replace(self, installed={name: one for name, one in self.installed.items() if name != "vllm"})

    def missing(self, name: str) -> str | None:
        """Why an engine that was asked for cannot be used here, with the command that helps; None when it can."""
        engine = self.engines.get(name)
        if engine is None:
            return f"there is no engine {name}."
        if name in self.installed:
            return None
        return f"{engine.title} is not installed here. {_advice(engine)}"

    def start(self, engine: str, weights: str) -> tuple[Decision, ...]:
        """How long a start is expected to take, where there was one."""
        if (engine, weights) not in self.starts:
            return ()
        seconds, count = self.starts[engine, weights]
        of = "the last start" if count == 1 else f"the last {count} starts, their median"
        return (Decision("start", show_duration(seconds), f"what {of} took here"),)

    def version(self, name: str) -> Decision:
        """The version that is installed."""
        return Decision("version", self.installed[name].version, f"the {self.engines[name].title} that is installed")


def _advice(engine: Engine) -> str:
    there = engine.installation
    if there.extra:
        return f"Run: pip install 'headrace[{there.extra}]'"
    return f"Run: headrace engines install {engine.name}" if there.requirements else there.elsewhere
