"""Train a conditional autoencoder of clustered images: `toolkit cvae train`, all of whose options are allowed.

    python jobs/train_cvae.py --image_path DIR --labels_path CSV [--num_classes K --image_size 224 ...]

Writes the folder cvae: weights/best.pt for cvae_inference.py, history.csv and what else the verb does.
"""

import sys

from toolkit.aggregate.verbs import cvae
from toolkit.cli import run_command

if __name__ == "__main__":
    run_command(cvae, ["train", *sys.argv[1:]], name=sys.argv[0])
