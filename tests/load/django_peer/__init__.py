"""The peers: a catalogue as the tutorials of Django REST framework and Ninja have it.

Lists of new items are not in the tutorials; both write them with one INSERT.
"""
