"""Hold sections of an option file against their declarations: a sentence for every mistake.

Declarations are ``lightbsr_data.options``, ``lightbsr_models.options`` and, for what neither declares, the signature of
the class or function that a section's ``type`` names.
"""

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from basicsr.models.base_model import BaseModel
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from pydantic import Field, ValidationError, create_model

from lightbsr_compat import InputError, did_you_mean
from lightbsr_compat.errors import nearest
from lightbsr_data.images import MissingImages
from lightbsr_data.option_types import Count, DerivedSection, Number, Registered, Section
from lightbsr_data.options import DATASETS, DatasetOptions
from lightbsr_models.options import LOSSES, OPTIMIZERS, SCHEDULERS

REGISTRIES = {
    "arch": ARCH_REGISTRY,
    "dataset": DATASET_REGISTRY,
    "loss": LOSS_REGISTRY,
    "metric": METRIC_REGISTRY,
    "model": MODEL_REGISTRY,
}
DECLARED: dict[str, Any] = {"dataset": DATASETS, "loss": LOSSES, "optimizer": OPTIMIZERS, "scheduler": SCHEDULERS}
# Parameters that no option file holds: a teacher's model derives them from the degradation; a metric gets the images.
NOT_IN_FILES = {"arch": ("num_prior", "kernel_basis", "setting"), "metric": ("img", "img2")}
_RULES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a section",
    "model_type": "a section",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge:.15g}",
    "less_than_equal": "at most {le:.15g}",
    "greater_than": "above {gt:.15g}",
    "less_than": "below {lt:.15g}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
    "literal_error": "{expected}",
}


class Findings(list[str]):
    """Sentences about one option file, each once, for what would stop training or testing.

    Attributes:
        missing_images: those about images that are not there, which leave the rest of the options to be checked.
        warnings: sentences about what does not stop it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missing_images: list[str] = []
        self.warnings: list[str] = []

    @property
    def options_are_right(self) -> bool:
        """Whether nothing is wrong but that images are not there."""
        return len(self) == len(self.missing_images)

    def append(self, sentence: str) -> None:
        """Add a sentence that is not there yet."""
        if sentence not in self:
            super().append(sentence)

    def extend(self, sentences: Iterable[str]) -> None:
        """Add the sentences that are not there yet."""
        for sentence in sentences:
            self.append(sentence)

    def attempt(self, check: Callable[[], Any], where: str = "") -> Any:
        """Run a check that raises InputError, which becomes a finding; returns what it returns, or None."""
        try:
            return check()
        except InputError as error:
            if isinstance(error, MissingImages):
                where = ""  # several data sets may have the same folder
                self.missing_images = sorted({*self.missing_images, str(error)})
            self.append(f"{where}{error}")
        return None


def lookup(kind: str, name: str) -> Any:
    """Look a name up in a registry of BasicSR, with BasicSR's suffix too; None where it is not there."""
    registry = REGISTRIES[kind]
    return next((registry.get(n) for n in (name, f"{name}_basicsr") if n in registry), None)


def registered_names(kind: str) -> list[str]:
    """The names that ``lookup`` knows, without BasicSR's suffix."""
    return sorted(name.removesuffix("_basicsr") for name in REGISTRIES[kind].keys())


def is_ours(made: Any) -> bool:
    """Whether a class or function is this project's."""
    return getattr(made, "__module__", "").startswith("lightbsr")


def declaration_of(kind: str, made: Any) -> tuple[type[Section], bool]:
    """The declaration of the options of a registered class or function.

    Returns:
        The declaration, and whether options that it lacks are errors.
    """
    for base in inspect.getmro(made) if inspect.isclass(made) else ():
        declared = DECLARED.get(kind, {}).get(base.__name__)
        if declared is not None and base.__module__.startswith(("lightbsr", "basicsr.")):
            return declared, is_ours(made)
    return (DatasetOptions, False) if kind == "dataset" else _signature_declaration(kind, made)


