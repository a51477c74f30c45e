"""What the report page draws, from finished runs of the demo and from published numbers: `gallery.drawn`.

A module a paper, and some for what papers share: the common plane (plane.py), heat maps (maps.py), networks side by
side (images.py). A figure is a function of the runs and the published numbers; it returns its pictures, none where its
runs are missing.
"""
