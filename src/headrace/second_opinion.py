"""NVIDIA's aiconfigurator beside our numbers for an offer, where it is installed: `headrace plan --second-opinion`."""

import contextlib
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.resources import files
from typing import Any

from headrace.facts.model import ModelFacts
from headrace.plan.intent import Intent
from headrace.plan.offer import Offer
from headrace.weights.source import parse

INSTALL = "pip install 'headrace[aiconfigurator]'"
_SYSTEMS = {
    "A100-40GB": "a100_sxm",
    "A100-80GB": "a100_sxm",
    "A100-80GB-PCIe": "a100_pcie",
    "A30": "a30",
    "H100-80GB": "h100_sxm",
    "H100-80GB-PCIe": "h100_pcie",
    "H200-141GB": "h200_sxm",
    "B200-180GB": "b200_sxm",
    "B300-269GB": "b300_sxm",
    "GB200-186GB": "gb200",
    "GB300-279GB": "gb300",
    "L4": "l4",
    "L40S": "l40s",
    "RTX-PRO-6000-96GB": "rtx_pro_6000_server",
}
"""Its names for our cards."""
_FORMATS = {"fp8": "fp8", "awq": "int4_wo"}
_SHAPE = {
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "vocab_size": "vocabulary",
}


@dataclass(frozen=True, slots=True)
class Opinion:
    """What it says of one replica's load, scaled to all replicas; `reason` is why it says nothing, or what it was asked about."""

    reason: str
    ttft_seconds: tuple[float, float] | None = None
    """Ours, theirs."""
    tpot_seconds: tuple[float, float] | None = None
    tokens_per_second: tuple[float, float] | None = None

    def data(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.ttft_seconds is None or self.tpot_seconds is None or self.tokens_per_second is None:
            return f"Second opinion: {self.reason}"
        rows = {"first token, ms": (self.ttft_seconds, 1e3), "per token, ms": (self.tpot_seconds, 1e3)}
        rows["tokens/s"] = (self.tokens_per_second, 1.0)
        lines = [_row(name, ours * scale, theirs * scale) for name, ((ours, theirs), scale) in rows.items()]
        head = f"  {'':<15}  {'Headrace':>9}  {'NVIDIA':>9}  ratio"
        return "\n".join([f"Second opinion: {self.reason}", head, *lines])


def _row(name: str, ours: float, theirs: float) -> str:
    return f"  {name:<15}  {ours:>9,.1f}  {theirs:>9,.1f}  {theirs / ours:>5.2f}"


def second_opinion(source: str, facts: ModelFacts, offer: Offer, intent: Intent) -> Opinion:
    """Its estimate for the offer's card, split and load. Takes seconds; never raises for what it does not know."""
    try:
        with _quiet():
            estimate = import_module("aiconfigurator.cli.api").cli_estimate
    except ImportError:
        return Opinion(f"aiconfigurator is not installed; {INSTALL} installs it (about 300 MB).")
    system = _SYSTEMS.get(offer.gpu.name)
    if system is None:
        return Opinion(f"aiconfigurator has no data for {offer.gpu.name}.")
    if facts.encoder:
        return Opinion("aiconfigurator knows no encoders.")
    model = _model(source, facts)
    if model is None:
        return Opinion(f"aiconfigurator ships no model of this shape ({facts.layers} layers of {facts.hidden}).")
    with _quiet():
        return _asked(estimate, model, system, facts, offer, intent)


def _asked(estimate: Callable[..., Any], model: str, system: str, facts: ModelFacts, offer: Offer, intent: Intent) -> Opinion:
    tp, pp = offer.tensor_parallel, offer.pipeline_parallel
    experts = {"moe_tp_size": tp, "moe_ep_size": 1} if facts.experts else {}
    format = _FORMATS.get(offer.quantization.name)
    formats = {"gemm_quant_mode": format} if format else {}
    load = {"isl": intent.prompt, "osl": intent.output, "batch_size": max(1, round(offer.speed.batch / pp))}
    try:
        said = estimate(model, system, backend_name="vllm", tp_size=tp, pp_size=pp, **load, **experts, **formats)
        ttft, tpot, rate = float(said.ttft) / 1e3, float(said.tpot) / 1e3, float(said.tokens_per_second) * offer.replicas
    except Exception as error:  # It raises many kinds for what it does not know.
        why = " ".join(str(error).split())[:200] or type(error).__name__
        return Opinion(f"aiconfigurator has no answer for {model} on {system}: {why}")
    if min(ttft, tpot, rate) <= 0:
        return Opinion(f"aiconfigurator has no answer for {model} on {system}.")
    return Opinion(
        f"aiconfigurator, asked about {model} on {system} with vLLM; its first token has no queue.",
        (offer.ttft.ttft.p50, ttft),
        (offer.speed.tpot_seconds.expected, tpot),
        (offer.speed.tokens_per_second.expected, rate),
    )


def _model(source: str, facts: ModelFacts) -> str | None:
    """The name of a model that it ships: this one's, or of one of the same shape. It is not let go and ask the hub."""
    shipped = dict(_shipped())
    wanted = parse(source).location if source.startswith("hf:") else ""
    if wanted in shipped:
        return wanted
    return next((name for name, config in sorted(shipped.items()) if _alike(config, facts)), None)


def _shipped() -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for file in files("aiconfigurator_core").joinpath("model_configs").iterdir():
            if match := re.fullmatch(r"(.+?)--(.+)(?<!hf_quant)_config\.json", file.name):
                yield f"{match[1]}/{match[2]}", json.loads(file.read_text("utf-8"))
    except (ImportError, OSError, ValueError):
        return


def _alike(config: dict[str, Any], facts: ModelFacts) -> bool:
    """Unquantized and of the same shape, experts included."""
    experts = facts.experts.count if facts.experts else None
    theirs = config.get("num_experts") or config.get("num_local_experts") or config.get("n_routed_experts")
    same = all(config.get(key) == getattr(facts, name) for key, name in _SHAPE.items())
    return same and theirs == experts and "quantization_config" not in config


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It talks: on its loggers, and on standard output, which is ours."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
