"""What a gateway in a cluster is told: its models, and how their pods are found. `headrace render` writes it."""

from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from headrace.errors import HeadraceError
from headrace.spec.kubernetes import Name
from headrace.spec.limits import PriceSpec
from headrace.spec.model import GatewaySpec, ModelName, ModelSpec
from headrace.spec.rules import astray
from headrace.spec.values import Strict
from headrace.traffic import Caches, Continues, Speaks, Task

_MISTAKES_SAID = 10
_WRITTEN = "`headrace render` writes gateway.json; a headrace.yaml is what `headrace serve` takes."


class GatewayFileError(HeadraceError):
    """A file that a gateway cannot run by."""

    exit_code = 78


class InPods(Strict):
    """A model in pods, which the EndpointSlices of `service` name one by one."""

    service: Name = Field(description="The Service of its pods.")
    port: Annotated[str, Field(min_length=1, max_length=15)] = Field("http", description="The name of the Service's port.")
    slots: Annotated[int, Field(ge=1, le=65536)] = Field(description="Requests that one replica serves at once.")
    replicas: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] = Field(
        (1, 1), description="The fewest and the most; with 0 it may sleep, and waiting requests wake it."
    )
    start: Annotated[int, Field(ge=0)] = Field(0, description="Seconds that a start takes, as planned.")
    task: Task = Field("generate", description="What it does.")
    context: Annotated[int, Field(ge=1)] | None = Field(None, description="Tokens of one request.")
    speaks: Speaks = Field("openai", description="What its replicas understand.")
    folds: bool = Field(False, description="Its engine notices a lost client only while it streams.")
    continues: Continues | None = Field(None, description="How its engine goes on with a text that it did not begin.")
    caches: Caches = Field("blocks", description="What its engine keeps of prompts: blocks, or the last one of each slot.")
    template: str | None = Field(None, description="The chat template, for engines that only complete text.")
    also: tuple[str, ...] = Field((), description="Further names that its engine knows itself.")


class OnTrial(InPods):
    """The pods that a model is on its way to: `headrace graduate --cluster` writes it, and takes it out again."""

    share: Annotated[float, Field(ge=0, le=1)] = Field(description="The part of the conversations that goes to them.")


class ServiceModel(InPods):
    """A model in pods, and those that are on trial for it."""

    trial: OnTrial | None = Field(None, description="The pods that it is on its way to.")

    @model_validator(mode="after")
    def _two_services(self) -> "ServiceModel":
        if self.trial is not None and self.trial.service == self.service:
            raise ValueError(f"is on trial against itself: both are the Service {self.service}")
        return self


class ScalerSpec(Strict):
    """The external scaler that KEDA asks, and through which gateways ask each other."""

    service: Name = Field("gateway-scaler", description="The Service of the gateways' scaler port.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(9091, description="Where it listens.")


class GatewayFile(Strict):
    """The whole file."""

    namespace: Name = Field(description="Where the Services are.")
    service: Name = Field("gateway", description="The gateway's own Service: the pods behind it share every replica's slots.")
    models: dict[ModelName, ServiceModel] = Field({}, description="Models in pods.")
    outside: dict[ModelName, ModelSpec] = Field({}, description="Models that run elsewhere already: `url`.")
    aliases: dict[ModelName, str] = Field({}, description="Other names for models.")
    prices: dict[ModelName, PriceSpec] = Field({}, description="What tokens of `models` cost.")
    gateway: GatewaySpec = Field(GatewaySpec(), description="As in headrace.yaml.")
    scaler: ScalerSpec | None = Field(None, description="None: nobody is told of the load.")

    @property
    def priced(self) -> dict[str, PriceSpec | None]:
        """Every model with its price, None where nobody knows it."""
        inside = {name: self.prices.get(name) for name in self.models}
        return inside | {name: model.price for name, model in self.outside.items()}

    @model_validator(mode="after")
    def _names_are_clear(self) -> "GatewayFile":
        names = [*self.models, *self.outside]
        if not names:
            raise ValueError("names no model; write `models` or `outside`")
        if twice := set(self.models) & set(self.outside):
            raise ValueError(f'has "{min(twice)}" in `models` and in `outside`; it is one of them')
        for alias, what in astray(dict.fromkeys(names), self.aliases):
            raise ValueError(f"alias {alias} {what}")
        for name, model in self.outside.items():
            if not model.url:
                raise ValueError(f"outside.{name} has no `url`; a model that is started by the cluster stands in `models`")
        return self


def read(text: str | bytes, where: str) -> GatewayFile:
    """The file with this content; `where` names it in errors. Raises GatewayFileError with every mistake."""
    try:
        return GatewayFile.model_validate_json(text)
    except ValidationError as error:
        mistakes = [_sentence(each) for each in error.errors(include_url=False)]
        more = len(mistakes) - _MISTAKES_SAID
        told = "; ".join(mistakes[:_MISTAKES_SAID]) + (f"; and {more} more" if more > 0 else "")
        raise GatewayFileError(f"{where}: {told}.", _WRITTEN) from None


def _sentence(error: Any) -> str:
    """Without the value, which may be of another file, or a secret in the wrong place."""
    path = ".".join(map(str, error["loc"]))
    said = error["msg"].removeprefix("Value error, ")
    return f"{path}: {said}" if path else said
