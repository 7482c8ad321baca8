"""What other programs do with the same pages, each as a program of its own (``bench/peer.py``)."""
