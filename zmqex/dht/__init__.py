"""A BEP 5 node without I/O: datagrams in, datagrams out."""
