"""How many toyworld clips one core renders a second, and what the time goes into.

    python benchmarks/toyworld.py [--num 400] [--width 64 --height 64 --num-frames 33 --fps 8]

What rendering is bound by: work on sprites, two thirds of the time. Measured on one core of a 2-core cloud machine,
64 x 64 pixels, 25 frames, 1.6 subjects on average, 6.3 ms a clip: putting sprites on frames takes 35 % (some 100
microseconds for each subject in each frame, 30 of them Pillow's bilinear affine transform, most of the rest the fixed
cost of a dozen numpy and Pillow calls on 30 x 30 pixels), recolouring and resizing them 17 %, references 17 %; painting
the background, once a clip, 10 %, the camera 8 %. So time grows with the number of subjects' frames more than with that
of pixels: 128 x 128 and 33 frames, five times the pixels, take twice as long. On another such machine, on which those
25 frames took 8.7 ms, toy's own 33 take 10.6 to 11.4 ms: 88 to 94 clips a second, not quite the goal of 100.
"""

import argparse
import cProfile
import pstats
import time
from types import CodeType

from PIL import Image

from alchemint.toyworld import WorldConfig, captions, casting, compositing, looks, references, render_clip, world
from alchemint.toyworld.backgrounds import draw_background
from alchemint.toyworld.camera import Camera
from alchemint.toyworld.motion import draw_act

STAGES = {
    "background": (draw_background,),
    "camera": (Camera.shoot, Camera.follow),
    "casting": (casting.draw_cast, casting.draw_stays),
    "looks": (looks.draw_look, looks.dress),
    "sprites at size": (compositing.picture_at,),
    "acts": (draw_act,),
    "composite": (compositing.composite,),
    "  of it transforms": (compositing._place,),
    "references": (references.draw_reference,),
    "captions": (captions.global_caption, captions.timed_captions),
}


def measure(config: WorldConfig, num_clips: int) -> float:
    """Return the clips rendered in a second of processor time."""
    for index in range(30):
        render_clip("train", index, config)
    start = time.process_time()
    for index in range(num_clips):
        render_clip("train", index, config)
    return num_clips / (time.process_time() - start)


def shares(config: WorldConfig, num_clips: int) -> dict[str, float]:
    """Return the share of each stage in the time of rendering, under a profiler (which favours none by much)."""
    profile = cProfile.Profile()
    profile.enable()
    for index in range(num_clips):
        render_clip("train", index, config)
    profile.disable()
    spent = {place: row[3] for place, row in pstats.Stats(profile).stats.items()}
    whole = spent[_place(world.render_clip.__code__)]
    return {stage: sum(spent.get(_place(function.__code__), 0.0) for function in functions) / whole
            for stage, functions in STAGES.items()}


def _place(code: CodeType) -> tuple[str, int, str]:
    return code.co_filename, code.co_firstlineno, code.co_name


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=400)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--num-frames", type=int, default=33)
    parser.add_argument("--fps", type=float, default=8.0)
    options = parser.parse_args()
    config = WorldConfig(options.width, options.height, options.num_frames, options.fps)
    rate = measure(config, options.num)
    print(f"{config.width} x {config.height}, {config.num_frames} frames, Pillow {Image.__version__}: "
          f"{rate:.0f} clips/s/core, {1000 / rate:.2f} ms a clip")
    for stage, share in shares(config, options.num).items():
        print(f"  {stage:20s} {share:6.1%}")


if __name__ == "__main__":
    main()
