"""The command `decollapse diagnose`: run folders and checkpoints in, a verdict with its numbers out."""
