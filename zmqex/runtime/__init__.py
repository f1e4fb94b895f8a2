"""The shell around the kernel: the event loop, the journal's gate, and the process."""
