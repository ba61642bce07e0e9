"""The JSON schema of option files, made of the declarations: editors complete and check option files by it."""

import json
from typing import Any

from lightbsr_data.option_types import Section
from lightbsr_models.file_options import MODELS

from .declarations import DECLARED, REGISTRIES, declaration_of, fields_of, is_ours, nested_section

_KINDS = ("arch", "dataset", "loss", "metric", "optimizer", "scheduler")


class _Definitions(dict[str, Any]):
    """Schemas by name, each added when it is referred to first."""

    def reference(self, declaration: type[Section], *, strict: bool = True) -> dict[str, str]:
        """A reference to the schema of a declaration; ``strict``: other options are errors."""
        name = declaration.__name__
        if name not in self:
            schema = declaration.model_json_schema(ref_template="#/definitions/{model}")
            for inner, definition in schema.pop("$defs", {}).items():
                self.setdefault(inner, _cleaned(definition, strict=strict))
            self[name] = _cleaned(schema, strict=strict)
        return _reference(name)


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/definitions/{name}"}


def _cleaned(schema: Any, *, strict: bool) -> Any:
    """A schema of pydantic's for files that may have a ``base``: no option is compulsory."""
    if isinstance(schema, list):
        return [_cleaned(entry, strict=strict) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    schema = _nullable(schema)
    if "registered" in schema:
        section = _reference(schema.pop("registered"))
        many = schema.pop("many")
        rest = {"type": ["object", "null"], "additionalProperties": section} if many else {"allOf": [section]}
        return {**schema, **rest}
    cleaned: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "properties":
            cleaned[name] = {option: _cleaned(entry, strict=strict) for option, entry in value.items()}
        elif name == "additionalProperties" and value is False:
            cleaned[name] = {"type": "null"} if strict else True  # ~ takes back an option of the base
        elif name not in ("title", "default", "required"):
            cleaned[name] = _cleaned(value, strict=strict)
    return cleaned


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """A choice between something and null as one schema, so that an editor's message is about the something."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) != 1:
        return {**schema, "type": ["object", "null"]} if schema.get("type") == "object" else schema
    (choice,) = choices
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    if "$ref" in choice or "registered" in choice:  # sections may be null
        return {**rest, "allOf": [choice]}
    null = {"enum": [*choice["enum"], None]} if "enum" in choice else {}
    return {**rest, **choice, **({"type": [choice["type"], "null"]} if "type" in choice else {}), **null}


def _case(option: str, value: str, then: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"type": "object", "properties": {option: {"const": value}}, "required": [option]}, "then": then}


def _one_of(names: list[str]) -> dict[str, Any]:
    """A text for which an editor offers ``names``."""
    return {"anyOf": [{"enum": names}, {"type": "string"}]}


def _by_type(definitions: _Definitions, kind: str) -> dict[str, Any]:
    """The schema of a section whose options are those of its ``type``; without one, the options of all types."""
    cases = {}
    if kind in REGISTRIES:
        for name, made in REGISTRIES[kind]:
            declaration, strict = declaration_of(kind, made)
            cases[name.removesuffix("_basicsr")] = definitions.reference(declaration, strict=strict and is_ours(made))
    else:
        cases = {name: definitions.reference(declared) for name, declared in DECLARED[kind].items()}
    names = sorted(cases)
    references = [reference["$ref"].rpartition("/")[2] for reference in cases.values()]
    options = sorted({option for name in references for option in definitions[name].get("properties", {})})
    return {
        "type": ["object", "null"],
        "properties": {"type": _one_of(names)},
        "allOf": [
            *(_case("type", name, cases[name]) for name in names),
            {"if": {"not": {"required": ["type"]}}, "then": {"properties": dict.fromkeys(options, True)}},
        ],
    }


def _of_any_model(definitions: _Definitions) -> dict[str, Any]:
    """The options of a file of any model: of one that names none, since its ``base`` does, or one that is not ours."""
    options: dict[str, Any] = {}
    for model in MODELS.values():
        for name, field in fields_of(model).items():
            section = nested_section(field)
            if section is None:
                options[name] = definitions[model.__name__]["properties"][name]
            else:
                inner = options.setdefault(name, {"type": ["object", "null"], "properties": {}})
                inner["properties"].update(definitions[section.__name__]["properties"])
    return options


def option_schema() -> dict[str, Any]:
    """The schema of option files of all models, data sets, networks, losses and metrics that are registered."""
    definitions = _Definitions()
    for kind in _KINDS:
        definitions[kind] = _by_type(definitions, kind)
    models = {name: definitions.reference(declaration) for name, declaration in MODELS.items()}
    ours = {"properties": {"model_type": {"enum": sorted(models)}}, "required": ["model_type"]}
    base = {"type": "string", "description": "A packaged option file, or a path, whose options this file changes."}
    for name in models.values():
        definitions[name["$ref"].rpartition("/")[2]]["properties"]["base"] = base
    general = {**_of_any_model(definitions), "base": base, "model_type": _one_of(sorted(models))}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Option file of LightBSR for BasicSR",
        "type": "object",
        "allOf": [
            *(_case("model_type", name, models[name]) for name in sorted(models)),
            {"if": ours, "else": {"properties": {**general, "scale": {"type": "integer"}}}},
        ],
        "definitions": dict(sorted(definitions.items())),
    }


def schema_text() -> str:
    """The schema as JSON, a line for each definition."""
    schema = option_schema()
    definitions = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(value)}" for name, value in schema["definitions"].items()
    )
    rest = {name: value for name, value in schema.items() if name != "definitions"}
    return f'{json.dumps(rest)[:-1]},\n"definitions": {{\n{definitions}\n}}}}\n'
