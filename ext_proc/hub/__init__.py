"""The hub: what every gate's journal is copied to, and the one authority for session keys."""
