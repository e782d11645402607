# ruff: noqa: E501 (a hostile input a line)
import asyncio
import base64
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.exceptions import HTTPException

from src.__main__ import main as cli
from src.deploy import app, server
from src.deploy.app import Door, Server
from src.deploy.rows import Reader
from src.deploy.served import Served
from src.deploy.trained import as_json
from tests.conftest import ROOT, refused
from tests.exports import SOME, export, root, run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="serve needs Linux or macOS")
EXAMPLE = {"size": 90.5, "state": "new", "rooms": 2, "town": "a"}


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def door(name, token=""):
    counts = np.zeros((server.NUM_SLOTS, server.SLOT_BYTES // 8))
    return Door(Served(export(name)), counts, 3, token)


@cache
def shared(name):
    return door(name)


def ask(door, *requests):
    """Answers to `(method, path, how)`, one after the other, without a socket."""

    async def each():
        client = httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://x")
        return [await client.request(method, path, **how) for method, path, how in requests]

    return asyncio.run(each())


def post(body, kind="application/json", **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return "POST", "/predict", {"content": body, "headers": {"content-type": kind, **headers}}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def row(**changes):
    return {"rows": [EXAMPLE | changes]}


def some_rows():
    """Of whatever kind this project has."""
    return shared(SOME).served.example


def rows_text(text):
    return json.dumps(row()).replace("90.5", text).encode()


@pytest.mark.parametrize(("request_", "code", "line"), [
    (post(b""), 400, "the body is no JSON: Expecting value: line 1 column 1 (char 0)"),
    (post(b"{"), 400, "the body is no JSON: Expecting property name enclosed in double quotes: .*"),
    (post(b"\xff\xfe{"), 400, "the body is no JSON: 'utf-8' codec can't decode byte 0xff .*"),
    (post(b'{"rows": [], "rows": []}'), 400, 'the field "rows" is given twice'),
    (post(json.dumps(row()).replace('"town"', '"size": 1, "town"').encode()), 400, 'the field "size" is given twice'),
    (post(rows_text("NaN")), 400, "NaN is no number of JSON: give null for a missing value"),
    (post(rows_text("-Infinity")), 400, "-Infinity is no number of JSON: give null for a missing value"),
    (post(rows_text("9" * 5000)), 400, "the body is no JSON: Exceeds the limit .*"),
    (post(b"[" * 100_000), 400, "the JSON is nested too deeply"),
    (post(rows_text("[" * 500 + "]" * 500)), 422, "rows[0].size is a list: input should be a valid number; give null if it is unknown"),
    (post(rows_text("1e999")), 422, "rows[0].size is Infinity: input should be a finite number"),
    (post(rows_text("1e39")), 422, "rows[0].size is 1e+39: input should be less than or equal to 34028234663852886.*"),
    (post(rows_text("9" * 400)), 422, "rows[0].size is 999.* ...: input should be a valid number; give null if it is unknown"),
    (post([]), 422, "the body is a list: input should be a valid object"),
    (post({"rows": []}), 422, "rows is a list: list should have at least 1 item, not 0"),
    (post({"rows": 3}), 422, "rows is 3: input should be a valid list"),
    (post({}), 422, "rows: field required"),
    (post(row() | {"x": 1}), 422, 'the body has the unknown field "x"; there are: rows'),
    (post({"rows": [EXAMPLE] * 1025}), 422, "rows is a list: list should have at most 1024 items, not 1025"),
    (post({"rows": [EXAMPLE | {f"x{i}": 1 for i in range(300_000)}]}), 400, "an object of 300004 fields is none that there is"),
    (post({"rows": [3]}), 422, "rows[0] is 3: give a list of 4, or an object of them by name"),
    (post({"rows": ["a"]}), 422, 'rows[0] is "a": give a list of 4, or an object of them by name'),
    (post({"rows": [[1, "new", 2]]}), 422, "rows[0] is a list: give a list of 4, or .*"),
    (post({"rows": [[1, "nwe", 2, "a"]]}), 422, 'rows[0].state is "nwe"; did you mean "new"? .*'),
    (post({"rows": [EXAMPLE, EXAMPLE | {"sise": 1}]}), 422, 'rows[1] has the unknown field "sise"; did you mean size? there are: size, state, rooms, town'),
    (post(row(**{"\ud800": 1})), 422, 'rows[0] is "\\ud800": input should be a valid string, .*'),
    (post({"rows": [{"size": 1}]}), 422, "rows[0].state: field required; give null if it is unknown"),
    (post(row(size="90.5")), 422, 'rows[0].size is "90.5": input should be a valid number; give null if it is unknown'),
    (post(row(size=True)), 422, "rows[0].size is true: input should be a valid number; .*"),
    (post(row(size={})), 422, "rows[0].size is an object: input should be a valid number; .*"),
    (post(row(state="nwe")), 422, 'rows[0].state is "nwe"; did you mean "new"? there are: "new", "old", "r\\"u,in"'),
    (post(row(state=1)), 422, 'rows[0].state is 1; there are: "new", "old", "r\\"u,in"'),
    (post(row(state="x" * 10**6)), 422, 'rows[0].state is "x.* ...; there are: "new", .*'),
    (post(row(), "text/plain"), 415, "Content-Type is text/plain: send application/json, not compressed"),
    (post(row(), ""), 415, "Content-Type is missing: send application/json, not compressed"),
    (post(row(), **{"content-encoding": "gzip"}), 415, "Content-Type is application/json: send application/json, not compressed"),
    (("POST", "/predict", {"content": b"x", "headers": [("content-type", "image/png"), ("content-type", "application/json")]}), 415, "Content-Type is image/png: .*"),
    (post(b"x", "image/png"), 415, "Content-Type is image/png: send application/json, not compressed"),
    (post(b" " * (4 * 2**20 + 1)), 413, "more than 4,194,304 bytes"),
    (("GET", "/predict", {}), 405, "Method Not Allowed"),
    (("DELETE", "/signature", {}), 405, "Method Not Allowed"),
    (("GET", "/../etc/passwd", {}), 404, "there are: /predict, /, .*, /openapi.json"),
    (("GET", "/predict/", {}), 404, "there are: .*"),
])  # fmt: skip
def test_hostile_requests(request_, code, line):
    table = shared("kind")
    [said] = ask(table, request_)
    assert said.status_code == code, said.text
    assert said.json().keys() == {"error"}
    pattern = re.escape(line).replace(r"\.\*", ".*")
    assert re.fullmatch(pattern, said.json()["error"]), said.json()
    assert "content-security-policy" in said.headers
    assert table.held == table.num_requests == 0
    [said] = ask(table, post(row()))
    assert said.status_code == 200


@pytest.mark.parametrize(("request_", "line"), [
    (post(b"x", "image/png"), "rows[0] is no PNG or JPEG that can be used: cannot identify image file"),
    (post(png(np.zeros((5000, 5000), np.uint8)), "image/png"), "rows[0] is no PNG or JPEG that can be used: 5000 x 5000 is more than 16,000,000 pixels"),
    (post(png(np.zeros((9, 9), np.uint8))[:45], "image/jpeg"), "rows[0] is no PNG or JPEG that can be used: .*"),
    (post({"rows": ["%%"]}), 'rows[0] is "%%": only base64 data is allowed'),
    (post({"rows": ["\u00e9"]}), 'rows[0] is "\\u00e9": string argument should contain only ASCII characters'),
    (post({"rows": [base64.b64encode(png(np.zeros((2000, 3000), np.uint8))).decode()] * 3}), "rows[0] is no PNG or JPEG that can be used: 3000 x 2000 is more than 5,333,333 pixels"),
    (post({"rows": [base64.b64encode(b"GIF89a").decode()]}), "rows[0] is no PNG or JPEG .*"),
    (post({"rows": [[[[0] * 8] * 7]]}), "rows[0][0] is a list: list should have at least 8 items, not 7"),
    (post({"rows": [[[[0] * 8] * 7 + [[0] * 7 + [256]]]]}), "rows[0][0][7][7] is 256: input should be less than or equal to 255"),
    (post({"rows": [[[[0] * 8] * 7 + [[0] * 7 + [-1]]]]}), "rows[0][0][7][7] is -1: input should be greater than or equal to 0"),
    (post({"rows": [[[[0] * 8] * 7 + [[0] * 7 + [1.0]]]]}), "rows[0][0][7][7] is 1.0: input should be a valid integer"),
    (post({"rows": [[[[0] * 8] * 7 + [[0] * 7 + [None]]]]}), "rows[0][0][7][7] is null: input should be a valid integer"),
])  # fmt: skip
def test_hostile_images(request_, line):
    [said] = ask(shared("digits"), request_)
    assert said.status_code == 422, said.text
    pattern = re.escape(line).replace(r"\.\*", ".*")
    assert re.fullmatch(pattern, said.json()["error"]), said.json()


def served_scores(door, bodies):
    answers = ask(door, *bodies)
    assert {a.status_code for a in answers} == {200}
    return [p for a in answers for p in a.json()["predictions"]]


def test_a_table_gets_what_predict_says():
    """All test rows as they are in the CSV: names, text and empty cells."""
    assert cli(["predict", "--ckpt_path", str(run("kind"))]) == 0
    with (run("kind").parents[1] / "predictions_test.csv").open(newline="") as file:
        expected = [*csv.DictReader(file)]
    with (root() / "kind.csv").open(newline="") as file:
        cells = [*csv.DictReader(file)]
    numbers = ("size", "rooms")
    rows = []
    for line in expected:
        raw = cells[int(line["row"])]
        rows.append(
            {
                k: (float(v) if k in numbers else v) if v else None
                for k, v in raw.items()
                if k != "kind"
            }
        )
    assert any(None in r.values() for r in rows)
    assert {r["state"] for r in rows} >= {"new", "old", 'r"u,in'}
    by_list = [[r[k] for k in ("size", "state", "rooms", "town")] for r in rows]
    table = door("kind")
    for bodies in (
        [post({"rows": rows})],
        [post({"rows": [r]}) for r in rows],
        [post({"rows": by_list})],
    ):
        found = served_scores(table, bodies)
        assert len(found) == len(expected)
        for line, said in zip(expected, found, strict=True):
            assert said["class"] == line["predicted"]
            for name, value in said["probabilities"].items():
                assert value == pytest.approx(float(line[name]), abs=1e-5)


@pytest.mark.parametrize("name", ["colours"])
def test_images_get_what_predict_says(name, tmp_path):
    """All images of a folder, of other sizes, by bytes and by base64; one turned by its EXIF data."""
    folder, rng = tmp_path / "new", np.random.default_rng(0)
    folder.mkdir()
    for i in range(40):
        pixels = rng.integers(0, 256, (12 + i % 2, 10, 3), np.uint8)
        (folder / f"{i}.png").write_bytes(png(pixels))
    turned = Image.fromarray(np.arange(600, dtype=np.uint8).reshape(10, 20, 3))
    exif = Image.Exif()
    exif[0x112] = 6
    turned.save(folder / "t.jpg", exif=exif)
    Image.fromarray(np.full((9, 9, 4), 100, np.uint8)).save(folder / "alpha.png")
    words = ["predict", "--ckpt_path", str(run(name)), "--data.predict_path", str(folder)]
    assert cli(words) == 0
    with (run(name).parents[1] / "predictions_new.csv").open(newline="") as file:
        expected = [*csv.DictReader(file)]
    assert len(expected) == 42
    contents = [(folder / line["row"]).read_bytes() for line in expected]
    kinds = ["image/jpeg" if line["row"].endswith("jpg") else "image/png" for line in expected]
    texts = [base64.b64encode(content).decode() for content in contents]
    images = door(name)
    for bodies in ([*map(post, contents, kinds)], [post({"rows": texts})]):
        for line, said in zip(expected, served_scores(images, bodies), strict=True):
            assert said["class"] == line["predicted"]
            for label, value in said["probabilities"].items():
                assert value == pytest.approx(float(line[label]), abs=1e-5)


@pytest.mark.parametrize("name", ["kind", "price", "digits", "signals", "diabetes"])
def test_rows_as_json_are_those_rows(name):
    facts = json.loads((export(name) / "signature.json").read_text())
    reader, rng = Reader(facts["signature"], 1), np.random.default_rng(0)
    for _ in range(20):
        x = rng.integers(0, 4, reader.shape).astype(reader.dtype)
        if reader.dtype != np.uint8:
            x = x if reader.codes else rng.normal(0, 1e3, reader.shape).astype(reader.dtype)
            x[0] = np.nan
        text = json.dumps({"rows": [as_json(x, facts["signature"])]}).encode()
        np.testing.assert_array_equal(reader.array(reader.read(text)), x[None])
    answer = served_scores(door(name), [post({"rows": [facts["example"]]})])
    assert all(np.isfinite([*(answer[0].get("probabilities") or answer[0]).values()]))


def test_a_token_is_asked_for():
    closed = door("kind", "s3cret")
    right, wrong = {"authorization": "Bearer s3cret"}, {"authorization": "Bearer s3cret "}
    paths = ("/predict", "/signature", "/metrics", "/openapi.json", "/nothing")
    for path in paths:
        method = "POST" if path == "/predict" else "GET"
        for headers in ({}, wrong, {"authorization": "bearer \xe9".encode("latin-1")}):
            [said] = ask(closed, (method, path, {"headers": headers}))
            assert (said.status_code, said.headers["www-authenticate"]) == (401, "Bearer")
    [said] = ask(closed, post(row(), **right))
    assert said.status_code == 200
    for path in ("/", "/healthz", "/readyz"):
        [said] = ask(closed, ("GET", path, {}))
        assert said.status_code == 200
        assert "s3cret" not in said.text


def test_requests_at_once_share_a_batch_and_are_limited(monkeypatch):
    table = door("kind")
    monkeypatch.setattr(app, "MAX_REQUESTS", 20)
    sizes, run_ = [], table.served._run
    monkeypatch.setattr(table.served, "_run", lambda x: sizes.append(len(x)) or run_(x))

    async def all_at_once():
        transport = httpx.ASGITransport(table)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            jobs = []
            for i in range(30):
                method, path, how = post({"rows": [EXAMPLE | {"size": float(i)}] * (1 + i % 3)})
                jobs.append(client.request(method, path, **how))
            return await asyncio.gather(*jobs)

    answers = asyncio.run(all_at_once())
    codes = [a.status_code for a in answers]
    assert codes.count(200) == 20
    late = [a for a in answers if a.status_code != 200]
    assert {(a.status_code, a.headers["retry-after"]) for a in late} == {(503, "1")}
    assert len(sizes) < 10
    assert max(sizes) > 10
    for i, said in enumerate(answers):
        if said.status_code == 200:
            [alone] = served_scores(door("kind"), [post({"rows": [EXAMPLE | {"size": float(i)}]})])
            for found in said.json()["predictions"]:
                assert found["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-6)


def test_a_failure_of_the_model_is_ours_and_the_next_request_is_answered(monkeypatch, capfd):
    table = door("kind")
    with monkeypatch.context() as patch:
        patch.setattr(table.served, "_run", lambda x: 1 / 0)
        [said] = ask(table, post(row()))
    assert said.status_code == 500
    assert said.json() == {"error": "our fault"}
    assert "ZeroDivisionError" in capfd.readouterr().err
    [said] = ask(table, post(row()))
    assert said.status_code == 200


def test_a_prediction_that_is_no_number(monkeypatch):
    table = door("kind")
    monkeypatch.setattr(table.served, "_run", lambda x: np.array([[0.5, 0.5, 0], [1, np.nan, 0]]))
    [said] = ask(table, post({"rows": [EXAMPLE] * 2}))
    assert said.status_code == 422
    assert said.json()["error"] == "rows[1] has no finite prediction: is a value huge?"


def test_what_is_counted():
    table = door("kind")
    ask(table, post({"rows": [EXAMPLE] * 3}), post(row()), post(b"{"), ("GET", "/x", {}))
    [said] = ask(table, ("GET", "/metrics", {}))
    counts = dict(line.rsplit(" ", 1) for line in said.text.splitlines() if line[0] != "#")
    assert counts['fulgurite_requests_total{code="200"}'] == "2"
    assert counts['fulgurite_requests_total{code="400"}'] == "1"
    assert counts['fulgurite_requests_total{code="404"}'] == "1"
    assert counts["fulgurite_rows_total"] == "4"
    assert counts["fulgurite_seconds_count"] == "3"
    assert counts['fulgurite_seconds_bucket{le="+Inf"}'] == "3"
    assert float(counts["fulgurite_seconds_sum"]) > 0
    assert f'fulgurite_model_info{{version="{table.served.version}"}}' in counts


@pytest.mark.parametrize("name", ["kind", "digits", "signals"])
def test_description_holds_for_its_own_example(name):
    [described] = ask(door(name), ("GET", "/openapi.json", {}))
    described = described.json()
    content = described["paths"]["/predict"]["post"]["requestBody"]["content"]
    schemas = described["components"]["schemas"]
    schema = content["application/json"]["schema"]
    example = content["application/json"]["example"]
    [answer] = served_scores(door(name), [post(example)])
    assert answer.keys() == schemas["Prediction"]["properties"].keys()
    assert schema["required"] == [*example] == ["rows"]
    kinds = schema["properties"]["rows"]["items"]
    if name == "kind":
        assert kinds["anyOf"][0] == {"$ref": "#/components/schemas/Row"}
        by_name = schemas["Row"]
        assert not by_name["additionalProperties"]
        assert [*by_name["properties"]] == by_name["required"] == [*example["rows"][0]]
        assert by_name["properties"]["state"]["enum"] == [None, "new", "old", 'r"u,in']
        assert len(kinds["anyOf"][1]["prefixItems"]) == 4
    else:
        array = kinds["anyOf"][0] if name == "digits" else kinds
        value, shape = example["rows"][0], []
        while array.get("type") == "array":
            assert len(value) == array["minItems"] == array["maxItems"]
            shape, value, array = [*shape, len(value)], value[0], array["items"]
        facts = json.loads((export(name) / "signature.json").read_text())
        assert shape == facts["signature"]["in_shape"]
    assert ("image/png" in content) == (name == "digits")


def test_names_and_categories_may_be_any_text():
    names = ["class", "_a", "model_b", "a b", "zip"]
    coded = {"zip": ["1010", "2020"], "class": ["copy"]}
    reader = Reader(
        {"in_shape": [5], "dtype": "float32", "feature_names": names, "categories": coded}, 2
    )
    rows = reader.read(b'{"rows": [["copy", 1, 2, null, "2020"]]}')
    np.testing.assert_array_equal(reader.array(rows), [[1, 1, 2, np.nan, 2]])
    with pytest.raises(HTTPException) as info:
        reader.read(b'{"rows": [[null, 1, 2, 3, 1010]]}')
    meant = 'did you mean "1010"? there are: "1010", "2020"'
    assert info.value.detail == f"rows[0].zip is 1010; {meant}"


@pytest.mark.parametrize(
    ("host", "code"),
    {
        "localhost": 200, "LOCALHOST:8000": 200, "127.0.0.1:1": 200, "[::1]:8000": 200,
        "evil.com": 400, "localhost.evil.com": 400, "127.0.0.1.evil.com:8000": 400, "": 400,
    }.items(),
)  # fmt: skip
def test_a_page_of_the_internet_gets_nothing(host, code):
    """Its name may lead to this machine (DNS rebinding), and its requests then come from here."""
    counts = np.zeros((server.NUM_SLOTS, server.SLOT_BYTES // 8))
    for token, expected in (("", code), ("s3cret", 200)):
        local = Door(Served(export(SOME)), counts, 3, token, is_local=True)
        headers = {"authorization": "Bearer s3cret", "host": host}
        [page, said] = ask(local, ("GET", "/", {"headers": headers}), post(some_rows(), **headers))
        assert page.status_code == said.status_code == expected
    if code == 400:
        local = Door(Served(export(SOME)), counts, 3, "", is_local=True)
        [said] = ask(local, ("GET", "/", {"headers": {"host": host}}))
        assert said.json() == {"error": f'Host is "{host}", not localhost: others need a token'}


def test_a_flipped_bit_is_found(tmp_path):
    folder = tmp_path / "x"
    shutil.copytree(export(SOME), folder)
    rng = np.random.default_rng(0)
    for name in ["model.onnx"] * 300 + ["signature.json", "card.md"]:
        content = bytearray((export(SOME) / name).read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (folder / name).write_bytes(content)
        line = refused(lambda: server.verified(folder))
        assert line == f"{folder / name} is not as it was exported: export it again"
        shutil.copy(export(SOME) / name, folder)
    server.verified(folder)


@pytest.fixture
def live(monkeypatch):
    """`live(name)`: a server in a thread of this process; its port, and what closes its line."""
    ends = []

    def start(name):
        app = door(name)  # before the sockets, as it may skip the test
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # what waits is in Python
        line, far = socket.socketpair()
        made = Server(app, far)
        thread = threading.Thread(target=made.run, args=([listener],))
        thread.start()
        assert line.recv(1) == b"1"
        ends.append((line, far, thread))
        return listener.getsockname()[1], line

    yield start
    for line, far, thread in ends:
        line.close()
        thread.join(20)
        far.close()
        assert not thread.is_alive()


def test_slow_clients_are_sent_away(live, monkeypatch):
    monkeypatch.setattr(app, "SLOW_S", 0.3)
    port, _ = live(SOME)
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for begun in (b"", head):  # headers that don't come
        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            slow.sendall(begun)
            assert slow.recv(100) == b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(head + b"Content-Length: 100\r\n\r\n{")
        answer = slow.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'{"error":"no body within 0.3 s"}' in answer
        assert slow.recv(100) == b""
    body = json.dumps(some_rows()).encode()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:  # one connection, and pauses
        for _ in range(2):
            said = client.post(
                "/predict", content=body, headers={"content-type": "application/json"}
            )
            assert said.status_code == 200
            time.sleep(0.5)


@pytest.mark.parametrize("asks_more", [False, True])
def test_who_does_not_read_is_sent_away(live, monkeypatch, asks_more):
    monkeypatch.setattr(app, "SLOW_S", 0.3)
    port, _ = live(SOME)
    body = json.dumps({"rows": some_rows()["rows"] * 1024}).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(10)
        slow.connect(("127.0.0.1", port))
        slow.sendall(head + body)
        time.sleep(0.2)
        if asks_more:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.8)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while part := slow.recv(65536):
                found += part
    assert 0 < len(found) < int(re.search(rb"content-length: (\d+)", found)[1])


CHUNKED = b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"),
        (CHUNKED + b"0\r\na:", b"b" * 65536),  # a trailer
        (b"GET / HTTP/1.1\r\na:", b"b" * 65536),
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 10_000),
        (b"GET /", b"a" * 65536),
    ],
)
def test_what_does_not_end_is_cut_off(live, begun, more):
    port, _ = live(SOME)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(begun)
        for i in range(200):
            try:
                client.sendall(more)
            except OSError:
                break
            if i in (2, 70):
                time.sleep(0.1)
        else:
            pytest.fail("it listens on and on")


def test_a_worker_that_leaves_answers_who_is_there(live):
    port, line = live(SOME)
    body = json.dumps(some_rows()).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as idle,
        socket.create_connection(("127.0.0.1", port), timeout=10) as amid,
    ):
        amid.sendall(head + body[:5])
        time.sleep(0.3)
        line.close()
        time.sleep(0.5)
        for client, rest in ((idle, head + body), (amid, body[5:])):
            client.sendall(rest)
            answer = client.makefile("rb").read()  # until it is closed
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"\r\nconnection: close\r\n" in answer
            assert b'"probabilities"' in answer
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=10).recv(1)


class Process:
    """`python -m src serve` and what it prints."""

    def __init__(self, folder, *words, **env):
        command = [sys.executable, "-m", "src", "serve", "--model", folder, "--port", "0", *words]
        self.process = subprocess.Popen(
            [*map(str, command)], cwd=ROOT, env=os.environ | env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.first = self.process.stdout.readline().strip()
        self.url = self.first.rpartition(" at ")[2]

    def children(self):
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.rest = self.process.communicate(timeout=30)[0]


def until(check, seconds=60):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_new_export_a_signal_and_a_death_lose_no_request(tmp_path):
    folder = tmp_path / "x"
    shutil.copytree(export(SOME), folder)
    lost, versions, stop = [], set(), threading.Event()
    with Process(folder, "--workers", "2") as serving:
        assert serving.first == f"serving {folder} at {serving.url}"
        for pid in (serving.process.pid, *serving.children()):
            assert "torch" not in Path(f"/proc/{pid}/maps").read_text()

        def load(keeps):
            client = httpx.Client(base_url=serving.url, timeout=30)
            while not stop.is_set():
                try:
                    if not keeps:
                        client.close()
                        client = httpx.Client(base_url=serving.url, timeout=30)
                    said = client.post("/predict", json=some_rows())
                    assert said.status_code == 200
                    versions.add(said.json()["model"])
                except Exception as error:
                    lost.append(repr(error))
            client.close()

        threads = [threading.Thread(target=load, args=(keeps,)) for keeps in (True, True, False)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(versions) == 1)
            before = {*serving.children()}
            serving.process.send_signal(signal.SIGHUP)
            until(lambda: len(serving.children()) == 2 and not before & {*serving.children()})
            assert len(versions) == 1
            words = ["--ckpt_path", str(run(SOME)), "--opset", "16", "--out", str(folder)]
            assert cli(["export", *words]) == 0
            until(lambda: len(versions) == 2)
            (folder / "model.onnx").write_bytes(b"damaged")
            os.utime(folder / "SHA256SUMS")
            time.sleep(1)
            assert not lost
            until(lambda: len(serving.children()) == 2)
            killed = serving.children()[0]
            shutil.rmtree(folder)
            shutil.copytree(export(SOME), folder)
            until(lambda: killed not in serving.children())
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not lost
        pid = serving.children()[0]
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in serving.children() and len(serving.children()) == 2)
        assert httpx.get(serving.url + "/healthz").text == "ok"
        assert httpx.get(serving.url, headers={"host": "evil.com"}).status_code == 400
        children = serving.children()
    assert serving.process.returncode == 0
    assert "model.onnx is not as it was exported: export it again" in serving.rest
    assert "error: a worker did not start; going on as before" in serving.rest
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(
    ("words", "line"),
    {
        "": "serve: the following arguments are required: --model",
        "--model src": "src is no whole export, src/SHA256SUMS is missing: write one with export",
        "--model {run}": "{run} is no whole export, {run}/SHA256SUMS is missing: give {run}/export",
        "--model {x} --port {taken}": "--host 127.0.0.1 --port {taken}: Address already in use",
        "--model {x} --workers 0": "serve: --workers is 1 or more, --port 0 to 65535",
        "--model {x} --port 70000": "serve: --workers is 1 or more, --port 0 to 65535",
        "--model {x} --prot 3": "serve: unrecognized arguments: --prot 3",
        "--model {x} --port 0 --host 0.0.0.0": "0.0.0.0 is open to other machines: set FULGURITE_TOKEN to a secret text, or give --insecure",
        "--model {x} --port 0 --host ::": ":: is open to other machines: set FULGURITE_TOKEN to a secret text, or give --insecure",
        "--model {safe}": "{safe} holds no model.onnx with its signature.json: export one",
    }.items(),
)
def test_wrong_words(go, tmp_path, words, line):
    safe, run = tmp_path / "safe", tmp_path / "run"
    safe.mkdir()
    (run / "export").mkdir(parents=True)
    (safe / "SHA256SUMS").touch()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        places = {"{x}": export(SOME), "{run}": run, "{safe}": safe, "{taken}": taken}
        for key, value in places.items():
            words, line = words.replace(key, str(value)), line.replace(key, str(value))
        said = go(f"serve {words}")
    assert (said.code, said.err) == (2, f"error: {line}\n")


def test_its_end_starts_no_worker(tmp_path):
    shutil.copytree(export(SOME), tmp_path / "x")
    with Process(tmp_path / "x") as serving:
        shutil.rmtree(tmp_path / "x")
    assert (serving.process.returncode, serving.rest) == (0, "")


def test_a_worker_that_cannot_start_ends_it(go, tmp_path):
    folder = tmp_path / "x"
    shutil.copytree(export(SOME), folder)
    (folder / "model.onnx").write_bytes(b"no ONNX")
    sums = (folder / "SHA256SUMS").read_text().splitlines()[1:]
    digest = hashlib.sha256(b"no ONNX").hexdigest()
    (folder / "SHA256SUMS").write_text("\n".join([f"{digest}  model.onnx", *sums]) + "\n")
    said = go(f"serve --model {folder} --port 0")
    assert said.code == 2
    assert said.err.splitlines()[-1] == "error: a worker did not start"
    assert len(said.err.splitlines()) == 2


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(not BROWSER, reason="needs Chromium")
@pytest.mark.parametrize(("name", "said"), [("kind", "size"), ("digits", "Draw, or drop")])
def test_the_page_shows_a_prediction(live, tmp_path, name, said):
    port, _ = live(name)
    [answer] = served_scores(door(name), [post(Served(export(name)).example)])
    words = "--headless --no-sandbox --disable-gpu --virtual-time-budget=5000 --dump-dom"
    command = [BROWSER, *words.split(), f"--user-data-dir={tmp_path}", f"http://127.0.0.1:{port}/"]
    page = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert f"<h2>{answer['class']}</h2>" in page
    assert said in page
    assert "http" not in re.sub(r"<title>.*?</title>", "", page)


def test_help_and_the_parent_import_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "src", "serve", "--help"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in ran.stderr.splitlines()}
    assert "dataclasses" in imported  # by src.deploy.server
    assert not imported & {"torch", "lightning", "numpy", "uvicorn", "onnxruntime"}


def test_a_server_is_installed_by_its_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = [re.split("[>;]", name)[0] for name in project["optional-dependencies"]["serve"]]
    line = f"pip install -c constraints.txt {' '.join(extra)}\n"
    assert line in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    line = line.replace("install", "install --no-cache-dir")
    assert line in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_a_missing_extra(go, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    said = go("serve --model x")
    needs = "serve needs uvicorn: pip install fastapi httptools numpy onnxruntime uvicorn pillow"
    assert (said.code, said.err) == (2, f"error: {needs} (the extra `serve`)\n")


def test_a_client_that_leaves_is_no_fault_of_ours(capfd):
    table, sent = door("kind"), []
    body = [{"type": "http.request", "body": b'{"rows"', "more_body": True}]

    async def receive():
        return body.pop() if body else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict"}
    scope |= {"headers": headers, "query_string": b"", "root_path": "", "http_version": "1.1"}
    asyncio.run(table(scope, receive, send))
    assert sent[0]["status"] == 400
    assert capfd.readouterr() == ("", "")
