"""The `machine` key: what is planned for, or how much of this machine models may take."""

from typing import Annotated

from pydantic import Discriminator, Field, Tag, model_validator

from headrace.spec.values import Bytes, Cost, Strict, form


class MachineSpec(Strict):
    """The full form of `machine`: `gpus`, `azure`, or how much `memory` models may take of this one; and what it costs."""

    gpus: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="A number and a GPU of the catalogue: 2 x A100-80GB, or rtx-4090."
    )
    azure: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="A size of Azure, such as Standard_NC24ads_A100_v4."
    )
    max: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="At most so many machines of the size in `azure`; replicas are spread over them, none is split over two. 1 "
        "when left out.",
    )
    memory: Bytes | None = Field(
        None, description="On this machine: what all models together may take. Default: what is free when Headrace starts."
    )
    cost: Cost | None = Field(
        None,
        description="What one such machine costs: 3.67 USD/h. Shown by `headrace plan` and the dashboard, never guessed. "
        "Default: the catalogue's price for a size of Azure, where it has one.",
    )

    @model_validator(mode="after")
    def _one(self) -> "MachineSpec":
        named = sum(value is not None for value in (self.gpus, self.azure, self.memory))
        if named > 1 or (not named and self.cost is None):
            raise ValueError("needs one of `gpus`, `azure` and `memory`; write {gpus: 2 x A100-80GB}")
        if self.max is not None and self.azure is None:
            raise ValueError("has `max`, which counts machines of `azure`; write {gpus: 8 x A100-80GB} for one machine with more")
        return self


Hardware = Annotated[
    Annotated[str, Field(min_length=1), Tag("<name>")] | Annotated[MachineSpec, Tag("<options>")], Discriminator(form)
]
