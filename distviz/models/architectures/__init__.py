"""Where each architecture has its MLPs, projections and activation functions."""
