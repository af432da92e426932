"""Where a gate writes every event before anything passes."""
