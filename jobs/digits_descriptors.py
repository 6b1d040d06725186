"""Make two descriptors of real images: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels each.

Writes into descriptors/digits: the images (PNG), images_paths.csv, pixels.npy (64 raw values) and hog.pickle
(histogram of oriented gradients of the image enlarged to 32 x 32). The true digits are not written.
"""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.feature import hog
from skimage.transform import resize
from sklearn.datasets import load_digits

from toolkit.atomic import atomic_folder

FOLDER = Path("descriptors/digits")


def describe(image: np.ndarray) -> np.ndarray:
    """Return the 324 gradient features of an (8, 8) image with values from 0 to 1."""
    enlarged = resize(image, (32, 32), order=3)
    return np.asarray(hog(enlarged, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2)), np.float32)


def main() -> None:
    """Make the folder, unless it is there."""
    if FOLDER.exists():
        print(f"{FOLDER} is there already")
        return
    images = load_digits().images / 16
    with atomic_folder(FOLDER) as folder:
        (folder / "images").mkdir()
        lines = ["path"]
        for i, image in enumerate(images):
            name = f"images/{i:04d}.png"
            Image.fromarray((255 * image).astype(np.uint8)).save(folder / name)
            lines.append(str(FOLDER / name))
        (folder / "images_paths.csv").write_text("\n".join(lines) + "\n")
        np.save(folder / "pixels.npy", images.reshape(len(images), -1).astype(np.float32))
        with (folder / "hog.pickle").open("wb") as file:
            pickle.dump(np.stack([describe(image) for image in images]), file, protocol=4)
    print(f"{FOLDER}: {len(images):,} images, descriptors pixels.npy and hog.pickle")


if __name__ == "__main__":
    main()
