"""The simulator: the shipped Cores, through the shipped codec, on virtual time (design 8)."""
