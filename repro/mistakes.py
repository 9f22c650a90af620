"""Turn a pydantic error into one plain sentence: what was found, what was expected, the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from repro.errors import nearest

Location = tuple[str | int, ...]


def first_mistake(error: ValidationError, model: type[BaseModel]) -> tuple[Location, str]:
    """Return the place and the sentence of the first mistake; unknown keys come before what they leave missing."""
    details = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    keys = _keys(details[0]["loc"], model)
    return keys, _sentence(details[0], keys, model)


def _keys(location: Location, model: type[BaseModel]) -> Location:
    """Leave out of a location the tags that pydantic puts in for members of a union: they are no keys of the file."""
    keys: list[str | int] = []
    current: list[type[BaseModel]] = [model]
    for part in location:
        tagged = [member for member in current if part in _tags(member)]
        if len(current) > 1 and tagged:
            current = tagged
            continue
        keys.append(part)
        current = [inner for member in current for inner in _field_models(member, part)] or current
    return tuple(keys)


def _sentence(item: ErrorDetails, location: Location, model: type[BaseModel]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    name = ".".join(str(part) for part in location) or "the file"
    if kind == "extra_forbidden":
        valid = _valid_keys(model, item["loc"][:-1])
        guess = nearest(str(location[-1]), valid)
        hint = f"did you mean {guess!r}?" if guess else f"valid: {', '.join(valid)}"
        return f"unknown key {name!r}; {hint}"
    if kind == "missing":
        return f"{name} is missing"
    if kind == "literal_error":
        guess = nearest(str(item["input"]), _options(context["expected"]))
        hint = f"; did you mean {guess!r}?" if guess else ""
        return f"{name} is {item['input']!r}, expected {context['expected']}{hint}"
    if kind == "value_error":
        return f"{name}: {context['error']}" if location else str(context["error"])
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{name} is {_short(item['input'])}: {message}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _options(expected: str) -> list[str]:
    return [part.strip("' ") for part in expected.replace(" or ", ",").split(",")]


def _valid_keys(model: type[BaseModel], location: Location) -> list[str]:
    """Names of the fields that may stand at `location` inside `model`."""
    current: list[type[BaseModel]] = [model]
    for part in location:
        matching = [m for m in current if part in _tags(m)]
        if matching:  # pydantic puts the tag of a union's member into the location
            current = matching
            continue
        found = [inner for m in current for inner in _field_models(m, part)]
        current = found or current
    return sorted({field for m in current for field in m.model_fields})


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Values of the field that tells the members of a union apart."""
    for name in ("family", "kind", "name"):
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is Literal:
            return get_args(field.annotation)
    return ()


def _field_models(model: type[BaseModel], part: str | int) -> list[type[BaseModel]]:
    if isinstance(part, str) and part in model.model_fields:
        return list(_models_in(model.model_fields[part].annotation))
    return []


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    for argument in arguments:
        yield from _models_in(argument)
