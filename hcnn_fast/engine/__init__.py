"""What makes the search loop run: model preparation, memory planning, the ascent itself."""
