"""API keys: what needs one, what a key is, and that none is told."""

import pytest
from served_examples import asking
from test_server_answers import model  # noqa: F401
from test_server_headers import FILES

from wsss.errors import UserError
from wsss.serving import server
from wsss.serving.keys import ApiKeys
from wsss.serving.options import Options

KEY, OTHER = "0123456789abcdef", "f" * 64


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# of the team\n\n{KEY}\n  {OTHER}  \n")
    return ApiKeys.read(file)


@pytest.fixture(scope="module")
def ask(model, keys):  # noqa: F811
    return asking(server.make_app(model, Options(keys=keys)))


@pytest.mark.parametrize("path", ["/classes", "/version", "/metrics", "/shadow"])
def test_what_tells_of_the_model_needs_a_key(ask, path):
    assert ask("GET", path).status_code == 401
    assert ask("GET", path, headers={"x-api-key": KEY}).status_code in (200, 404)


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/openapi.json"])
def test_what_a_load_balancer_asks_needs_none(ask, path):
    assert ask("GET", path).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": KEY}, 200),
        ({"x-api-key": OTHER}, 200),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer  {OTHER}"}, 200),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"x-api-key": KEY[:-1]}, 401),
        ({"x-api-key": f"{KEY} {OTHER}"}, 401),
        ({"x-api-key": "# of the team"}, 401),
        ({"x-api-key": ""}, 401),
    ],
)
def test_masks_need_one_of_the_keys(ask, headers, status):
    answer = ask("POST", "/segment", content=FILES["png"], headers={"content-type": "image/png"} | headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer" and "X-API-Key" in answer.json()["detail"]


def test_a_refused_body_is_not_read(ask):
    async def untouched():
        raise AssertionError("the body was read")
        yield b""

    assert ask("POST", "/segment", content=untouched(), headers={"content-type": "image/png"}).status_code == 401


def test_keys_are_held_as_hashes(keys):
    assert KEY not in repr(vars(keys)) and KEY.encode() not in b"".join(keys._hashes)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no API key"),
        (b"# nothing\n", "holds no API key"),
        (b"short\n", "line 1 of .* is no API key"),
        (b"0123456789abcdef\n0123456789 abcdef\n", "line 2 of .* is no API key"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_bad_key_files_are_a_sentence_without_the_key(tmp_path, content, sentence):
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(UserError, match=sentence) as error:
        ApiKeys.read(tmp_path / "keys")
    assert "0123456789" not in str(error.value)


def test_a_missing_key_file_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="can't be read"):
        ApiKeys.read(tmp_path / "keys")
