"""Whatever the page sends, the explorer answers with what was asked, or with one sentence."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from drgn.explorer.server import create
from drgn.explorer.session import Session
from drgn.run import Run

FINE = {200, 400, 403, 404, 405, 413, 422}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 13)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["path", "pc", "line", "graph", "evidence", "mine", "1" * 400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    "row",
    "z",
    "minus",
    "half",
    "rows",
    "lowpass_A",
    "kind",
    "selection",
    "name",
    "how",
    "points",
    "pc",
    "anchors",
]
BODIES = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5)
quickly = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def client(sound, tmp_path_factory):
    run = shutil.copytree(sound / "run", tmp_path_factory.mktemp("requests") / "run")
    session = Session(Run.open(run), [])
    session.jobs.start = lambda title, verb, options, output: pytest.skip("started")  # no processes
    made = TestClient(create(session, "secret"), base_url="http://127.0.0.1", raise_server_exceptions=False)
    made.headers["x-drgn-token"] = "secret"
    with made:
        yield made


def fine(answer):
    assert answer.status_code in FINE, answer.text
    if answer.status_code in (400, 403, 413):
        sentence = answer.json()["error"]
        assert len(sentence) > 10
        assert sentence.isprintable()


@quickly
@given(place=st.sampled_from(["volume", "images"]), body=BODIES | VALUES)
@example(place="images", body={"rows": [1 << 70]})
@example(place="images", body={"rows": [[0]], "lowpass_A": [1]})
@example(place="images", body={"rows": list(range(12)) * 10_000})
@example(place="volume", body={"row": True})
@example(place="volume", body={"z": [1e300, 0.0]})
@example(place="volume", body={"z": "ab"})
@example(place="volume", body={"row": 0, "minus": 3})
@example(place="volume", body={"row": 0, "half": {}})
def test_any_json_for_volumes_and_images(client, place, body):
    fine(client.post(f"/api/{place}", content=json.dumps(body)))


@quickly
@given(body=BODIES | VALUES)
@example(body={"kind": []})
@example(body={"kind": "path", "how": {}, "points": True})
@example(body={"kind": "path", "how": "line", "points": 5, "anchors": [0, {}]})
@example(body={"kind": "evidence", "selection": "../../x"})
def test_any_json_for_jobs(client, body):
    kind = body.get("kind") if isinstance(body, dict) else None
    if kind in ("encode", "analyze", "path", "evidence") and kind != "evidence":
        answer = None
        try:
            answer = client.post("/api/jobs", content=json.dumps(body))
        except pytest.skip.Exception:  # it would have been started
            return
        fine(answer)
        return
    fine(client.post("/api/jobs", content=json.dumps(body)))


@quickly
@given(
    content=st.binary(max_size=60) | st.sampled_from([b"[" * 100_000, b'{"z":' * 50_000, b"NaN", b"\xff\xfe"])
)
def test_any_bytes(client, content):
    for place in ("volume", "images", "jobs"):
        fine(client.post(f"/api/{place}", content=content))
    fine(client.put("/api/selections/mine", content=content))
    for form in ("star", "pkl", "nothing"):
        fine(client.post(f"/api/export/{form}/mine", content=content))
    for suffix in (".star", ".cs", ".csg", ".npy", ".txt", ".pkl", ".sh", ""):
        fine(client.post(f"/api/selected?file=x{suffix}", content=content))


@quickly
@given(
    name=st.text(max_size=12)
    | st.sampled_from(["z²", "PC²", "z" + "9" * 5000, "../x", "UMAP1", "z_norm", "%00"])
)
def test_any_name(client, name):
    from urllib.parse import quote

    word = quote(name, safe="")
    for path in (f"column/{word}", f"selections/{word}", f"file/{word}", f"jobs/{word}"):
        fine(client.get(f"/api/{path}"))
    fine(client.put(f"/api/selections/{word}", content=np.arange(2, dtype="<u4").tobytes()))
    fine(client.delete(f"/api/selections/{word}"))


@pytest.mark.parametrize("length", ["x", "-1", "1e9", "9" * 30, "\u00b2"])
def test_a_length_that_is_none(client, length):
    fine(client.post("/api/volume", content=b"{}", headers={"content-length": length.encode("latin1")}))


@quickly
@given(
    host=st.sampled_from(
        ["evil.example", "127.0.0.1.evil.example", "localhost", "[::1]", "", "127.0.0.1:80:80"]
    ),
    origin=st.none() | st.sampled_from(["http://evil.example", "null", "http://127.0.0.1", "file://"]),
    token=st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=9),
)
def test_neighbours_and_other_pages_get_nothing(client, host, origin, token):
    headers = {"host": host, "x-drgn-token": token or ""}
    if origin is not None:
        headers["origin"] = origin
    answer = client.get("/api/run", headers=headers)
    allowed = host in ("localhost", "[::1]") and origin in (None, f"http://{host}") and token == "secret"
    assert (answer.status_code == 200) == allowed
    assert allowed or answer.status_code == 403
