"""What sections of the options are made of: frozen mappings of known words, and their types of numbers."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def number(value: Any) -> Any:
    """No silent conversion of text or yes/no into numbers."""
    if isinstance(value, (str, bool)):
        raise ValueError(f"must be a number, not {value!r}")
    return value


Int = Annotated[int, BeforeValidator(number)]
PositiveInt = Annotated[int, Field(gt=0), BeforeValidator(number)]
Float = Annotated[float, BeforeValidator(number)]
PositiveFloat = Annotated[float, Field(gt=0), BeforeValidator(number)]
Beta = Annotated[float, Field(ge=0, lt=1), BeforeValidator(number)]


class Section(BaseModel):
    """A frozen mapping of known words."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )


class Figures(Section):
    """Published figures, by the names of val.metrics, shown beside the measured ones."""

    expected: dict[str, Float] = Field(default_factory=dict)
    """Published figures of network_g here, by the names of val.metrics, shown beside the measured ones."""
    expected_plain: dict[str, Float] = Field(default_factory=dict)
    """Those of the same network without TLC, where network_g has it."""
    expected_local: dict[str, Float] = Field(default_factory=dict)
    """Those of the same network with TLC, where network_g has none."""


class Component(Section):
    """`{type: name, ...}`: a registered class or function and its own arguments, which its signature checks."""

    model_config = ConfigDict(extra="allow")
    type: str
    """What it is: a registered name, or package.module:Name."""

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def as_dict(self) -> dict[str, Any]:
        return {"type": self.type, **self.arguments}
