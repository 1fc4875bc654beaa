"""SVM guests
==========

svm.guest.*: what guests on AMD read, write and do. A module for each property.
"""
