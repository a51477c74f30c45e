"""What the report page draws, from finished runs of the demo and from published numbers: `gallery.drawn`.

A module a paper and one for what papers share: the common plane (plane.py), networks side by side (images.py). Each figure
is a function of the runs and the published numbers that returns its pictures, none where its runs are missing.
"""
