"""`python -m tests.shows PICTURE SUBJECT BACKGROUND`: whether a picture shows what was asked.

Judged by the built-in model's judge, which was trained on rendered scenes and knows nothing of the prompt. It ends with
0 or 1 and says what was read; a picture that is not 512×512 is none.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from training.builtin.judge import judge
from training.builtin.vocabulary import Scene, Subject


def main(path: str, subject: str, background: str) -> int:
    picture = np.asarray(Image.open(Path(path)))
    if picture.shape != (512, 512, 3):
        print(f"{path}: {picture.shape} is no 512×512 picture")
        return 1
    judgement = judge(picture, Scene((Subject(subject),), background))
    print(f"asked for {subject} on {background}, read as {judgement.read}")
    return not (judgement.subjects and judgement.background)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
