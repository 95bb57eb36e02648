"""MME: pairs of yes/no questions about images."""
