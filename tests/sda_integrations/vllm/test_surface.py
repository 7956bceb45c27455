"""The check of vLLM's surface, on a module that stands for vLLM."""

import sys
from types import ModuleType

import pytest

from sda_integrations.vllm.hooks import Hook
from sda_integrations.vllm.surface import check_surface, demand_surface, is_tested

SOURCE = """
def helper(): pass

class Scheduler:
    limit = 3

    def schedule(self, throttle=False):
        self.limit = 0
        return [self._hold(one, 1) for one in self.waiting]

    def _hold(self, request, tokens, extra=None): pass

    def _unused(self, request): pass
"""


@pytest.fixture(autouse=True)
def module(monkeypatch):
    made = ModuleType("some_vllm")
    exec(SOURCE, made.__dict__)  # noqa: S102 - the text above
    monkeypatch.setitem(sys.modules, "some_vllm", made)


def hook(name="Scheduler._hold", **settings):
    return Hook("some_vllm", name, "holds a token", **settings)


@pytest.mark.parametrize(
    "fine",
    [
        hook(),
        hook("helper", parameters=()),
        hook(parameters=("request", "tokens")),
        hook(parameters=("request", "tokens", "extra")),
        hook("Scheduler.schedule", uses=("_hold", "waiting", "limit")),
        hook("Scheduler.schedule", parameters=()),
        hook("Scheduler.limit"),
    ],
)
def test_what_is_there_as_expected_is_no_problem(fine):
    assert check_surface([fine]) == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Hook("no_vllm.at_all", "Scheduler", "holds"), "no_vllm.at_all.Scheduler is missing, which holds"),
        (hook("Scheduler._held"), "some_vllm.Scheduler._held is missing, which holds a token"),
        (hook(parameters=("request", "number")), "takes (self, request, tokens, extra=None) in place of"),
        (hook(parameters=("request",)), "in place of (request)"),
        (hook("Scheduler.limit", parameters=("request",)), "nothing: it is a int"),
        (
            hook("Scheduler.schedule", uses=("_hold", "_unused", "running")),
            "some_vllm.Scheduler.schedule, which holds a token, has nothing to do with _unused, running any more.",
        ),
        (hook("Scheduler.limit", uses=("waiting",)), "has nothing to do with waiting"),
    ],
)
def test_what_is_missing_or_otherwise_is_told_with_what_it_is_for(broken, said):
    (problem,) = check_surface([hook(), broken])
    assert said in problem


def test_where_something_is_missing_nothing_starts_and_the_remedy_is_named():
    demand_surface([hook()])
    with pytest.raises(ImportError, match=r"_held is missing.*Install vLLM 0\.32\.x, with: sda vllm --install"):
        demand_surface([hook("Scheduler._held")])


def test_where_vllm_is_not_installed_its_absence_is_the_problem():
    assert all("is missing" in problem for problem in check_surface())


@pytest.mark.parametrize(
    ("version", "tested"),
    [
        ("0.32.0", True),
        ("0.32.1+cu129", True),
        ("0.33.0", False),
        ("0.3.2", False),
        ("1.32.0", False),
        ("dev", False),
        ("unknown", False),
    ],
)
def test_only_versions_that_were_tried_count_as_tested(version, tested):
    assert is_tested(version) is tested
