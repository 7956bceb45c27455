"""What a model can do, as LangChain's agents and middleware read it."""

from langchain_core.language_models import ModelProfile

from sda_engine.adapting import Engine


def plain_profile() -> ModelProfile:
    """What all models can do."""
    return ModelProfile(
        text_inputs=True,
        text_outputs=True,
        image_inputs=False,
        image_url_inputs=False,
        image_tool_message=False,
        audio_inputs=False,
        video_inputs=False,
        tool_calling=True,
        tool_choice=True,
        structured_output=True,
    )


def profile_of(engine: Engine) -> ModelProfile:
    """What an engine's model can do."""
    profile = plain_profile()
    profile["max_input_tokens"] = engine.context_window - 1
    profile["reasoning_output"] = engine.thinks
    profile["image_inputs"] = profile["image_tool_message"] = engine.reads_pictures
    return profile
