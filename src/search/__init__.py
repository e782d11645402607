"""The best model among given hyperparameters: `search`, and `compare` for any runs."""
