"""Grading of captures: which tests a recorded conversation amounts to, and how either side did."""
