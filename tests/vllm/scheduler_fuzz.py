"""Random runs of the scheduler: all that may be done to it, against an oracle that decodes each request alone.

PYTHONPATH=.:src .venv/vllm/bin/python -m tests.vllm.scheduler_fuzz --runs 2000 --seed 0
"""

import argparse
import logging
import random
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, replace

from vllm.v1.core.sched.interface import PauseState
from vllm.v1.engine import FinishReason
from vllm.v1.request import Request, RequestStatus

from tests.vllm.fake_worker import chain_of, chained, next_token
from tests.vllm.small_engine import SmallEngine
from tests.vllm.small_vllm import EOS, STOP, VOCAB, Machine, make_adapter, make_request

NAMES = ("instructed", *(f"instructed {number}" for number in range(2, 7)), "avoided")


@dataclass
class Client:
    """One request, what should come of it, and what has.

    Attributes:
        expected: tokens of its whole answer; None if it cannot be run.
        grammar: steps until its grammar is there; None for no grammar, -1 for one that is wrong.
    """

    request: Request
    prompts: list[list[int]]
    arrival: int
    expected: list[int] | None
    reason: FinishReason
    grammar: int | None = None
    abort: int | None = None
    ended: FinishReason | None = None


def oracle(prompts: list[list[int]], max_tokens: int, adapter: int, *, stops: bool) -> tuple[list[int], FinishReason]:
    """What the model and our rule answer, decoded alone."""
    chains, answer = [chain_of(prompt, adapter) for prompt in prompts], []
    while True:
        token = next_token(chains)
        answer.append(token)
        if stops and token in (EOS, STOP):
            return answer, FinishReason.STOP
        if len(answer) == max_tokens:
            return answer, FinishReason.LENGTH
        chains = [chained(chain, token) for chain in chains]


