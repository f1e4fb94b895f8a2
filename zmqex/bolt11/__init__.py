"""A strict BOLT 11 invoice codec: pure."""
