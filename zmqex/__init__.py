"""zmqex: a peer-to-peer exchange node on a ZeroMQ message bus."""

__version__ = "0.1.0"
