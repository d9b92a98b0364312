"""Several views one after the other, and the type of every source's `views`: one view, or a list of them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from suite.data.views import VIEWS, View
from suite.registry import Registry, named


def _some(value: Any) -> Any:
    if isinstance(value, list | tuple) and not value:
        raise ValueError("an empty list has no view; identical shows both towers the sample itself")
    return value


class Composition(View):
    """Views applied in order, written as a list: `views: [halves, {name: gaussian-noise, std: 0.2}]`. An axis is a list
    already, also after --set and in a profile: there `[[halves, shift], [halves]]` are two values of `data.views`."""

    name: Literal["composition"] = "composition"
    views: Annotated[tuple[Annotated[View, VIEWS, BeforeValidator(named)], ...], BeforeValidator(_some)] = Field(
        strict=False
    )
    """Each as a name, or as a mapping with its settings."""

    @property
    def noise(self) -> float:
        """The root of the sum of the squares: their noises are independent."""
        return math.hypot(*(view.noise for view in self.views))

    def __call__(self, query: np.ndarray, key: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Each view on what the one before it made."""
        for view in self.views:
            query, key = view(query, key, rng)
        return query, key


def _all_choices() -> Registry[View]:
    choices: Registry[View] = Registry()
    for name in VIEWS:
        choices(VIEWS[name])
    choices(Composition)
    return choices


def _composed(value: Any) -> Any:
    return {"name": "composition", "views": value} if isinstance(value, list) else named(value)


def _simplest(view: View) -> View:
    """A list of one view is that view, and so has its id."""
    return view.views[0] if isinstance(view, Composition) and len(view.views) == 1 else view


VIEW_CHOICES: Registry[View] = _all_choices()

Views = Annotated[View, VIEW_CHOICES, BeforeValidator(_composed), AfterValidator(_simplest)]
"""A view by its name or with its settings, or a list of such that are applied in order."""
