import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from statml.datasets import fetch_bitcoin_otc
from statml.datasets._base import fetch_file

CONTENT = b"a,b\n" + b"1,2\n" * 50_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PACKED = gzip.compress(CONTENT)


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:-100] if self.path.startswith("/broken") else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.requests = []
    server.files = {
        "/table.csv": CONTENT,
        "/table.csv.gz": PACKED,
        "/again.csv.gz": gzip.compress(CONTENT, compresslevel=1),
        "/cut.csv.gz": PACKED[:-20],
        "/damaged.csv.gz": PACKED[:60] + bytes(20) + PACKED[80:],
        "/plain.csv.gz": CONTENT,
        "/other.csv": CONTENT + b"\n",
        "/broken.csv": CONTENT,
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("STATML_DATA", raising=False)
    monkeypatch.setenv("STATML_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # a proxy of the user's would not reach the server
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_a_file_is_downloaded_once_and_then_found_in_the_cache(server, cache, name):
    for _ in range(2):
        path = fetch_file(name, f"{server.url}/{name}", SHA256)
        assert path == cache / name
        assert path.read_bytes() == server.files[f"/{name}"]
    assert server.requests == [f"/{name}"]
    assert list(cache.iterdir()) == [path]


def test_the_checksum_of_a_gz_file_is_that_of_its_content(server):
    # the same content, packed differently
    assert server.files["/again.csv.gz"] != PACKED
    path = fetch_file("table.csv.gz", f"{server.url}/again.csv.gz", SHA256)
    assert gzip.decompress(path.read_bytes()) == CONTENT


def test_data_home_comes_before_the_cache_of_the_environment(server, cache, tmp_path):
    path = fetch_file("table.csv", f"{server.url}/table.csv", SHA256, tmp_path / "mine")
    assert path == tmp_path / "mine" / "table.csv"
    assert not cache.exists()


def test_without_settings_the_cache_is_in_the_home_folder(server, tmp_path, monkeypatch):
    monkeypatch.delenv("STATML_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = fetch_file("table.csv", f"{server.url}/table.csv", SHA256)
    assert path == tmp_path / ".cache" / "statml" / "table.csv"


def test_the_data_folder_comes_first_and_is_not_written_to(server, cache, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("STATML_DATA", str(data))
    url = f"{server.url}/table.csv"
    assert fetch_file("table.csv", url, SHA256) == cache / "table.csv"
    assert list(data.iterdir()) == []
    (data / "table.csv").write_bytes(CONTENT)
    assert fetch_file("table.csv", url, SHA256) == data / "table.csv"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("other.csv", f"sha256 {hashlib.sha256(CONTENT + bytes([10])).hexdigest()}"),
        ("cut.csv.gz", "no complete gzip file"),
        ("damaged.csv.gz", "no complete gzip file"),
        ("plain.csv.gz", "no complete gzip file"),
    ],
)
def test_a_download_of_wrong_content_names_the_file_and_is_not_kept(server, cache, name, found):
    with pytest.raises(ValueError, match="wrong content") as refusal:
        fetch_file(name, f"{server.url}/{name}", SHA256)
    for part in (name, f"expected sha256 {SHA256}", f"found {found}", server.url, "was not kept"):
        assert part in str(refusal.value)
    assert list(cache.iterdir()) == []


def test_a_wrong_file_in_the_cache_is_refused_and_left_alone(server, cache):
    cache.mkdir()
    (cache / "table.csv").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"table\.csv has the wrong content.*Delete it"):
        fetch_file("table.csv", f"{server.url}/table.csv", SHA256)
    assert (cache / "table.csv").read_bytes() == b"mine"
    assert server.requests == []


def test_a_broken_connection_keeps_nothing_and_says_so(server, cache):
    with pytest.raises(OSError, match=r"broken\.csv could not be downloaded") as refusal:
        fetch_file("broken.csv", f"{server.url}/broken.csv", SHA256)
    assert f"after {len(CONTENT) - 100} of {len(CONTENT)} bytes" in str(refusal.value)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("url", ["{server}/missing.csv", "http://127.0.0.1:9/missing.csv"])
def test_what_cannot_be_downloaded_is_refused_saying_where_to_put_it(server, cache, url):
    url = url.format(server=server.url)
    with pytest.raises(OSError, match=r"missing\.csv could not be downloaded") as refusal:
        fetch_file("missing.csv", url, SHA256)
    for part in (f"Download {url} by hand", str(cache / "missing.csv"), "STATML_DATA"):
        assert part in str(refusal.value)
    assert list(cache.iterdir()) == []


def test_a_data_set_offline_names_its_address(cache, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"https://snap\.stanford\.edu/data/soc-sign-bitcoinotc"):
        fetch_bitcoin_otc()
