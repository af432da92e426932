"""What every part of douane.yaml's shape has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Strict and frozen: an unknown key is an error, and a loaded configuration never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


def every_model(of: type[Model] = Model) -> list[type[Model]]:
    """The models of douane.yaml. A private one is only what others have in common; what derives from a public one is
    what becomes of it after loading."""
    below = of.__subclasses__()
    return [leaf for one in below for leaf in (every_model(one) if one.__name__.startswith("_") else [one])]
