"""The controller's side: send requests to many agents and gather their replies."""
