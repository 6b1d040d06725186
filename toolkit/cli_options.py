"""Options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML configuration.")]
Memory = Annotated[
    str | None, typer.Option(help="Memory for the whole process, e.g. 8GiB; by default 80 % of what is available.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int | None, typer.Option(help="Random seed, instead of the one in CONFIG.", min=0)]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Images = Annotated[Path | None, typer.Option(help="Folder or zip archive that holds the images.")]
NoisyModel = Annotated[
    str | None, typer.Option("--model", help="Name or id of a model; by default the best finalist with noise.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at rows with NaN or inf instead of leaving them out.")]
