"""Clips for `tlc flicker`, from the bundled photographs: a camera that pans over each, sharp.

    python scripts/moving_clips.py --output results/clips/sharp
    tlc degrade --input results/clips/sharp --output results/clips/blurry --kind blur
    tlc flicker --weights experiments/pretrained_models/NAFNet-SampleBlur.safetensors \\
        --lq results/clips/blurry --gt results/clips/sharp

Frames of 640x480 pixels are cut along a path that bends, 3 to 10 pixels from frame to frame, between pixels as well (bicubic).
Nothing is random but the blur, which has a camera shake of its own for each frame.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # another package may be installed under the name basicsr

import cv2
import numpy as np

from basicsr.options import resolve
from basicsr.utils.image import quantise, read_image, write_image
from basicsr.utils.log import run_entry_point

PHOTOGRAPHS = ("01_beacon_street", "05_spices", "11_street_aguas_claras", "12_pcb_text")
WIDTH, HEIGHT, SPEED = 640, 480, 6.0  # pixels, and pixels a frame


def frame(photograph: np.ndarray, left: float, top: float) -> np.ndarray:
    """(480, 640, 3) of a photograph, cut at a place between pixels."""
    shift = np.float32([[1, 0, left], [0, 1, top]])
    return cv2.warpAffine(photograph, shift, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=resolve("results") / "clips" / "sharp")
    parser.add_argument("--frames", type=int, default=24, help="of each clip")
    args = parser.parse_args()
    for name in PHOTOGRAPHS:
        photograph = read_image(resolve(f"datasets/Sample/test/target/{name}.jpg"))
        left = (photograph.shape[1] - WIDTH - SPEED * args.frames) / 2
        middle = (photograph.shape[0] - HEIGHT) / 2
        for number in range(args.frames):
            phase = 2 * math.pi * number / args.frames
            picture = frame(photograph, left + SPEED * (number - math.sin(phase) * 2), middle + 12 * math.sin(phase))
            write_image(args.output / f"{name}_{number:04d}.png", quantise(picture))
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
