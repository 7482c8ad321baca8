"""The dashboards of Grafana, as code: ``python -m grafana.generate`` writes the JSON."""
