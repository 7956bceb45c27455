"""Does steering away from a blank picture make answers about pictures truer? Coloured squares: how many, which colour.

    python benchmarks/pictures.py --model HuggingFaceTB/SmolVLM-256M-Instruct --samples 100

Each picture has one to four squares of one colour on white. A model answers by which of the possible words it finds
likeliest after the question. Without --model it is the tiny random model of `sda_engine.testing`, which sees nothing:
its shares are those of guessing, and show that the command runs, and nothing else.
"""

import argparse
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

from sda_engine import Alignment, Steering, SteeringEngine
from sda_engine.testing import tiny_vision_engine

COLOURS = ("red", "green", "blue", "yellow")
COUNTS = ("one", "two", "three", "four")
QUESTIONS = {
    "how many": ("How many squares are in the picture? Answer with one word.", COUNTS),
    "which colour": ("Which colour do the squares in the picture have? Answer with one word.", COLOURS),
}
ARMS = {
    "plain": None,
    "instructed": Alignment(instruction="Say only what the picture shows."),
    "blank picture": Alignment(blank_picture=True),
    "both": Alignment(instruction="Say only what the picture shows.", blank_picture=True),
}
_SIDE, _CELL = 224, 112


def draw(count: int, colour: str, luck: random.Random) -> Image.Image:
    """A picture of so many squares, each in a quarter of its own."""
    picture = Image.new("RGB", (_SIDE, _SIDE), "white")
    pen = ImageDraw.Draw(picture)
    for cell in luck.sample(range(4), count):
        left, top = _CELL * (cell % 2) + luck.randrange(8, 40), _CELL * (cell // 2) + luck.randrange(8, 40)
        pen.rectangle((left, top, left + 56, top + 56), fill=colour)
    return picture


def answer(
    engine: SteeringEngine, picture: Image.Image, question: str, words: Sequence[str], alignment: Alignment | None
) -> str:
    """The likeliest of some words as the answer to a question about a picture."""
    messages = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}]
    steering = Steering() if alignment is None else Steering(policy="paper", amplification=0.5)
    logprobs = engine.continuation_logprobs(messages, words, alignment=alignment, steering=steering)
    return words[int(logprobs.argmax())]


def main() -> None:
    """Ask, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model that sees; without one, a tiny random model")
    parser.add_argument("--samples", type=int, default=20)
    options = parser.parse_args()
    engine = tiny_vision_engine() if options.model is None else SteeringEngine.load(options.model)
    luck = random.Random(0)  # noqa: S311 - pictures, no secrets
    right = {(arm, kind): 0 for arm in ARMS for kind in QUESTIONS}
    for _ in range(options.samples):
        count, colour = luck.randrange(1, 5), luck.choice(COLOURS)
        picture = draw(count, colour, luck)
        truth = {"how many": COUNTS[count - 1], "which colour": colour}
        for kind, (question, words) in QUESTIONS.items():
            for arm, alignment in ARMS.items():
                right[arm, kind] += answer(engine, picture, question, words, alignment) == truth[kind]
    print(f"{engine.name}, {options.samples} pictures; guessing is right in 25%")
    print(f"{'':14} {'how many':>12} {'which colour':>14}")
    for arm in ARMS:
        shares = [right[arm, kind] / options.samples for kind in QUESTIONS]
        print(f"{arm:14} {shares[0]:>12.0%} {shares[1]:>14.0%}")


if __name__ == "__main__":
    main()
