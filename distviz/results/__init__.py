"""The results of each command as plain data, and their folders."""
