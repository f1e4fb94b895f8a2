"""The hold server: Redis behind the holds port."""
