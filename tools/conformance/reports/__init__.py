"""Reports of what was found, for people and for programs: a table, JUnit XML, a page, JSON."""
