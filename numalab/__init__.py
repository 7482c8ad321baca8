"""numalab: a NUMA machine made of processes."""
