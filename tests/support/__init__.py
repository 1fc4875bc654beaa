"""What several tests share: stand-ins, made-up files, and readers of what kvmtest writes."""
