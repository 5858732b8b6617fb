"""The OpenAPI description fuzzed: whatever is sent, the answers are those that it describes, and no 5xx but 503.

A schema can't say what a picture is: that what fits it may be refused is left out.
"""

import pytest
from test_server_answers import model  # noqa: F401
from test_server_faults import running

schemathesis = pytest.importorskip("schemathesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

EXAMPLES = 60
PATHS = ["/segment", "/classes", "/health", "/ready", "/version", "/metrics", "/shadow"]


@pytest.fixture(scope="module")
def operations(model):  # noqa: F811
    with running(model) as port:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        yield {operation.path: operation for operation in (each.ok() for each in schema.get_all_operations())}


def test_all_paths_are_described(operations):
    assert list(operations) == PATHS


@pytest.mark.parametrize(("path", "mode"), [("/segment", "negative"), *((path, "positive") for path in PATHS)])
def test_whatever_is_sent_the_answer_is_one_that_is_described(operations, path, mode):
    strategy = operations[path].as_strategy(generation_mode=schemathesis.GenerationMode(mode))
    examples = EXAMPLES if path == "/segment" else 3

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=strategy)
    def send(case):
        answer = case.call()
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])

    send()
