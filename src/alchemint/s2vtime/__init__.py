"""S2VTime: is the right subject on screen, exactly when told? A benchmark for any system's videos."""
