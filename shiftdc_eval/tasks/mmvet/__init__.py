"""MM-Vet: open questions about images, graded against reference answers."""
