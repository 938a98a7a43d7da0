"""Pure code and small tools that more than one part uses; standard library only."""
