"""Types that all declarations of options share: sections, names that become paths, bounded numbers."""

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_NAME_BYTES = 100


def _file_name(name: str) -> str:
    has_control = any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
    if has_control or name in ("", ".", "..") or "/" in name or "\\" in name or not _fits(name):
        raise ValueError(
            f"must be a file name of at most {MAX_NAME_BYTES} bytes, without / and \\ and control characters"
        )
    return name


def _fits(name: str) -> bool:
    return len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES


def _path(path: str) -> str:
    if not path or "\0" in path:
        raise ValueError("must be a path")
    return path


def whole(value: Any) -> Any:
    """5000.0 as 5000; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _ascending(values: list[float]) -> list[float]:
    if values[0] > values[1]:
        raise ValueError("must be [low, high] with low <= high")
    return values


FileName = Annotated[str, AfterValidator(_file_name)]
"""A name that becomes part of a path: of runs, data sets, suffixes of pictures."""
Path = Annotated[str, AfterValidator(_path)]
Count = Annotated[int, Field(ge=1, le=2**20)]
Iterations = Annotated[int, BeforeValidator(whole), Field(ge=1, le=2**40)]
"""A number of iterations; ``5e3`` is 5000, as BasicSR's own option files write it."""
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
NonNegative = Annotated[float, Field(ge=0, le=1e30)]
Positive = Annotated[float, Field(gt=0, le=1e30)]
Probability = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[list[NonNegative], Field(min_length=2, max_length=2), AfterValidator(_ascending)]


class Section(BaseModel):
    """A section of an option file: unknown names, numbers given as text and numbers that are not finite are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


class DerivedSection(Section):
    """Base of declarations that are made from signatures, which have no docstrings beneath their fields."""

    model_config = ConfigDict(use_attribute_docstrings=False)


@dataclass(frozen=True)
class Registered:
    """Marks a section whose ``type`` names a class or function: its other options are those of that type.

    Attributes:
        kind: ``dataset``, ``arch``, ``loss``, ``metric``, ``optimizer`` or ``scheduler``.
        many: whether the section holds several such sections by name.
    """

    kind: str
    many: bool = False

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"registered": self.kind, "many": self.many}  # lightbsr.training.schema puts the types' options here
