"""The drill: breaks what the site stands on, under load, and checks every answer."""
