import json

import pytest

from sda_engine.errors import ConfigError
from sda_engine.testing import tiny_engine
from sda_integrations.studies.data import Source
from sda_integrations.studies.protocol import differences, keep_protocol, make_protocol, weights_digest
from sda_integrations.studies.reading import make_study


@pytest.fixture
def protocol(study, engine):
    return make_protocol(make_study(study), {"truthfulqa": Source("file", 3, "abc")}, engine)


def test_the_digest_is_of_all_that_figures_depend_on(study, engine, protocol):
    source = {"truthfulqa": Source("file", 3, "abc")}
    again = make_protocol(make_study(study), source, engine)
    other_data = make_protocol(make_study(study), {"truthfulqa": Source("file", 3, "xyz")}, engine)
    other_seed = make_protocol(make_study({**study, "seed": 1}), source, engine)
    assert again["digest"] == protocol["digest"]
    assert len({protocol["digest"], other_data["digest"], other_seed["digest"]}) == 3
    assert json.loads(json.dumps(protocol)) == protocol


def test_other_weights_have_another_digest(engine):
    with tiny_engine() as same:
        assert weights_digest(same) == weights_digest(engine)
        next(iter(same.model.parameters())).data[0, 0] += 1
        assert weights_digest(same) != weights_digest(engine)


def test_another_machine_is_no_other_protocol(protocol, tmp_path):
    keep_protocol(protocol, tmp_path / "new", resume=False)
    keep_protocol({**protocol, "machine": {"processor": "another"}}, tmp_path / "new", resume=True)


def test_another_protocol_is_refused_with_what_differs(protocol, tmp_path):
    keep_protocol(protocol, tmp_path, resume=False)
    changed = {**protocol, "digest": "other", "data": {"truthfulqa": {"name": "file", "rows": 4, "digest": "abc"}}}
    with pytest.raises(ConfigError, match=r"data\.truthfulqa\.rows: 3, now 4\. Run it as it was"):
        keep_protocol(changed, tmp_path, resume=True)


def test_a_protocol_that_cannot_be_read_is_told(protocol, tmp_path):
    (tmp_path / "protocol.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read or written"):
        keep_protocol(protocol, tmp_path, resume=True)


def test_differences_name_the_field_at_any_depth():
    old, new = {"a": {"b": [1, {"c": 2}]}, "d": 1}, {"a": {"b": [1, {"c": 3}]}, "e": 1}
    assert differences(old, new) == ["a.b[1].c: 2, now 3", "d: 1, now null", "e: null, now 1"]
