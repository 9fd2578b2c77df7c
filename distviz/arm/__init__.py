"""ARM, the redistributions to compare it with, and the published settings."""
