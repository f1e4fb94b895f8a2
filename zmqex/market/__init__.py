"""Instruments, orders, the book and matching: pure, knows no peers."""