def _parameters(made: Any) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Parameters and annotations of a callable; a class of ours that takes ``**sizes`` passes them on to its base."""
    parameters = dict(inspect.signature(made).parameters)
    hints = typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
    others = [name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD]
    if others and inspect.isclass(made) and is_ours(made):
        of_base, hints_of_base = _parameters(made.__base__)
        del parameters[others[0]]
        return {**of_base, **parameters}, {**hints_of_base, **hints}
    return parameters, hints


@functools.cache
def _signature_declaration(kind: str, made: Any) -> tuple[type[Section], bool]:
    try:
        parameters, hints = _parameters(made)
    except Exception:  # a builtin has no signature; annotations may be any expression
        return Section, False
    given = NOT_IN_FILES.get(kind, ()) if kind == "metric" or is_ours(made) else ()
    fields: dict[str, Any] = {"type": (str, ...)}
    if kind == "metric":
        fields["better"] = (typing.Literal["higher", "lower"] | None, None)
    for number, (name, parameter) in enumerate(parameters.items()):
        if name not in given and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            default = ... if parameter.default is parameter.empty else None
            # Field names of pydantic's models are restricted; aliases are not.
            fields[f"option_{number}"] = (_option_type(hints.get(name)), Field(default, alias=name))
    takes_others = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return create_model(made.__name__, __base__=DerivedSection, **fields), not takes_others


def _option_type(hint: Any) -> Any:
    """The type of an option whose parameter is annotated with ``hint``; Any where that is not a simple one."""
    if typing.get_origin(hint) is typing.Literal:
        return hint
    arguments = [argument for argument in typing.get_args(hint) if argument is not types.NoneType]
    if typing.get_origin(hint) in (types.UnionType, typing.Union) and len(arguments) == 1:
        return _option_type(arguments[0]) | None
    return {int: Count, float: Number, bool: bool, str: str}.get(hint, Any)


@functools.cache
def _names_read(made: Any) -> frozenset[str]:
    """Names of options that a class or one of BasicSR's models reads: ``opt["NAME"]``, ``train_opt.get("NAME")``."""
    names: set[str] = set()
    models = [model for _, model in MODEL_REGISTRY if model.__module__.startswith("basicsr.")]
    for base in (*inspect.getmro(made), *models) if inspect.isclass(made) else ():
        try:
            names.update(re.findall(r"(?:opt\w*|\])(?:\[|\.get\()\s*['\"](\w+)['\"]", inspect.getsource(base)))
        except (OSError, TypeError):  # no source
            continue
    return frozenset(names)


def _shown(value: Any) -> str:
    if value is None:
        return "~"
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _place(path: list[str]) -> str:
    return "".join(f"{section}: " for section in path)


def _sentence(where: tuple[str, ...], error: Any) -> str:
    """The sentence for one of pydantic's errors."""
    path = list(where)
    for part in error["loc"]:
        if isinstance(part, int) and path:
            path[-1] += f"[{part}]"
        else:
            path.append(str(part))
    context = error.get("ctx", {})
    raised = context.get("error")
    if isinstance(raised, InputError):  # a sentence about a whole section
        return f"{_place(path)}{raised}"
    name = f"{_place(path[:-1])}{path[-1]}" if path else "the file"
    if error["type"] == "missing":
        return f"{name} is missing"
    rule = f"must be {_RULES[error['type']].format(**context)}" if error["type"] in _RULES else raised or error["msg"]
    return f"{name} is {_shown(error['input'])}, but {rule}"


def fields_of(declaration: type[Section]) -> dict[str, Any]:
    """The declared options by the names that they have in option files."""
    return {field.alias or name: field for name, field in declaration.model_fields.items()}


def nested_section(field: Any) -> type[Section] | None:
    """The declaration of an option that is a section."""
    candidates = [field.annotation, *typing.get_args(field.annotation)]
    return next((c for c in candidates if inspect.isclass(c) and issubclass(c, Section)), None)


def _undeclared_kind(name: str) -> str | None:
    """The kind of a section that a model not ours may read, by BasicSR's habit of names."""
    if name.startswith("network_"):
        return "arch"
    if name.startswith("optim_"):
        return "optimizer"
    return "loss" if name.endswith("_opt") else None


