"""What clients are told of the alignments that have a name."""

from typing import Literal, Self

from sda_engine.alignment import Alignment
from sda_engine.wire.base import Told


class PresetCard(Told):
    """An alignment that requests may name.

    Attributes:
        name: what they call it.
        instruction, rubric, avoid: as in `sda_engine.Alignment`; of a combined one, what its parts say together.
    """

    name: str
    instruction: str | None = None
    rubric: str
    avoid: str | None = None

    @classmethod
    def of(cls, name: str, alignment: Alignment) -> Self:
        """What is told of an alignment."""
        return cls(
            name=name,
            instruction="\n".join(alignment.instructions) or None,
            rubric=alignment.rating_rubric,
            avoid=alignment.avoid,
        )


class PresetList(Told):
    """The alignments that have a name."""

    object: Literal["list"] = "list"
    data: tuple[PresetCard, ...]
