"""What is not this page's own request is refused before anything is read."""

import pytest
from starlette.testclient import TestClient

from pronk.feedback import guard, schema
from pronk.feedback.app import create_app

from .make import HOST, PLAIN, Status, Visitor, client, draw, rows, store

CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"


@pytest.mark.parametrize("path", ["/", "/guidelines", "/dashboard", "/api/me", "/static/page.css", "/nowhere"])
def test_every_answer_is_dressed(tmp_path, path):
    headers = client(store(tmp_path)).get(path).headers
    assert headers["content-security-policy"].startswith(CSP) and "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8100", "192.168.0.7:8100", "", "localhost.evil.example"]
)
def test_names_that_an_attacker_points_at_this_machine_are_refused(tmp_path, host):
    assert client(store(tmp_path)).get("/api/me", headers={"host": host, "origin": f"http://{host}"}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8100", "127.0.0.1:8100", "[::1]:8100", "127.0.0.1"])
def test_this_machines_own_names_are_answered(tmp_path, host):
    assert client(store(tmp_path)).get("/api/me", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9999", None])
def test_other_pages_cannot_post(tmp_path, origin):
    opened = store(tmp_path)
    ada = Visitor(opened)
    before = rows(opened, schema.events)
    del ada.client.headers["origin"]
    headers = {} if origin is None else {"origin": origin}
    assert ada.client.post("/api/next", json={}, headers=headers).status_code == 403
    assert rows(opened, schema.events) == before


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_posting_needs_the_csrf_token(tmp_path, token):
    opened = store(tmp_path)
    ada = Visitor(opened)
    before = rows(opened, schema.events)
    for path, body in (("/api/next", {}), ("/api/join", {"name": "eve"}), ("/api/undo", {"key": "12345678"})):
        assert ada.client.post(path, json=body, headers={"x-csrf": token}).status_code == 403
    assert rows(opened, schema.events) == before


def test_cookies_are_strict(tmp_path):
    line = client(store(tmp_path)).get("/api/me").headers["set-cookie"]
    assert "HttpOnly" in line and "SameSite=Strict" in line


def test_bodies_have_a_limit_with_or_without_a_length(tmp_path):
    ada = Visitor(store(tmp_path))
    long = "x" * (guard.LONGEST + 1)
    assert ada.post("/api/next", more=long).status_code == 413
    pieces = (long[i : i + 65536].encode() for i in range(0, len(long), 65536))
    said = ada.client.post("/api/undo", content=pieces, headers={"content-type": "application/json"})
    assert said.status_code == 400


def test_bound_wider_the_page_needs_its_key_and_keeps_it_out_of_addresses(tmp_path):
    app = create_app(store(tmp_path), PLAIN, draw, Status(), "the-key")
    visitor = TestClient(app, base_url="http://lab.example:8100", headers={"origin": "http://lab.example:8100"})
    for path in ("/", "/api/me", "/static/page.css", "/?key=wrong", "/?key="):
        assert visitor.get(path).status_code == 401
    came = visitor.get("/?key=the-key", follow_redirects=False)
    assert came.status_code == 303 and came.headers["location"] == "/"
    assert visitor.get("/").status_code == 200
    assert visitor.get("/api/me").json()["name"] is None


def test_a_taken_name_comes_back_on_this_machine_and_not_over_the_network(tmp_path):
    opened = store(tmp_path)
    one, again = Visitor(opened, "ada"), Visitor(opened, "ada")
    assert one.client.cookies["pronk_session"] != again.client.cookies["pronk_session"]
    assert len(rows(opened, schema.people)) == 1
    app = create_app(opened, PLAIN, draw, Status(), "the-key")
    far = TestClient(app, base_url=HOST, headers={"origin": HOST})
    far.get("/?key=the-key")
    csrf = far.get("/api/me").json()["csrf"]
    said = far.post("/api/join", json={"name": "ada"}, headers={"x-csrf": csrf})
    assert said.status_code == 409 and "taken" in said.json()["error"]
