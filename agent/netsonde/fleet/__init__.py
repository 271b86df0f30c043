"""The controller's side: address many agents at once and gather what they answer."""
