"""Kernels as files
================

Where kernels come from, and what their files hold: packages, images, modules, types.
"""
