"""What does a model cost? A dated table, and the user's own on top of it; a price that is not known is never taken for 0."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coral_backend.exceptions import SettingsError

__all__ = ["Price", "PriceTable", "host_of"]

BUILT_IN = Path(__file__).with_name("prices.yaml")
ANY = "*"
"""Stands for every endpoint, or every model."""

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True)
class Price:
    """What a model takes, in USD per million tokens.

    Attributes
    ----------
    input, output : float
        At least 0.
    cached : float or None
        Input that the endpoint had in its prompt cache; None where that costs as much as any input.
    batch : float
        The share of these prices, in [0, 1], that the Batch API takes.
    """

    input: float
    output: float
    cached: float | None = None
    batch: float = 1.0

    def cost(self, prompt_tokens: float, completion_tokens: float, *, cached: float = 0, batch: bool = False) -> float:
        """Return the USD that so many tokens cost; `cached` of the prompt's tokens were cached."""
        cached = min(cached, prompt_tokens)
        fresh = (prompt_tokens - cached) * self.input + cached * (self.input if self.cached is None else self.cached)
        return (fresh + completion_tokens * self.output) / 1e6 * (self.batch if batch else 1.0)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    cached: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    batch: float | None = Field(default=None, ge=0, le=1)


class _Endpoint(BaseModel):
    model_config = ConfigDict(extra="forbid")
    batch: float = Field(default=1.0, ge=0, le=1)
    models: dict[str, _Model]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    date: Any = None
    endpoints: dict[str, _Endpoint]


class PriceTable:
    """Prices by endpoint and model.

    Parameters
    ----------
    date : str
        Of the table that comes with CORAL.
    prices : mapping
        From ``(host, model)``; the user's and the built-in, the user's first.
    """

    def __init__(self, date: str, layers: tuple[Mapping[tuple[str, str], Price], ...], own: Path | None = None) -> None:
        self.date = date
        self.own = own
        self._layers = layers

    @classmethod
    def load(cls, own: Path | None = None) -> PriceTable:
        """Read the table that comes with CORAL, and the user's file `own` on top of it.

        Raises
        ------
        SettingsError
            If `own` cannot be read or is not of the form of ``prices.yaml``.
        """
        date, built_in = _built_in()
        return cls(date, (built_in,) if own is None else (_read(own)[1], built_in), own)

    def find(self, base_url: str, model: str) -> Price | None:
        """Return the price of a model at an endpoint, None when it is not known.

        A dated snapshot (``gpt-4o-mini-2024-07-18``) costs what its model does, unless it has a price of its own.
        """
        hosts = [*host_of(base_url), ANY]
        models = [model, _SNAPSHOT.sub("", model), ANY]
        found = (layer.get((host, name)) for layer in self._layers for host in hosts for name in models)
        return next((price for price in found if price is not None), None)

    def advice(self, base_url: str, model: str) -> str:
        """Say how a missing price can be given."""
        host = host_of(base_url)[0]
        place = f"to {self.own}" if self.own is not None else "to a YAML file and name it in CORAL_PRICES"
        entry = f"endpoints: {{{host!r}: {{models: {{{model!r}: {{input: 0.15, output: 0.60}}}}}}}}"
        return f"Add its price in USD per million tokens (0 for a server of your own) {place}: {entry}"


def host_of(base_url: str) -> tuple[str, ...]:
    """Return the names under which an address may stand in the table: host and port where a port is written, then the host."""
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    return (f"{host}:{parts.port}", host) if parts.port else (host,)


@cache
def _built_in() -> tuple[str, dict[tuple[str, str], Price]]:
    return _read(BUILT_IN)


def _read(path: Path) -> tuple[str, dict[tuple[str, str], Price]]:
    try:
        file = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"CORAL_PRICES: {path} cannot be read ({type(error).__name__}).") from None
    except yaml.YAMLError:
        raise SettingsError(f"CORAL_PRICES: {path} is no YAML. It has the form of {BUILT_IN}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise SettingsError(
            f"CORAL_PRICES: {path}: {where}: {first['msg']}. Allowed: endpoints: {{host: {{batch: 0.5, models: "
            f"{{name: {{input: 0.15, cached: 0.075, output: 0.60}}}}}}}}, as in {BUILT_IN}."
        ) from None
    prices = {
        (host.lower(), name): Price(
            one.input, one.output, one.cached, endpoint.batch if one.batch is None else one.batch
        )
        for host, endpoint in file.endpoints.items()
        for name, one in endpoint.models.items()
    }
    return str(file.date or ""), prices
