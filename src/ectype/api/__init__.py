"""The functions and classes that `ectype` exports. The command line parses, calls them, and prints."""
