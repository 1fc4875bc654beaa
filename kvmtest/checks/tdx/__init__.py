"""Intel TDX
=========

tdx.*: a trust domain (TD) beside the host's FREEZE_IN_SMM. Each property has a module. None was
decided on hardware with TDX yet.
"""
