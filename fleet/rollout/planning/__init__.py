"""What a rollout is to be: policy, waves, windows, the frozen plan. Values only; nothing here asks or acts."""
