"""Files in the database: what is written is read, from any place."""

import io
import uuid

import pytest

from items.models import ImportFile, ImportRun
from resilient_site.resilience import chunks

pytestmark = pytest.mark.django_db
CONTENT = bytes(range(251))


@pytest.fixture
def file(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 10)
    run = ImportRun.objects.create(id=uuid.uuid4())
    file = ImportFile.objects.create(run=run, kind="upload")
    writer = chunks.Writer(file)
    for start in range(0, len(CONTENT), 7):
        writer.write(CONTENT[start : start + 7])
    writer.close()
    return ImportFile.objects.get()


@pytest.mark.parametrize(("start", "end"), [(0, None), (3, 45), (10, 20), (251, 251)])
def test_file_is_read_from_start_to_end(file, start, end):
    assert b"".join(chunks.read(file, start, end)) == CONTENT[start:end]


def test_stream_is_read_in_any_order(file):
    with chunks.open_file(file) as stream:
        assert stream.read() == CONTENT
        assert stream.seek(-5, io.SEEK_END) == 246
        assert stream.read(100) == CONTENT[246:]
        assert stream.read() == b""
        stream.seek(3)
        assert stream.read(20) == CONTENT[3:23]
        assert stream.seek(-1, io.SEEK_CUR) == 22
        assert stream.read(1) == CONTENT[22:23]
        stream.seek(1_000)
        assert stream.read() == b""


def test_file_grows_by_pieces_of_any_size(file):
    assert chunks.append(file, b"more than a chunk has") == len(CONTENT) + 21
    assert b"".join(chunks.read(file)) == CONTENT + b"more than a chunk has"


def test_file_without_one_of_its_chunks_is_not_read(file):
    file.chunks.filter(offset=20).delete()
    with pytest.raises(EOFError, match="at 20 of 251 bytes"):
        list(chunks.read(file))