def blocks_held(machine: Machine, tokens: int) -> int:
    """Blocks of one row that holds so many tokens, for each kind of layer."""
    full = -(-tokens // machine.block_size)
    if not machine.sliding_window:
        return full
    in_flight = machine.tokens_per_step * (2 if machine.asynchronous else 1)
    seen = min(machine.sliding_window - 1 + in_flight, machine.window)
    return full + min(full, -(-seen // machine.block_size) + 1)


def room_of_group(machine: Machine, prompts: list[list[int]]) -> int:
    """How many tokens the rows may answer together; less than 1 if they cannot be run."""
    longest, held = max(map(len, prompts)), machine.blocks - 1 - int(machine.watermark * machine.blocks)
    if (
        len(prompts) > machine.sequences
        or longest >= machine.window
        or (len(prompts) > 1 and min(map(len, prompts)) < 2)
    ):
        return 0
    room = 0
    while room < machine.window - longest and sum(blocks_held(machine, len(one) + room) for one in prompts) <= held:
        room += 1
    return room


def random_machine(dice: random.Random, *, asynchronous: bool) -> Machine:
    sequences = dice.choice([2, 3, 4, 6, 8, 16])
    size = dice.choice([1, 2, 4, 8, 16])
    window = dice.choice([32, 48, 80])
    machine = Machine(
        asynchronous=asynchronous, block_size=size, sequences=sequences, window=window,
        tokens_per_step=dice.choice([sequences, sequences + 1, sequences + 5, 32, 64]),
        prefix_caching=dice.random() < 0.6, reserve=dice.random() < 0.6,
        watermark=dice.choice([0.0, 0.0, 0.05]), long_prefill=dice.choice([0, 0, 1, 5]),
        sliding_window=dice.choice([0, 0, 0, 7]), adapters=dice.choice([0, 0, 1, 2]),
        second_runner=dice.random() < 0.5, clients=dice.random() < 0.5,
    )  # fmt: skip
    alone = blocks_held(machine, window)  # vLLM itself does not start with less
    watermark = 2 if machine.watermark else 1
    return replace(machine, blocks=int(alone * dice.choice([1, 1.5, 2, 2, 3]) * watermark) + 2)


def random_client(dice: random.Random, machine: Machine, name: str, steps: int) -> Client:
    rows = dice.choice([0, 0, 1, 1, 1, 2, 3, 7])
    if dice.random() < 0.95:
        rows = min(rows, machine.sequences - 1)
    shared = [
        dice.randrange(VOCAB) for _ in range(min(16, dice.choice([0, 0, machine.block_size, 2 * machine.block_size])))
    ]
    style = random.Random(dice.choice([1, 2, dice.random()]))  # noqa: S311 - others have the same prompts

    def prompt() -> list[int]:
        length = style.choice([2, style.randrange(2, 12), style.randrange(2, machine.window - 16)])
        if dice.random() < 0.02:
            length = dice.choice([1, machine.window])
        return [*shared, *(style.randrange(VOCAB) for _ in range(length))]

    prompts = [prompt()[: machine.window - 1], *(prompt() for _ in range(rows))]
    plain = rows == 0 and dice.random() < 0.7
    asked = dice.choice([1, 2, 10, 30, 1000])
    room = machine.window - len(prompts[0]) if plain else room_of_group(machine, prompts)
    grammar = dice.choice([None, None, None, None, 0, 3, 9, -1])
    adapter = dice.choice([0, 1, 2, 3]) if machine.adapters else 0
    expected, reason = None, FinishReason.ERROR
    stops = dice.random() < 0.5
    if room >= 1 and grammar != -1:
        expected, reason = oracle(prompts, min(asked, room), adapter, stops=stops)
    request = make_request(
        name, prompts[0], rows=None if plain else dict(zip(NAMES, prompts[1:], strict=False)), machine=machine,
        max_tokens=min(asked, machine.window - len(prompts[0])), grammar=grammar is not None, stops=stops,
        client_index=dice.randrange(3), arrival_time=float(int(name)), trace_headers={"name": name},
        cache_salt=dice.choice([None, None, "salt"]),
        lora_request=make_adapter(adapter),
    )  # fmt: skip
    if grammar is not None:
        request.structured_output_request.grammar = Future()
    abort = dice.randrange(steps) if dice.random() < 0.25 else None
    return Client(request, prompts, dice.randrange(steps), expected, reason, grammar, abort)


class Run:
    """One run of an engine, as vLLM's EngineCore drives its scheduler.

    Attributes:
        told: what was counted on the way.
    """

    def __init__(self, seed: int, *, asynchronous: bool) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - it plays
        self.machine = random_machine(self.dice, asynchronous=asynchronous)
        self.steps = self.dice.choice([5, 30, 100])
        number = self.dice.choice([3, 8, 20])
        clients = [random_client(self.dice, self.machine, str(name), self.steps) for name in range(number)]
        self.clients = {client.request.request_id: client for client in clients}
        self.engine = SmallEngine(self.machine)
        self.scheduler = self.engine.scheduler
        self.told: Counter[str] = Counter()
        self.wild = self.dice.random() < 0.3
        self.grammars: list[tuple[int, Client]] = []

    def play(self) -> Counter[str]:
        """Run until all have ended.

        Raises:
            AssertionError: something does not hold.
        """
        work = sum(3 * sum(map(len, one.prompts)) + one.request.max_tokens + 20 for one in self.clients.values())
        for now in range(self.steps + work):
            self._clients_act(now)
            self._pause_or_reset(now)
            self._step(now)
            if now > self.steps and self.engine.is_idle:
                break
        else:
            raise AssertionError("requests do not end")
        self._check_end()
        return self.told

    def _clients_act(self, now: int) -> None:
        for client in self.clients.values():
            if client.arrival == now:
                self.scheduler.add_request(client.request)
                if client.grammar is not None:
                    self.grammars.append((now + max(client.grammar, 2), client))
            if client.abort == now and client.arrival <= now:
                self._abort(client)
        for due, client in self.grammars:
            if due == now and client.grammar == -1:
                client.request.structured_output_request._grammar.set_exception(ValueError("no grammar"))
            elif due == now:
                client.request.structured_output_request._grammar.set_result(object())

    def _abort(self, client: Client) -> None:
        finished = self.scheduler.finish_requests(client.request.request_id, RequestStatus.FINISHED_ABORTED)
        self.told["aborts"] += len(finished)
        assert finished == ([client.request] if client.ended is None else [])
        if finished:
            client.ended = FinishReason.ABORT

    def _pause_or_reset(self, now: int) -> None:
        if now > self.steps:
            self.scheduler.set_pause_state(PauseState.UNPAUSED)
        if now > self.steps or not self.wild:
            return
        if self.dice.random() < 0.03:
            self.scheduler.reset_prefix_cache(reset_running_requests=True)
            self.told["resets"] += 1
        if self.dice.random() < 0.1:
            states = [PauseState.UNPAUSED, PauseState.UNPAUSED, PauseState.PAUSED_NEW, PauseState.PAUSED_ALL]
            self.scheduler.set_pause_state(self.dice.choice(states))
        if self.dice.random() < 0.01:
            for request in self.scheduler.finish_requests(None, RequestStatus.FINISHED_ABORTED):
                self.clients[request.request_id].ended = FinishReason.ABORT
                self.told["aborts"] += 1

    def _step(self, now: int) -> None:
        def abort_one() -> None:
            there = [one for one in self.clients.values() if one.arrival <= now < self.steps]  # later ones must end
            if there and self.dice.random() < 0.02:
                self._abort(self.dice.choice(there))

        for index, told in self.engine.step(throttle=self.wild and self.dice.random() < 0.3, between=abort_one).items():
            assert index >= 0, "a hidden row is told to somebody"
            for output in told.outputs:
                assert self.clients[output.request_id].request.client_index == index
                if output.finish_reason is not None:
                    self.clients[output.request_id].ended = output.finish_reason
            assert (told.finished_requests or set()) <= set(self.clients), "a hidden row is among the finished"
        self._check_step()

    def _check_step(self) -> None:
        assert not self.engine.worker.out_of_step, "only some rows of a group were to sample"
        groups = set(self.scheduler._groups.values()) - set(self.scheduler._broken)
        assert sum(group.is_half_admitted() for group in groups) <= 1, "two groups are half admitted"

    def _check_end(self) -> None:
        self.told["steps"] = len(self.engine.scheduled)
        for name, client in self.clients.items():
            tokens = self.engine.tokens.get(name, [])
            self.told["preemptions"] += client.request.num_preemptions
            self.told["groups"] += len(client.prompts) > 1
            if client.ended is FinishReason.ABORT:
                assert tokens == (client.expected or [])[: len(tokens)], f"{name} got other tokens"
            else:
                self.told["whole answers"] += client.expected is not None
                self.told["refused"] += client.expected is None
                assert tokens == (client.expected or []), f"{name} got other tokens"
                assert client.ended is client.reason, f"{name} ended by {client.ended}, not {client.reason}"
        self.engine.check_nothing_is_left()


def play_many(runs: int, *, asynchronous: bool, first_seed: int = 0) -> Counter[str]:
    """Play that many runs.

    Raises:
        AssertionError: one failed; its seed and its machine are named.
    """
    told: Counter[str] = Counter()
    for seed in range(first_seed, first_seed + runs):
        run = Run(seed, asynchronous=asynchronous)
        try:
            told += run.play()

        except Exception as error:
            raise AssertionError(f"run {seed} of {run.machine}") from error
        told["runs"] += 1
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable(logging.ERROR)  # what is refused is logged
    for asynchronous in (False, True):
        began = time.monotonic()
        told = play_many(given.runs, asynchronous=asynchronous, first_seed=given.seed)
        print("asynchronous" if asynchronous else "synchronous", dict(told), f"{time.monotonic() - began:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()
