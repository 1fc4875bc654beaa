"""Witnesses
=========

A module for each way to look at a property.
"""
