"""Makes `train.parquet` and `external.parquet`: pictures in tables, laid out as the hub's `datasets` lays them out.

    pip install pyarrow==25.0.0 && python make.py

The layout is that of `Dataset.to_parquet` with the features Image and ClassLabel: a struct of bytes and path, classes as
int64, and what the features are as JSON under `huggingface` in the schema's metadata. Not made again by a test: the
peers' environment has no pyarrow.
"""

import json
import pathlib
import struct
import zlib

import pyarrow as pa
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).resolve().parent
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    "text": {"dtype": "string", "_type": "Value"},
    "id": {"dtype": "int64", "_type": "Value"},
}


def png(grey: int) -> bytes:
    """One pixel."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes((0, grey)))) + chunk(b"IEND", b"")


def write(name: str, images: list[dict], **how) -> None:
    columns = {
        "image": pa.array(images, IMAGE),
        # -1: of an unknown class.
        "label": pa.array([[0, 1, -1][at % 3] for at in range(len(images))], pa.int64()),
        "text": pa.array([None if at % 3 == 2 else f"picture {at}" for at in range(len(images))], pa.string()),
        "id": pa.array(range(len(images)), pa.int64()),
    }
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    pq.write_table(table, HERE / name, **how)


if __name__ == "__main__":
    embedded = [{"bytes": png(20 * at), "path": f"{at}.png"} for at in range(12)]
    write("train.parquet", embedded, row_group_size=5, compression="snappy")
    write("zstd.parquet", embedded, compression="zstd")
    write("external.parquet", [{"bytes": None, "path": "/data/0.png"}])
