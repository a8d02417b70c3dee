"""The command that shows what tests have proven: matrix. It reads what came of them, and runs none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stackctl.cli import show
from stackctl.cli.options import Json
from stackctl.errors import CheckFailed, UsageError


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(matrix)


def matrix(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Files of `pytest --feature-results`, `stackctl test --json`, or `--junit`.")],
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page that needs nothing else.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write a page of Markdown.")] = None,
    complete: Annotated[bool, typer.Option("--complete", help="Exit with 1 where a feature is not proven, too.")] = False,
    name: Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="What it is about, for the title.")] = "stackctl",
    json: Json = False,
) -> None:
    """Show which features are proven, on which server, by which test, when, and how long it took; and what failed or was left out, with the reason.

    Exit code 1 where a test failed, or none ran.

    Example: stackctl matrix build/feature-results.json --html matrix.html
    """
    from stackctl import matrix as report
    from stackctl import page

    sources = {}
    for path in dict.fromkeys(results):
        try:
            sources[str(path)] = report.read(path.read_bytes(), str(path))
        except OSError as why:
            raise UsageError(f"{path}: {why.strerror}", "`make test` writes build/feature-results.json, `stackctl test --json >FILE` one of a running stack") from why
    found = report.matrix(sources, name)
    show.pages(found, ((html, page.matrix), (markdown, report.Matrix.markdown)))
    if json:
        show.line(found.model_dump_json(indent=2))
    else:
        passed = {row.feature: f"{sum(one.passed for one in row.tests)}/{sum(one.of for one in row.tests)}" for row in found.rows}
        show.table(
            ("ID", "STATE", "PASSED", "S", "THE USER CAN"), [(row.feature, row.state, passed[row.feature], f"{row.seconds:.0f}", row.sentence) for row in found.rows]
        )
        show.line()
        show.line(found.verdict)
    if failed := found.rows_of("failed"):
        first = next(f"{case}: {reason}" for group in failed[0].tests for case, reason in group.failures.items())
        raise CheckFailed(f"{', '.join(row.feature for row in failed)}: a test failed: {first}", "--html FILE shows each with its reason")
    if complete and (missing := found.rows_of("not proven")):
        named = ", ".join(row.feature for row in missing)
        raise CheckFailed(f"not proven by a test with real servers: {named}", "the results are of a part of the tests; give those of the others too")
