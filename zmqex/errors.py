"""The exception tree: faults only, and each says whose fault it is.

An expected refusal ("not enough quantity", "unknown order") is never an exception: it is a
value of `zmqex.reasons.RejectReason`.  Exceptions are for what should not have happened::

    ZmqexError
    +-- ConfigError              the operator must fix something          exit code 2
    +-- InputError               the user typed what cannot be read; .reason  exit code 2
    +-- LocalProtocolError       our own caller asked for something illegal
    +-- RemoteProtocolError      a peer broke the rules; .penalty
    |   +-- InvalidInvoiceError        a text is not a BOLT 11 invoice that we may pay
    +-- UnavailableError         an outside thing did not answer; .retry_after_ms
    |   +-- NodeUnavailableError       no node answers the command line   exit code 3
    |   +-- PeerUnavailableError
    |   +-- HoldsUnavailableError
    |   +-- LightningUnavailableError
    |   |   +-- OtherNodeError         another Lightning node than ours answers; .node
    |   +-- DiscoveryUnavailableError
    +-- EvidenceError            a file of evidence does not hold together  exit code 1
    +-- RejectedError            an outside thing said no; final
    +-- RefusedError             the node refused a command                exit code 1
    +-- IndeterminateError       an outside thing may have acted: look it up before acting again
    +-- StorageError             the journal cannot be trusted: stop
"""

from __future__ import annotations

from zmqex.reasons import RejectReason


class ZmqexError(Exception):
    """Base of every fault that zmqex raises on purpose."""


class ConfigError(ZmqexError):
    """The operator must fix something; the message names the setting and what to do."""


class InputError(ZmqexError):
    """The user typed what cannot be read or used; the message is one sentence for the user."""

    def __init__(self, reason: RejectReason, message: str) -> None:
        """Give the word for programs and the sentence for people."""
        super().__init__(message)
        self.reason = reason


class LocalProtocolError(ZmqexError):
    """Our own code asked for something that the protocol forbids."""


class RemoteProtocolError(ZmqexError):
    """A peer sent what no correct peer sends."""

    def __init__(self, message: str, *, penalty: int = 1) -> None:
        """Blame the peer by `penalty` points (1 slip .. 10 attack)."""
        super().__init__(message)
        self.penalty = penalty


class InvalidInvoiceError(RemoteProtocolError):
    """A text is no BOLT 11 invoice, or one that must not be paid; the message says why."""


class UnavailableError(ZmqexError):
    """An outside thing did not answer; asking again after `retry_after_ms` is safe."""

    def __init__(self, message: str, *, retry_after_ms: int = 1_000) -> None:
        """Say who was silent, and when asking again makes sense."""
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class NodeUnavailableError(UnavailableError):
    """No running node answers on the control socket."""


class PeerUnavailableError(UnavailableError):
    """A peer is not connected or did not answer in time."""


class HoldsUnavailableError(UnavailableError):
    """The hold server (Redis) did not answer in time."""


class LightningUnavailableError(UnavailableError):
    """The Lightning backend did not answer; nothing was started there."""


class OtherNodeError(LightningUnavailableError):
    """Another Lightning node answers in place of ours; nothing was started there."""

    def __init__(self, message: str, *, node: bytes) -> None:
        """Say which one, by its key."""
        super().__init__(message)
        self.node = node


class DiscoveryUnavailableError(UnavailableError):
    """No discovery source answered."""


class EvidenceError(ZmqexError):
    """A file of evidence does not hold together; the message names what is wrong with it."""


class RejectedError(ZmqexError):
    """An outside thing refused for good; asking the same again gives the same answer."""

    def __init__(self, reason: RejectReason, message: str) -> None:
        """Say why in one word and in a sentence."""
        super().__init__(message)
        self.reason = reason


class RefusedError(ZmqexError):
    """The node refused a command; the message is one clear sentence."""

    def __init__(self, reason: str, message: str) -> None:
        """`reason` is a RejectReason word, of this version or a newer one."""
        super().__init__(message)
        self.reason = reason


class IndeterminateError(ZmqexError):
    """An outside thing may or may not have acted: look it up by its hash before acting again."""


class StorageError(ZmqexError):
    """The journal cannot be trusted or written; the node sends nothing more and stops."""
