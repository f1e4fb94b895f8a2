"""UDP shell of the DHT node."""
