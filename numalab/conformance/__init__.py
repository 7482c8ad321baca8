"""One list of scenarios, run by the simulated cluster, a live one, and Linux 6.1 in QEMU."""
