"""OpenAI's reasoning_effort -> the variables of a model's chat template that say the same."""

from collections.abc import Collection

from sda_engine.errors import ConfigError
from sda_engine.models import TemplateValue
from sda_engine.settings import shown


def reasoning_variables(
    effort: str | None, variables: Collection[str], *, thinks: bool, owner: str, others: str
) -> dict[str, TemplateValue]:
    """What a reasoning effort sets in the model's chat template.

    Args:
        effort: such as "low" or "none"; None says nothing.
        variables: the variables that the template leaves open.
        thinks: whether the model may think at all; one that does not obeys "none" by itself.
        owner: what the user calls the field, for errors.
        others: where other variables of the template can be set, likewise.

    Raises:
        ConfigError: the template has no way to say it.
    """
    if effort is None:
        return {}
    if "reasoning_effort" in variables:
        return {"reasoning_effort": effort}
    if effort == "none" and "enable_thinking" in variables:
        return {"enable_thinking": False}
    if effort == "none" and not thinks:
        return {}
    legal = "'none' or left out" if "enable_thinking" in variables or not thinks else "left out"
    reason = "the model's chat template has no variable for it" if thinks else "the model does not think"
    raise ConfigError(
        f"{owner} cannot be {shown(effort)}: {reason}. It must be {legal}; {others} sets other variables.",
        field="reasoning_effort",
    )
