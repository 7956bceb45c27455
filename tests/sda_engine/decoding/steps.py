"""Row groups by themselves: logits in, tokens out, without tasks and passes."""

from sda_engine.decoding.step_batch import choose


def advance_all(groups, logits):
    """The next token of each group, or its error, chosen in steps that they share.

    Args:
        logits: for each group, (vocab,) for each of its rows.
    """
    choosing = {
        number: group.advance(list(rows)) for number, (group, rows) in enumerate(zip(groups, logits, strict=True))
    }
    came, sent = {}, dict.fromkeys(choosing)
    while choosing:
        wanted = {}
        for number, generator in list(choosing.items()):
            try:
                (wanted[number],) = generator.send(sent[number])
            except StopIteration as end:
                came[number] = end.value
                del choosing[number]
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the group's own
                came[number] = error
                del choosing[number]
        for number, chosen in zip(list(wanted), choose(list(wanted.values())), strict=True):
            sent[number] = [chosen]
            if isinstance(chosen, BaseException):
                came[number] = chosen
                choosing.pop(number).close()
    return [came[number] for number in range(len(groups))]


def advance(group, logits):
    """The next token of one group."""
    (token,) = advance_all([group], [logits])
    if isinstance(token, BaseException):
        raise token
    return token
