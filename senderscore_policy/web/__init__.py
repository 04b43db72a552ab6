"""What the daemon serves over HTTP: the API, the status page and Prometheus metrics."""
