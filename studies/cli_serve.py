"""The command serve-check."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_options import Fast, Json, Sets, Study, load_study, parsed
from .terminal import print_facts, print_json, print_rows, stderr

if TYPE_CHECKING:
    from .serve_report import ServeReport


def serve_check(
    study: Study,
    members: Annotated[
        str | None,
        typer.Option(help="Uniform widths of the levels, low first; 4,6,8 if the space has them."),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="fixed, or confidence: who is not sure asks a higher level.")
    ] = "fixed",
    thresholds: Annotated[
        str | None, typer.Option(help="Of the confidence, falling; 0.9,0.6 if not given.")
    ] = None,
    guard: Annotated[
        str, typer.Option(help="What is watched: some of agreement, accuracy and confidence.")
    ] = "agreement,confidence",
    tolerance: Annotated[float, typer.Option(help="Drop that is accepted, as a share.")] = 0.007,
    window: Annotated[
        int | None,
        typer.Option(help="Checked inputs that are judged together; 128, fewer of a short stream."),
    ] = None,
    check_every: Annotated[
        int | None,
        typer.Option(help="Run every N-th input in the shadow; 8, fewer of a very short stream."),
    ] = None,
    patience: Annotated[int, typer.Option(help="Good checks before a level is taken again.")] = 48,
    noise: Annotated[
        float, typer.Option(help="Standard deviation of noise, of the range of a pixel.")
    ] = 0.0,
    noise_from: Annotated[int, typer.Option(min=0, help="The first input with noise.")] = 0,
    noise_to: Annotated[
        int | None, typer.Option(min=0, help="The first input without noise again.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Serve at most so many inputs.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Serve the test split so often.")] = 1,
    set_up: Annotated[
        int | None, typer.Option(min=1, help="Test images set aside to measure the levels on.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs served at a time.")] = 64,
    audit: Annotated[
        Path | None, typer.Option(help="Audit log to write; one that is there is continued.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of images and the noise.")] = 0,
    fast: Fast = False,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Serve the study's test split through a precision controller and print what happened."""
    from ..models.runtime.guardrail import GuardSettings
    from .progress import progress_for
    from .serve_settings import ServeSettings

    watching = {"window": window, "check_every": check_every}
    settings = ServeSettings(
        members=_numbers(members, "--members", int),
        policy=policy,  # type: ignore[arg-type]
        thresholds=_numbers(thresholds, "--thresholds", float),
        guard=GuardSettings(
            signals=tuple(name.strip() for name in guard.split(",")),  # type: ignore[misc]
            tolerance=tolerance,
            patience=patience,
            **{name: number for name, number in watching.items() if number is not None},
        ),
        fit_window=window is None and check_every is None,
        noise=noise,
        noise_from=noise_from,
        noise_to=noise_to,
        limit=limit,
        repeat=repeat,
        set_up=set_up,
        batch_size=batch_size,
        audit=audit,
        seed=seed,
    )
    spec = load_study(study, sets, fast=fast)
    from .serve_check import serve_check as serve

    with progress_for(stderr()) as progress:
        report = serve(spec, settings, progress=progress)
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report, audit)


def _numbers(text: str | None, option: str, kind: type) -> tuple[Any, ...] | None:
    """Return the numbers of a list with commas.

    Raises:
        BadParameter: If it is none.
    """
    if text is None:
        return None
    numbers = parsed(f"[{text}]", f"option {option}")
    if not all(isinstance(number, int | kind) and number is not True for number in numbers):
        raise typer.BadParameter(f"expected numbers as 4,6,8, got {text}", param_hint=option)
    return tuple(kind(number) for number in numbers)


def _print(report: "ServeReport", audit: Path | None) -> None:
    print_rows(
        [
            {
                "input": event["input"],
                "from": event["from"],
                "to": event["to"],
                "energy": f"{event['energy_before']:.3f} to {event['energy_after']:.3f}",
                "reason": event["reason"],
            }
            for event in report.switches
        ],
        title="What changed",
    )
    print_rows([vars(level) for level in report.levels], title="By level")
    print_rows([vars(phase) for phase in report.phases], title="By part of the stream")
    facts: dict[str, Any] = {
        "mean energy vs uniform 8 bit": _energy_text(report),
        "rolled back after": _count(report.rolled_back_after, "inputs of noise"),
        "returned to the lowest after": _count(report.returned_after, "inputs without noise"),
        "judged together": _window_text(report),
        "audit log replays to the same states": report.replays,
        "failures": len(report.failures),
    }
    if len(report.phases) == 1:
        del facts["rolled back after"], facts["returned to the lowest after"]
    if audit is not None:
        facts["audit log"] = str(audit)
    print_facts(facts)


def _energy_text(report: "ServeReport") -> str:
    whole = report.phases[0]
    own, shadow = whole.energy or 0.0, whole.shadow_energy or 0.0
    return f"{own + shadow:.3f} ({own:.3f} for answers, {shadow:.3f} to watch)"


def _window_text(report: "ServeReport") -> str:
    said = f"up to {report.window} checked inputs, one of {report.check_every} in the shadow"
    if not report.window_fitted:
        return said
    return f"{said}: what {report.inputs:,} inputs leave; --window and --check-every set others"


def _count(number: int | None, of: str) -> str:
    return "never" if number is None else f"{number:,} {of}"
