"""What data exist and how each comes to be: one module per asset family, and the engine that they share."""