class SectionChecker:
    """Checks sections, and those within them, against their declarations.

    Args:
        model: class of the model, which decides what optimizers and schedulers there are.
        findings: takes the sentences.
    """

    def __init__(self, model: Any, findings: Findings) -> None:
        self.model = model
        self.findings = findings

    def check(
        self, where: tuple[str, ...], options: Any, declaration: type[Section], *, strict: bool, reader: Any
    ) -> bool:
        """Check one section; returns whether it is right.

        Args:
            where: names of the sections that it lies in, and its own.
            options: its content.
            declaration: of its options.
            strict: whether options that the declaration lacks are errors; they are passed on otherwise.
            reader: the class that reads them, perhaps others too.
        """
        before = len(self.findings)
        try:
            declaration.model_validate(options)
        except ValidationError as errors:
            for error in errors.errors(include_url=False):
                if error["type"] in ("extra_forbidden", "invalid_key") or error["loc"][-1:] == ("[key]",):
                    self._report_unknown(where, error["loc"], declaration, strict=strict, reader=reader)
                else:
                    self.findings.append(_sentence(where, error))
        self._check_typed_sections(where, options, declaration, strict=strict)
        return len(self.findings) == before

    def _report_unknown(
        self, where: tuple[str, ...], loc: Any, declaration: type[Section], *, strict: bool, reader: Any
    ) -> None:
        *sections, name = [part for part in loc if part != "[key]"]
        inner: type[Section] | None = declaration
        for section in sections:
            inner = nested_section(fields_of(inner)[section]) if inner and section in fields_of(inner) else None
        known = set(fields_of(inner)) if inner else set()
        place = _place([*where, *map(str, sections)])
        if strict or not isinstance(name, str):
            self.findings.append(f"{place}unknown option {_shown(name)}{did_you_mean(str(name), known)}")
            return
        read = _names_read(reader)
        close = nearest(name, known | read) if name not in read else None
        if close:
            self.findings.warnings.append(f"{place}option {name!r} is passed on as it is; did you mean {close!r}?")

    def _check_typed_sections(
        self, where: tuple[str, ...], options: Any, declaration: type[Section], *, strict: bool
    ) -> None:
        """Check the sections within one whose options are those of their ``type``."""
        fields = fields_of(declaration)
        for name, value in options.items() if isinstance(options, dict) else ():
            field = fields.get(name)
            if field is None:
                kind = _undeclared_kind(name) if isinstance(name, str) and not strict else None
                if kind is not None:
                    self.check_typed((*where, name), value, kind)
                continue
            marker = next((m for m in field.metadata if isinstance(m, Registered)), None)
            nested = nested_section(field)
            if nested is not None:
                self._check_typed_sections((*where, name), value, nested, strict=strict)
            elif marker is not None and not marker.many:
                self.check_typed((*where, name), value, marker.kind)
            elif marker is not None and marker.kind != "dataset" and isinstance(value, dict):
                for key, section in value.items():
                    self.check_typed((*where, name, str(key)), section, marker.kind)

    def check_typed(self, where: tuple[str, ...], options: Any, kind: str) -> Any:
        """Check a section whose options are those of its ``type``.

        Returns:
            The class or function that the type names, where the section is right; else None.
        """
        if not isinstance(options, dict):  # the section around it says so
            return None
        place, name = _place([*where]), options.get("type")
        if not isinstance(name, str):
            fault = f"is {_shown(name)}, but must be a text" if "type" in options else "is missing"
            self.findings.append(f"{place}type {fault}")
            return None
        known: Any
        if kind in ("optimizer", "scheduler"):
            known = self._optimization(kind)
            if known is None:
                return None
            made = declaration = known.get(name)
            strict = True
        else:
            known, made = registered_names(kind), lookup(kind, name)
            declaration, strict = declaration_of(kind, made) if made else (None, True)
        if declaration is None:
            self.findings.append(f"{place}type is {name!r}{did_you_mean(name, known)}")
            return None
        return made if self.check(where, options, declaration, strict=strict, reader=made) else None

    def _optimization(self, kind: str) -> dict[str, Any] | None:
        """The optimizers or schedulers that the model knows, or None where it makes its own."""
        method = "get_optimizer" if kind == "optimizer" else "setup_schedulers"
        own = getattr(self.model, method, None)
        if is_ours(own):
            return DECLARED[kind]
        if own is not getattr(BaseModel, method):
            return None
        return {name: declared for name, declared in DECLARED[kind].items() if name != "TwoStageCosine"}
