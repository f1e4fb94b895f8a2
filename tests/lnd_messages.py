"""LND's messages as protobuf classes, compiled from `tests/data/lnd.proto`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

_FOLDER: Final = Path(__file__).parent / "data"


def _compiled() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "lnd.binpb")
        arguments = ["", f"-I{_FOLDER}", f"--descriptor_set_out={result}", "lnd.proto"]
        assert protoc.main(arguments) == 0
        files = descriptor_pb2.FileDescriptorSet.FromString(result.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    (file,) = files.file
    found = pool.AddSerializedFile(file.SerializeToString())
    classes: dict[str, Any] = {
        name: message_factory.GetMessageClass(one)
        for name, one in found.message_types_by_name.items()
    }
    return classes | dict(found.enum_types_by_name)


# Message or enum by its name.
MESSAGES: Final = _compiled()
