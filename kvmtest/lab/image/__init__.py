"""The image
=========

What a machine of the lab boots from, and the files that it gets afterwards.
"""
