"""The metrics of the agent in Prometheus form, gathered at each scrape."""
