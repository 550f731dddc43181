"""What is not shipped: tools for those who work on this project, or test other people's servers."""
