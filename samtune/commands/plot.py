"""The command `samtune plot`: a chart of a run as a file, or as SVG on stdout."""

from __future__ import annotations

from pathlib import Path

import click

from analysis.charts import KINDS
from analysis.charts.palette import THEMES, Theme
from analysis.charts.sample import BY, By
from samtune.commands.options import named, runs_option
from samtune.errors import SamtuneError

_WIDEST = 10_000


@click.command()
@click.argument("name", metavar="RUN", required=False)
@click.argument("kind", required=False)
@click.option("--list", "listed", is_flag=True, help="List the kinds of chart.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write: .svg, .png or .pdf; else SVG on stdout.",
)
@click.option(
    "--by",
    type=click.Choice(BY),
    default="space",
    show_default=True,
    help="What a panel or a line puts together.",
)
@click.option("--width", type=click.IntRange(200, _WIDEST), default=1080, show_default=True)
@click.option("--theme", type=click.Choice(THEMES), default="light", show_default=True)
@runs_option
def plot(
    name: str | None,
    kind: str | None,
    listed: bool,
    output: Path | None,
    by: By,
    width: int,
    theme: Theme,
    runs: Path,
) -> None:
    """Draw a chart of a run."""
    if listed:
        longest = max(map(len, KINDS))
        for each, about in KINDS.items():
            click.echo(f"{each:{longest}}  {about.sentence}")
        return
    if name is None or kind is None:
        raise click.UsageError("write a run and a kind of chart; `samtune plot --list` lists them")
    figure = named(runs, name).plot(kind, by=by, width=width, theme=theme)
    if output is None:
        click.echo(figure.svg())
        return
    try:
        figure.save(output)
    except ValueError as error:
        raise SamtuneError(str(error), exit_code=2) from None
    except ImportError:
        raise SamtuneError(
            f"{output.suffix} files need another package: pip install 'samtune[plot]'; "
            ".svg needs none",
            exit_code=5,
        ) from None
    except OSError as error:
        raise SamtuneError(f"cannot write {output}: {error.strerror}", exit_code=5) from None
    click.echo(output)
