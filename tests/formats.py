"""Files of many formats, as other programs' writers make them: warcio, pyarrow, tarfile, zipfile, pypdf."""

import io
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

ENGLISH = (
    "The river was wide, and the old man who lived beside it knew the name of each boat that went down to the sea."
)


def crawl(*pages, packed=False, isPartOf="CC-MAIN-2023-40") -> list[bytes]:
    """WARC records as warcio writes them: a warcinfo, then for each page (url, type, body, status) a response."""
    records = []

    def written(make):
        out = io.BytesIO()
        writer = WARCWriter(out, gzip=packed)
        writer.write_record(make(writer))
        records.append(out.getvalue())

    written(lambda w: w.create_warcinfo_record("x.warc", {"isPartOf": isPartOf}))
    for url, kind, body, status in pages:
        http = StatusAndHeaders(status, [("Content-Type", kind)], protocol="HTTP/1.1")
        data = body if isinstance(body, bytes) else body.encode()
        written(
            lambda w, url=url, data=data, http=http: w.create_warc_record(
                url, "response", payload=io.BytesIO(data), http_headers=http,
                warc_headers_dict={"WARC-Date": "2023-09-21T07:37:11Z"},
            )
        )  # fmt: skip
        written(lambda w, url=url: w.create_warc_record(url, "request", payload=io.BytesIO(b"GET / HTTP/1.1\r\n\r\n")))
    return records


def page(word: str) -> str:
    body = "".join(f"<p>{word} {n}. {ENGLISH}</p>" for n in range(4))
    return f"<html><head><title>{word}</title></head><body><nav>Home</nav><article>{body}</article></body></html>"


PAGES = [
    ("http://a.example/1", "text/html; charset=utf-8", page("One"), "200 OK"),
    ("http://a.example/2", "text/plain", "Two " + ENGLISH, "200 OK"),
    ("http://a.example/3", "image/png", b"\x89PNG\0\0", "200 OK"),
    ("http://a.example/4", "text/html", page("Gone"), "404 Not Found"),
    ("http://a.example/5", "text/html", page("Five"), "200 OK"),
]


def parquet(**columns) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=2)
    return out.getvalue()


def pdf(text: str = "", password: str = "") -> bytes:
    """A one-page PDF with a text layer, put together by hand; encrypted by pypdf if there is a password."""
    content = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]  # fmt: skip
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    data = out + b"xref\n0 6\n0000000000 65535 f \n" + table
    data += b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(out)
    if not password:
        return data
    from pypdf import PdfReader, PdfWriter

    writer, packed = PdfWriter(PdfReader(io.BytesIO(data))), io.BytesIO()
    writer.encrypt(password, algorithm="RC4-128")
    writer.write(packed)
    return packed.getvalue()


def tar(*members, compress=bytes) -> bytes:
    """(name, bytes) or (name, type, target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, *what in members:
            info = tarfile.TarInfo(name)
            data = what[0] if len(what) == 1 else b""
            info.size = len(data)
            if len(what) == 2:
                info.type, info.linkname = what
            archive.addfile(info, io.BytesIO(data))
    return compress(out.getvalue())


def zipped(*members) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


REPOSITORY = (
    ("engine-1.0/LICENSE", b"MIT License"), ("engine-1.0/.git/config", b"[core]"), ("engine-1.0/logo.png", b"\x89PNG"),
    ("engine-1.0/src/main.py", b"import os\n"), ("engine-1.0/src/wheel.rs", b"fn main() {}\n"),
)  # fmt: skip
