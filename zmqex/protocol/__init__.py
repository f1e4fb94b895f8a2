"""Bytes in, messages out; identity and the signed order log: pure."""
