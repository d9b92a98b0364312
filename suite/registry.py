"""Named things a user chooses in the YAML: each is one small settings class, registered by its `name`.

Modules that register must stay importable without torch, because the experiment schema imports them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class Settings(BaseModel):
    """Frozen settings: unknown keys are errors, every field documents itself."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


T = TypeVar("T", bound=Settings)


class Registry(Generic[T]):
    """Settings classes by name; `tag` is the field that holds the name, such as `name: infonce`.

    Use as a decorator to register, and as `Annotated[Base, REGISTRY]` for a field that accepts any of them.
    """

    def __init__(self, tag: str = "name") -> None:
        self.tag = tag
        self._classes: dict[str, type[T]] = {}

    def __call__(self, cls: type[T]) -> type[T]:
        (name,) = get_args(cls.model_fields[self.tag].annotation)
        if name in self._classes:
            raise ValueError(f"{name!r} is registered twice: {self._classes[name].__qualname__} and {cls.__qualname__}")
        self._classes[name] = cls
        return cls

    def __getitem__(self, name: str) -> type[T]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {name: handler.generate_schema(cls) for name, cls in self._classes.items()}
        return core_schema.tagged_union_schema(choices, discriminator=self.tag)


def named(value: Any) -> Any:
    """Let a bare name stand for its settings: `halves` is `{name: halves}`."""
    return {"name": value} if isinstance(value, str) else value


def located(path: tuple[str | int, ...], message: str) -> PydanticCustomError:
    """What a validator of several fields raises: the problem, and the path of the field it is told at."""
    return PydanticCustomError("located", "{message}", {"message": message, "path": path})
