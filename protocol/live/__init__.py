"""The live world: the only importers of trio, zmq, prometheus_client and sqlite3."""
