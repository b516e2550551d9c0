"""What several commands take, and loading a study with what the command line sets in it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from .spec import StudySpec
    from .yaml_lines import Place

Study = Annotated[str, typer.Argument(help="A study file, or the name of a ready study.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the study: data.seed=1."),
]

Fast = Annotated[bool, typer.Option("--fast", help="With what the study's section 'fast' says.")]


def load_study(
    study: str,
    sets: list[str] | None,
    options: "dict[Place, Any] | None" = None,
    *,
    fast: bool = False,
) -> "StudySpec":
    """Load a study.

    Args:
        study: A study file, or the name of a ready study.
        sets: ``KEY=VALUE`` each, the key with dots and the value in YAML.
        options: Values by place; None leaves the study's.
        fast: Whether to take its fast profile.

    Raises:
        StudyError: If the study is wrong.
    """
    from .spec import StudySpec

    overrides: dict[Place, Any] = {}
    for text in sets or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"expected KEY=VALUE, got {text}", param_hint="--set")
        place = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
        overrides[place] = parsed(value, f"option --set {key}")
    overrides |= {place: value for place, value in (options or {}).items() if value is not None}
    return StudySpec.load(study, overrides, fast=fast)


def parsed(text: str, option: str) -> Any:
    """Return the YAML value of an option.

    Raises:
        StudyError: If it is no plain YAML.
    """
    from .yaml_lines import parse_value

    return parse_value(text, option)
