"""What one request asks of the cache: a plain one, and a group of rows that begin alike."""

from dataclasses import dataclass

from sda_integrations.vllm.plan.cache import CacheShape, blocks_held, blocks_shared

TEMPLATE_TOKENS = 5  # what chat templates write after the user's last words: "<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True)
class RequestShape:
    """One request.

    Attributes:
        prompt: tokens of the base prompt.
        instruction: tokens that each of the other rows' prompts has more.
        answer: tokens of the answer.
        rows: of the group: 1 is a plain request, 2 base and instructed, 3 with an avoided context as well.
        common: tokens that all prompts begin with.
    """

    prompt: int
    instruction: int
    answer: int
    rows: int
    common: int

    def lengths(self) -> list[int]:
        """Tokens of each row at its full length."""
        base = self.prompt + self.answer
        return [base, *[base + self.instruction] * (self.rows - 1)]

    def mean_lengths(self) -> list[float]:
        """Tokens that each row has had read, on average over its answer."""
        return [length - self.answer / 2 for length in self.lengths()]


@dataclass(frozen=True)
class RequestBlocks:
    """Blocks of a request at its full length.

    Attributes:
        shared: held once by all rows.
        tails: of each row, those of its own.
    """

    shared: int
    tails: tuple[int, ...]

    @property
    def total(self) -> int:
        """All of them."""
        return self.shared + sum(self.tails)


def prompt_tokens_computed(block_size: int, request: RequestShape) -> int:
    """Tokens of all prompts that have to be read: the full blocks that they have in common, once."""
    longer = [request.prompt + request.instruction] * (request.rows - 1)
    return request.prompt + sum(tokens - request.common // block_size * block_size for tokens in longer)


def request_blocks(shape: CacheShape, request: RequestShape) -> RequestBlocks:
    """Blocks of a request at its full length.

    The rows differ by their instruction, so with a sliding window the shorter one holds more of the common prefix: what
    it alone still holds counts as its own.
    """
    common = request.common if request.rows > 1 else 0
    held = [blocks_held(shape, tokens) for tokens in request.lengths()]
    shared = min(blocks_shared(shape, common, tokens) for tokens in request.lengths())
    return RequestBlocks(shared, tuple(blocks - shared for blocks in held))
