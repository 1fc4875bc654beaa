"""Bochs, the emulator of the lab's Intel machine."""
