"""What a checkpoint is once it leaves its pod: its manifest, and its sealed form."""
