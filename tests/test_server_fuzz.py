"""The OpenAPI description fuzzed: whatever is sent, the answers are those that it describes, and no 5xx but 503."""

import pytest
from test_server_answers import model  # noqa: F401

from wsss.serving import server

schemathesis = pytest.importorskip("schemathesis")
from hypothesis import HealthCheck, settings  # noqa: E402
from schemathesis.checks import load_all_checks  # noqa: E402

load_all_checks()
EXAMPLES = 60


@pytest.fixture(scope="module")
def described(model):  # noqa: F811
    return schemathesis.openapi.from_asgi("/openapi.json", server.make_app(model))


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_the_answer_is_one_that_is_described(case):
    answer = case.call()
    assert answer.status_code < 500 or answer.status_code == 503
    case.validate_response(answer, excluded_checks=EXCLUDED)


EXCLUDED = []
