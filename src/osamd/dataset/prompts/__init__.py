"""Prompts from files: boxes of detection data sets, and clicks."""
