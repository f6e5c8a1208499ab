"""The plain stack: Django REST framework as the tutorials have it, for comparison."""
