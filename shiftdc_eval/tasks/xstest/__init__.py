"""XSTest: safe prompts that look unsafe, and unsafe prompts that contrast with them."""
