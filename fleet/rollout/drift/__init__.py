"""What hosts should run held against what they say they run, and who looks."""
