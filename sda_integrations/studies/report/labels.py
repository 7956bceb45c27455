"""Labels beside points such that they hide neither each other nor the points, as far as there is room."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

_DISTANCES = (8.0, 18.0, 30.0, 44.0, 60.0)  # pixels between a point and the near edge of its label
_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """The area that both cover, pixels squared."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide * high if wide > 0 and high > 0 else 0.0

    def within(self, area: "Box") -> "Box":
        """The box moved into the area, its left top corner above all."""
        right = min(0.0, area.right - self.right)
        down = min(0.0, area.bottom - self.bottom)
        right = max(right, area.left - self.left)
        down = max(down, area.top - self.top)
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)


@dataclass(frozen=True, slots=True)
class Label:
    """A text of known size that belongs to a point."""

    x: float
    y: float
    width: float
    height: float


def place_labels(labels: Sequence[Label], *, area: Box, obstacles: Sequence[Box], lines: Sequence[Box]) -> list[Box]:
    """Where each label goes: the nearest place around its point that covers least.

    Args:
        labels: texts and their points; the widest choose first, since they find room in the fewest places.
        area: what they must stay in.
        obstacles: what they should not cover, such as points.
        lines: what they may cover if need be, such as interval bars.

    Returns:
        A box per label, each within `area` if it fits there at all.
    """
    placed: dict[int, Box] = {}
    for index, label in sorted(enumerate(labels), key=lambda item: -item[1].width):
        places = [
            (_around(label, distance, direction).within(area), rank)
            for rank, (distance, direction) in enumerate(product(_DISTANCES, _DIRECTIONS))
        ]
        costs = [(_cost(box, list(placed.values()), obstacles, lines) + rank, box) for box, rank in places]
        placed[index] = min(costs, key=lambda cost: cost[0])[1]
    return [placed[index] for index in range(len(labels))]


def _around(label: Label, distance: float, direction: tuple[int, int]) -> Box:
    right, down = direction
    reach = distance / math.hypot(right, down)
    x = label.x + right * (reach + label.width / 2)
    y = label.y + down * (reach + label.height / 2)
    return Box(x - label.width / 2, y - label.height / 2, x + label.width / 2, y + label.height / 2)


def _cost(box: Box, placed: Sequence[Box], obstacles: Sequence[Box], lines: Sequence[Box]) -> float:
    return (
        40 * sum(map(box.overlap, placed)) + 10 * sum(map(box.overlap, obstacles)) + 0.4 * sum(map(box.overlap, lines))
    )
