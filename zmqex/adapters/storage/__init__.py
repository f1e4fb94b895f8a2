"""The journal: SQLite, one writer, group commit."""
