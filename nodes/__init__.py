"""A node: owns page frames, knows no mm."""
