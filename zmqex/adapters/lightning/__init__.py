"""Lightning backends behind one port."""
