"""The server's application on Ray Serve."""

import os
import re
import signal
import subprocess
import sys
from urllib.request import urlopen

import pytest
from test_server_faults import ask
from test_server_headers import FILES
from test_server_live import CLASSES, registry  # noqa: F401

from wsss.errors import UserError
from wsss.serving.ray_serve import replicas_of


def test_replicas_are_a_number_or_two():
    assert replicas_of("2") == (2, 2) and replicas_of("1-4") == (1, 4)


@pytest.mark.parametrize("text", ["", "0", "4-1", "1-", "-2", "a", "1-2-3", "1.5"])
def test_other_replicas_are_a_sentence(text):
    with pytest.raises(UserError, match="such as 1-4"):
        replicas_of(text)


@pytest.mark.soak
def test_one_command_serves_in_replicas(registry):  # noqa: F811
    """By a cluster of this machine: the model of the registry, its classes, refusals in a sentence, and an end."""
    command = [sys.executable, "-m", "wsss.cli", "serve", "models:/wsss-little/2", "--ray", "--replicas", "2"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen([*command, "--port", "8199"], cwd=registry, stdout=subprocess.PIPE, env=environment)
    try:
        line = process.stdout.readline().decode()
        assert re.search("models:/wsss-little/2 on http://127.0.0.1:8199, 2 to 2 replicas", line), line
        for _ in range(20):
            status, headers, _ = ask(8199, "POST", "/segment", FILES["png"], content_type="image/png")
            assert status == 200 and headers["x-model-version"] == "models:/wsss-little/2"
        assert ask(8199, "POST", "/segment", b"hello", content_type="image/png")[0] == 422
        with urlopen("http://127.0.0.1:8199/classes") as answer:
            told = answer.read().decode()
        assert all(name in told for name in CLASSES.names)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
