"""The check of vLLM's surface, on a module that stands for vLLM."""

import sys
from types import ModuleType

import pytest

from sda_integrations.vllm.surface import Hook, check_surface, demand_surface, is_tested

SOURCE = """
def helper(): pass

class Scheduler:
    limit = 3

    def schedule(self, throttle=False):
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
        hook(callers=("some_vllm:Scheduler.schedule",)),
        hook("Scheduler.schedule", parameters=()),
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
            hook("Scheduler._unused", callers=("some_vllm:Scheduler.schedule",)),
            "some_vllm.Scheduler._unused, which holds a token, is not used by some_vllm.Scheduler.schedule.",
        ),
        (hook(callers=("some_vllm:Scheduler.gone",)), "is not used by some_vllm.Scheduler.gone"),
    ],
)
def test_what_is_missing_or_otherwise_is_told_with_what_it_is_for(broken, said):
    (problem,) = check_surface([hook(), broken])
    assert said in problem


def test_a_call_within_a_comprehension_counts():
    assert not check_surface([hook(callers=("some_vllm:Scheduler.schedule",))])


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
