"""The web page on which storyboards are written and their videos watched, and the server behind it."""
