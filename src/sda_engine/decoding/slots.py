"""Slots: places of equal size, side by side in one buffer per layer, for the last keys and values of rows."""

from collections.abc import Sequence
from typing import Protocol
from weakref import ReferenceType, ref

from torch import Tensor

_ROOM_STEP = 64  # tokens by which slots grow


class Tenant(Protocol):
    """Who has a slot.

    Attributes:
        slot: which; None for one that never had one.
    """

    slot: int | None


class Slots:
    """Slots that are given, moved and grown; one whose tenant is gone is free.

    Args:
        usual: tokens that a slot is meant for; it has room for more where that is asked for.
    """

    def __init__(self, usual: int) -> None:
        self._usual = usual
        self._tenants: list[ReferenceType[Tenant] | None] = []  # of each slot
        self._used: set[int] = set()  # slots that hold what somebody has left there
        self._room = 0
        self._keys: list[Tensor] = []  # per layer (slots, heads, room, size)
        self._values: list[Tensor] = []

    @property
    def layers(self) -> int:
        """Layers that have written so far."""
        return len(self._keys)

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """The keys and values of all slots in a layer, (slots, heads, room, size) each."""
        return self._keys[layer], self._values[layer]

    def arrange(self, tenants: Sequence[Tenant], room: int) -> None:
        """Give tenants the first slots, in this order, with room for so many tokens each; others make place."""
        inside = {id(tenant) for tenant in tenants}
        living = map(self._tenant, range(len(self._tenants)))
        others = sum(tenant is not None and id(tenant) not in inside for tenant in living)
        self._resize(len(tenants) + others, room)
        for place, tenant in enumerate(tenants):
            if tenant.slot != place:
                self._put(tenant, place)

    def open(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Make the slots of a layer, if this is the first time that it writes.

        Args:
            layer: layers come in order, from 0.
            keys, values: what it is about to write, (heads, tokens, size).
        """
        if layer < len(self._keys):
            return
        if layer > len(self._keys):
            raise IndexError(f"layer {layer} attends before layer {len(self._keys)}")
        buffers = [
            states.new_zeros((len(self._tenants), states.shape[0], self._room, states.shape[2]))
            for states in (keys, values)
        ]
        self._keys.append(buffers[0])
        self._values.append(buffers[1])

    def states(self, tenant: Tenant, stop: int) -> list[tuple[Tensor, Tensor]]:
        """Views of the first tokens of a slot, per layer (keys, values), (heads, tokens, size)."""
        slot = tenant.slot
        assert slot is not None
        both = zip(self._keys, self._values, strict=True)
        return [(keys[slot, :, :stop], values[slot, :, :stop]) for keys, values in both]

    def give_back(self) -> None:
        """Give back the memory, where nobody has a slot any more."""
        if all(self._tenant(slot) is None for slot in range(len(self._tenants))):
            self._tenants, self._room = [], 0
            self._used.clear()
            self._keys.clear()
            self._values.clear()

    def _tenant(self, slot: int) -> Tenant | None:
        tenant = self._tenants[slot]
        return None if tenant is None else tenant()

    def _put(self, tenant: Tenant, place: int) -> None:
        other, slot = self._tenant(place), tenant.slot
        if slot is None:
            if other is not None:
                free = self._free_slot()
                self._copy(place, free)
                self._own(other, free)
            self._clear(place)
        elif other is None:
            self._copy(slot, place)
            self._tenants[slot] = None
        else:
            for states in (*self._keys, *self._values):
                states[[place, slot]] = states[[slot, place]]
            self._own(other, slot)
        self._own(tenant, place)

    def _copy(self, source: int, place: int) -> None:
        for states in (*self._keys, *self._values):
            states[place] = states[source]

    def _own(self, tenant: Tenant, slot: int) -> None:
        tenant.slot = slot
        self._tenants[slot] = ref(tenant)
        self._used.add(slot)

    def _clear(self, slot: int) -> None:
        """Forget what was left in a slot: masked keys must be numbers, and what is left may be NaN."""
        if slot in self._used:
            for states in (*self._keys, *self._values):
                states[slot].zero_()

    def _free_slot(self) -> int:
        return next(slot for slot in reversed(range(len(self._tenants))) if self._tenant(slot) is None)

    def _resize(self, slots: int, room: int) -> None:
        """Make the buffers larger where that is needed: all of them or, out of memory, none."""
        more_slots, more_room = len(self._tenants), self._room
        if slots > more_slots:
            more_slots = max(slots, 2 * more_slots)
        if room > more_room:
            more_room = _ROOM_STEP * -(-max(room, min(2 * more_room, self._usual)) // _ROOM_STEP)
        if (more_slots, more_room) == (len(self._tenants), self._room):
            return
        grown = [[_grown(states, more_slots, more_room) for states in side] for side in (self._keys, self._values)]
        self._keys, self._values = grown
        self._tenants += [None] * (more_slots - len(self._tenants))
        self._room = more_room


def _grown(states: Tensor, slots: int, room: int) -> Tensor:
    """A buffer with more slots and room, and what it held."""
    larger = states.new_zeros((slots, states.shape[1], room, states.shape[3]))
    larger[: states.shape[0], :, : states.shape[2]] = states
    return larger
