"""Rectified flow and classifier-free guidance as pure functions on tensors."""
