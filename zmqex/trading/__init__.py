"""The trade state machine, holds and settlement: pure."""
