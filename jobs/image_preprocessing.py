"""Cut the largest face out of every image of a folder: one crop per image, under its own file name.

    python jobs/image_preprocessing.py --directory PATH

Writes, below the current folder, temp/ (crops of 224 x 224 pixels, aligned; JPEG for names in .jpg or .jpeg, else
PNG) and temp.faces/ (faces.csv with the boxes, quarantine.csv with the images without a face and why, names.csv with
the crops that could not keep the name of their image). Faces are found by the strict Haar detector of the older tool;
`toolkit faces detect` finds more. A job that was stopped goes on with the same command. About 0.1 s per image and
processor, 0.5 GiB per process.
"""

import csv
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from PIL import Image

from toolkit.atomic import atomic_folder
from toolkit.cli import run_command
from toolkit.errors import InputError
from toolkit.faces.crops import QUARANTINE, detect_faces
from toolkit.faces.images import FACES
from toolkit.progress import resumable

app = typer.Typer(add_completion=False)
TEMP, WORK, NAMES = Path("temp"), Path("temp.faces"), "names.csv"


@app.command()
def main(directory: Annotated[Path, typer.Option(help="Folder of images, with its subfolders.")]) -> None:
    """Cut the largest face out of every image of a folder, into temp/."""
    if TEMP.exists() and not WORK.exists():
        raise InputError(
            f"{TEMP} is there and {WORK}, which says what it was made of, is not; remove both {TEMP} and {WORK} to "
            f"begin anew, or rename {TEMP}"
        )
    with resumable():
        found = detect_faces(directory, WORK, detector="haar-strict", largest=True, size=224)
    if not TEMP.exists():
        with (WORK / FACES).open(newline="", encoding="utf-8") as file, atomic_folder(TEMP) as folder:
            renamed = [
                (row["image_path"], str(TEMP / name))
                for row in csv.DictReader(file)
                if (name := _place(WORK / row["crop"], Path(row["image_path"]), folder))
            ]
            pd.DataFrame(renamed, columns=["source", "crop"]).to_csv(WORK / NAMES, index=False, lineterminator="\n")
        if renamed:
            print(f"{len(renamed):,} crops have another name than their image, which another one has: {WORK / NAMES}")
    print(f"{found.text}\ncrops      {TEMP}\nwithout    {WORK / QUARANTINE}")


def _place(crop: Path, image: Path, folder: Path) -> str | None:
    """Write a crop under the name of its image; return its name where that needs a number, as another image has it."""
    suffix = image.suffix if image.suffix.lower() in (".jpg", ".jpeg") else ".png"
    number, name = 1, f"{image.stem}{suffix}"
    while (folder / name).exists():
        number += 1
        name = f"{image.stem}-{number}{suffix}"
    with Image.open(crop) as pixels:
        pixels.save(folder / name, quality=95)
    return name if number > 1 else None


if __name__ == "__main__":
    run_command(app, sys.argv[1:], name=sys.argv[0])
