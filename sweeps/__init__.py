"""W&B sweep definitions, and a runner that executes the same files where no server can be reached."""
