"""What nodes and the coordinator share: the seam, messages, tables.  Pure, but for live/."""
