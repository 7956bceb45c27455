"""What an installation with each extra lets one do, as statements that run without a download; "" is no extra.

Where the packages of an extra are missing, each of its promises is refused by an error that names the extra.
"""

_TINY = """
from sda_engine.testing import tiny_engine
engine = tiny_engine()
"""
_PAIR = """
from sda_engine import PRESETS
from sda_engine.evaluation import NamedEvaluator, RatedPair, check_evaluators
from sda_engine.evaluators import FixedScore
question = {"role": "user", "content": "Is it so?"}
pairs = [RatedPair(messages=(question,), response=text, alignment=PRESETS["honesty"], label=text == "Yes.")
         for text in ("Yes.", "No.")]
"""

# vLLM has an environment of its own: beside us there is none, and what is told of it then is the promise
_SDA = """
import os, subprocess, sys
def sda(*arguments):
    command = [sys.executable, "-c", "from sda_engine.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
"""

PROMISES: dict[str, tuple[str, ...]] = {
    "": (
        """
import sda_engine, sda_engine.errors, sda_engine.steering
for name in sda_engine.__all__:
    getattr(sda_engine, name)
""",
        """
import sda_engine.evaluators as evaluators
for name in set(evaluators.__all__) - {"CachedEvaluator"}:
    getattr(evaluators, name)
evaluators.OpenAIEvaluator("gpt-4.1", api_key="none")
""",
        _TINY
        + """
from sda_engine import Constraint, Output, Sampling, Steering
from sda_engine.evaluators import ContrastiveEvaluator
done = engine.generate(
    [{"role": "user", "content": "Is it so?"}], "honesty",
    steering=Steering(evaluator=ContrastiveEvaluator()), sampling=Sampling(max_new_tokens=8),
    output=Output(constraint=Constraint.regex("yes|no")),
)
assert done.text in ("yes", "no") and done.trace.to_html()
""",
        """
import sys
sys.argv = ["sda", "presets", "--json"]
from sda_engine.cli import main
with open("presets.json", "w") as sys.stdout:
    try:
        main()
    except SystemExit as end:
        assert not end.code
sys.stdout = sys.__stdout__
""",
    ),
    "langchain": (
        "from sda_integrations.langchain import ChatModelEvaluator, ChatSDA",
        _TINY
        + """
from sda_integrations.langchain import ChatSDA
chat = ChatSDA(engine=engine, alignment="honesty", max_tokens=200)
assert chat.invoke("Is it so?", max_tokens=8).response_metadata["sda"]
chat.with_structured_output({"title": "Yes", "type": "object", "properties": {"yes": {"type": "boolean"}}}).invoke("?")
""",
    ),
    "agents": (
        _TINY
        + """
from sda_integrations.langchain import ChatSDA, SDAMiddleware
from langchain.agents import create_agent
agent = create_agent(ChatSDA(engine=engine, max_tokens=8), middleware=[SDAMiddleware("honesty")])
assert agent.invoke({"messages": ["Is it so?"]})["messages"]
""",
    ),
    "llama-index": (
        "from sda_integrations.llama_index import SDALLM, LLMEvaluator, call_settings",
        _TINY
        + """
from sda_integrations.llama_index import SDALLM
from llama_index.core.llms import ChatMessage
assert SDALLM(engine=engine, alignment="honesty", max_tokens=8).chat([ChatMessage("Is it so?")]).raw["sda"]
""",
    ),
    "plot": (
        _TINY
        + """
from sda_engine import Sampling
question = [{"role": "user", "content": "Is it so?"}]
engine.generate(question, "honesty", sampling=Sampling(max_new_tokens=4)).trace.plot().savefig("trace.svg")
""",
    ),
    "cache": ("from sda_engine.evaluators import CachedEvaluator, FixedScore\nCachedEvaluator(FixedScore(50))",),
    "report": (
        _TINY + _PAIR + "assert check_evaluators(engine, pairs, [NamedEvaluator('fixed', FixedScore(50))]).as_dict()",
        _TINY
        + _PAIR
        + """
from pathlib import Path
from sda_engine.cli.evaluators import check_extra
check_extra(Path("calibration.svg"))
from sda_engine.evaluation.calibration_plot import save_calibration
save_calibration(check_evaluators(engine, pairs, [NamedEvaluator('fixed', FixedScore(50))]), Path("calibration.svg"))
""",
    ),
    "pictures": (
        """
from base64 import b64decode
from sda_engine import EngineSettings
from sda_engine.pictures import read_picture
png = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGP8z4AdMOEQH6QSAM1BAQ/oQeJvAAAAAElFTkSuQmCC"
picture = read_picture(b64decode(png), "messages[0]", EngineSettings().picture_limits)
from sda_engine import Sampling
from sda_engine.testing import tiny_vision_engine
content = [{"type": "image", "image": b64decode(png)}, {"type": "text", "text": "Which colour?"}]
done = tiny_vision_engine().generate([{"role": "user", "content": content}], sampling=Sampling(max_new_tokens=4))
assert picture.image.size == (8, 8) and done.token_ids
""",
    ),
    "adapters": (
        """
from sda_engine import Sampling, SteeringEngine
from sda_engine.testing import tiny_model, tiny_tokenizer
tiny_model().save_pretrained("tiny")
tiny_tokenizer().save_pretrained("tiny")
try:
    from peft import LoraConfig
    model = tiny_model()
    model.add_adapter(LoraConfig(target_modules=["q_proj"]), adapter_name="mine")
    model.save_pretrained("mine")
except ImportError:
    pass
engine = SteeringEngine.load("tiny", adapters={"mine": "mine"})
done = engine.generate([{"role": "user", "content": "?"}], adapter="mine", sampling=Sampling(max_new_tokens=4))
assert done.token_ids
""",
    ),
    "inspect": (
        _TINY
        + """
import asyncio
import sda_integrations.inspect
from inspect_ai.model import GenerateConfig, get_model
model = get_model(f"sda/{engine.name}", engine=engine, alignment="honesty", memoize=False)
assert asyncio.run(model.generate("Is it so?", config=GenerateConfig(max_tokens=4))).metadata["sda"]
""",
    ),
    "evaluate": (
        """
from sda_integrations.studies.command import check_extra
check_extra()
from pathlib import Path
from sda_engine.testing import tiny_model, tiny_tokenizer
tiny_model().save_pretrained("tiny")
tiny_tokenizer().save_pretrained("tiny")
from sda_integrations.studies.reading import make_study
from sda_integrations.studies.report import write_report
from sda_integrations.studies.running import run_study
arms = {"plain": {"kind": "plain"}, "paper": {"kind": "steered", "steering": {"policy": "paper"}}}
study = {"name": "s", "title": "t", "question": "q", "model": "tiny", "limit": 2, "max_tokens": 4}
study = make_study({**study, "tasks": [{"name": "rag"}], "arms": arms})
write_report(run_study(study, Path("out"), display="none"), Path("out"))
assert "paper" in Path("out/report.html").read_text()
""",
    ),
    "server": (
        """
from sda_integrations.server.command import check_extra
check_extra()
""",
        _TINY
        + """
from sda_engine import RemoteEngine, Sampling, Steering
from sda_integrations.server import ServerSettings, make_app, make_server
from sda_integrations.server.serving import bind, url_of
import threading
server, bound = make_server(make_app(engine, ServerSettings(served_model_name="tiny"))), bind("127.0.0.1", 0)
threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True).start()
asked = {"steering": Steering(policy="paper"), "sampling": Sampling(max_new_tokens=4)}  # "revise" may steer nothing
with RemoteEngine(f"{url_of(bound)}/v1", model="tiny", max_retries=5) as remote:
    done = remote.generate([{"role": "user", "content": "?"}], "honesty", **asked)
assert done.token_ids and done.amplification
server.should_exit = True
""",
    ),
    "vllm": (
        _SDA
        + """
done = sda("vllm", "--help")
assert done.returncode == 0 and "--alignment" in done.stdout, done
done = sda("vllm", "--check")
assert done.returncode == 1 and "There is no vLLM here" in done.stdout and "sda vllm --install" in done.stdout, done
done = sda("vllm", "--plan", "llama-3.1-8b", "--gpu", "h100")
assert done.returncode == 0 and done.stdout, done
""",
        """
from sda_integrations.vllm.environments import needed_packages
assert needed_packages()
""",
    ),
    "demo": (
        """
from sda_integrations.demo.command import check_extra
check_extra()
import sda_integrations.demo.run
from sda_integrations.demo.langchain_assistant import LangChainAssistant
from sda_integrations.demo.llama_index_assistant import LlamaIndexAssistant
""",
    ),
}
