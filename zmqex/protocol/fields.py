"""The field types that messages are made of, each with its bounds.

Decoding a message checks every bound in the same pass (msgspec), so that a handler never sees a
number, a text or a list outside them.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from zmqex.limits import ATTEMPTS_MAX, FRAME_BYTES_MAX, INTEGER_MAX

PROTOCOL_VERSION: Final = 1

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
NodeKey = Annotated[bytes, Meta(min_length=33, max_length=33)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
Digests = Annotated[bytes, Meta(min_length=8_192, max_length=8_192)]
Blob = Annotated[bytes, Meta(max_length=FRAME_BYTES_MAX)]

Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Positive = Annotated[int, Meta(ge=1, le=INTEGER_MAX)]
Milliseconds = Annotated[int, Meta(ge=0, le=2**53)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
SmallCount = Annotated[int, Meta(ge=0, le=1_000)]
Attempt = Annotated[int, Meta(ge=2, le=ATTEMPTS_MAX)]

Symbol = Annotated[str, Meta(pattern=r"^[A-Z0-9]{2,12}/[A-Z0-9]{2,12}\Z")]
NetworkName = Annotated[str, Meta(pattern=r"^[a-z0-9]{1,16}\Z")]
# Checked by being compared with what is known, not by its form, where every microsecond counts.
Label = Annotated[str, Meta(min_length=1, max_length=40)]
Word = Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,40}\Z")]
Host = Annotated[str, Meta(max_length=255, pattern=r"^[A-Za-z0-9.:\-_]*\Z")]
ShortText = Annotated[str, Meta(max_length=200)]
