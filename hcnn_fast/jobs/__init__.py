"""A defended batch job: the images it reads, what it does to a chunk, the rows it writes."""
