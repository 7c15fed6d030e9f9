"""Real clips -> ClipRecords: what is in a clip, where, and when."""
