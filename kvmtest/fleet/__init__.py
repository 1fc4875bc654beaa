"""Machines and kernels: a plan, its hosts, and a folder of the evidence that they leave."""
