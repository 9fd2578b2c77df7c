"""The demo model and its documents, as package data."""
