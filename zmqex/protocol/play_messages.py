"""How play money is paid: a request to the payee, on the network `play` only."""

from __future__ import annotations

from typing import Literal

from zmqex.protocol.fields import Digest, Label, NodeKey, Positive, Word
from zmqex.protocol.messages import Message


class PlayPay(Message, frozen=True):
    """Pay a play invoice of an asset: the payee credits itself, then reveals the preimage."""

    payment_hash: Digest
    amount_msat: Positive
    payer_node: NodeKey
    asset: Label


class PlayPaid(Message, frozen=True):
    """`settled` with the preimage, `refused` (final) with a reason, or `held` for now."""

    state: Literal["settled", "held", "refused"]
    preimage: Digest | None
    reason: Word
