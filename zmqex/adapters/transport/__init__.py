"""ZeroMQ sockets behind the transport port."""
