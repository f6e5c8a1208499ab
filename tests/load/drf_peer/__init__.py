"""The peer: a catalogue as the tutorials of Django REST framework have it."""
